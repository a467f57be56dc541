"""Attacks on updates: the member trains, and sends something else."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedlit.attacks.base import Attack, Honest
from fedlit.client import Client
from fedlit.messages import Broadcast, Slots, Update
from fedlit.seeding import address
from fedlit.weights import add, subtract

Falsify = Callable[[str, Tensor], Tensor]
"""(name of an entry, the change that training brought) -> the change that is sent."""


class FalseUpdate(Attack):
    """What is sent instead of an honest change of the weights."""

    @abstractmethod
    def falsify(self, client: Client, round: int) -> Falsify:
        """How this client changes its update of this round."""

    def local_update(self, client: Client, broadcast: Broadcast, honest: Honest) -> tuple[Update, Slots]:
        update, memory = honest(client, broadcast)
        start = {name: broadcast.weights[name].to(value.device) for name, value in update.weights.items()}
        falsify = self.falsify(client, broadcast.round)
        changes = {name: falsify(name, change) for name, change in subtract(update.weights, start).items()}
        return replace(update, weights=add(start, changes)), memory


@dataclass(frozen=True)
class Scaled(FalseUpdate):
    """The change times `factor`."""

    factor: float = 10.0

    def __post_init__(self) -> None:
        check_finite("factor", self.factor)

    def falsify(self, client: Client, round: int) -> Falsify:
        return lambda name, change: self.factor * change


@dataclass(frozen=True)
class SignFlip(FalseUpdate):
    """The change times -`factor`: away from what is learnt."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        check_finite("factor", self.factor)

    def falsify(self, client: Client, round: int) -> Falsify:
        return lambda name, change: -self.factor * change


@dataclass(frozen=True)
class Gaussian(FalseUpdate):
    """Noise in the place of the change, of standard deviation `deviation`; other noise in every round."""

    deviation: float = 0.1

    def __post_init__(self) -> None:
        check_finite("deviation", self.deviation)
        if self.deviation < 0:
            raise ValueError(f"deviation={self.deviation!r} is not allowed; use 0 or more")

    def falsify(self, client: Client, round: int) -> Falsify:
        def noise(name: str, change: Tensor) -> Tensor:
            seed = address(client.plan.seed, client.site.seed_name, round, "attack", name)
            drawn = torch.randn(change.shape, generator=torch.Generator().manual_seed(seed))
            return (self.deviation * drawn).to(change)

        return noise


def check_finite(name: str, value: float) -> None:
    """Raises ValueError where it is no number."""
    if not math.isfinite(value):
        raise ValueError(f"{name}={value!r} is not allowed; use a finite number")
