"""Attacks on labels: the member trains as it should, on masks that are wrong."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from fedlit.attacks.base import Attack, Honest, acting_as
from fedlit.client import Client
from fedlit.messages import Broadcast, Slots, Update
from fedlit.training import Batch


class FalseLabels(Attack):
    """Other masks than those of the site, in every batch."""

    @abstractmethod
    def falsify(self, target: Tensor) -> Tensor:
        """target [B, K, H, W] of 0 and 1 -> such a target."""

    def local_update(self, client: Client, broadcast: Broadcast, honest: Honest) -> tuple[Update, Slots]:
        def objective(network: nn.Module, batch: Batch) -> Tensor:
            return client.objective(network, {**batch, "target": self.falsify(batch["target"])})

        return honest(acting_as(client, objective=objective), broadcast)


@dataclass(frozen=True)
class LabelFlip(FalseLabels):
    """Background becomes the first class, each class the next one, and the last one background."""

    def falsify(self, target: Tensor) -> Tensor:
        background = 1 - target.amax(1, keepdim=True)
        return torch.cat([background, target[:, :-1]], dim=1)


@dataclass(frozen=True)
class MaskErosion(FalseLabels):
    """Every class loses `radius` pixels at its border: the member draws too small."""

    radius: int = 3

    def __post_init__(self) -> None:
        if self.radius < 1:
            raise ValueError(f"radius={self.radius!r} is not allowed; use 1 or more")

    def falsify(self, target: Tensor) -> Tensor:
        return 1 - max_pool2d(1 - target, 2 * self.radius + 1, stride=1, padding=self.radius)
