"""HarmoFL: each step takes the gradient a little way uphill, so that flat optima meet. Jiang et al., AAAI 2022."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from fedlit.aggregation import Aggregation, Mean
from fedlit.algorithms.base import Algorithm, require
from fedlit.algorithms.fedavg import FedAvg
from fedlit.client import Client
from fedlit.messages import Broadcast, Slots, Update

TINY = 1e-12
"""Added to a norm that is divided by."""


@dataclass(frozen=True)
class HarmoFL(Algorithm):
    """w <- optimizer(w, grad F_k(w + alpha g / |g|)), g = grad F_k(w), at every client; all count alike.

    The norm is over all trained parameters, and both gradients are those of the same batches. A step costs two. Running
    statistics move with both. This is the local half of the method; the other is the amplitude normalisation of
    pictures, `network.amplitude_norm` of the U-Net.

    Args:
        alpha: length of the way uphill. 0: FedAvg with uniform weights.
    """

    neutral: ClassVar[Mapping[str, float]] = {"alpha": 0}

    aggregate: Aggregation = field(default_factory=partial(Mean, by="uniform"))
    alpha: float = 0.05

    def __post_init__(self) -> None:
        require(alpha=(self.alpha, self.alpha >= 0, "0 or more"))

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(broadcast.weights)
        client.fit(broadcast.round, ascend=uphill(self.alpha) if self.alpha else None)
        return client.update(), client.memory

    server_update = FedAvg.server_update


def uphill(length: float) -> Callable[[nn.Module], Callable[[], None]]:
    """What moves a network's parameters so far along their gradients, and returns what moves them back.

    Not at all along gradients with NaN or Inf, which 16-mixed meets while its scaler looks for a scale: the statistics
    that move with the second pass would never recover.
    """

    @torch.no_grad()
    def ascend(network: nn.Module) -> Callable[[], None]:
        moved: list[torch.Tensor] = [value for value in network.parameters() if value.grad is not None]
        gradients = [value.grad for value in moved if value.grad is not None]
        before = [value.detach().clone() for value in moved]
        norm = torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in gradients]).double()).item()
        if math.isfinite(norm):
            torch._foreach_add_(moved, gradients, alpha=length / (norm + TINY))
        return partial(put_back, moved, before)

    return ascend


@torch.no_grad()
def put_back(moved: list[torch.Tensor], before: list[torch.Tensor]) -> None:
    torch._foreach_copy_(moved, before)
