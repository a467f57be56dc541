"""APFL: the personal model is a mixture of an own one and the global one. Deng et al., arXiv 2003.13461."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedlit.algorithms.base import require
from fedlit.algorithms.personalising import Personalising, train_apart
from fedlit.client import Client
from fedlit.messages import Broadcast, Slots
from fedlit.training_state import OF_TRAINING
from fedlit.weights import Weights, beside, lerp, zeros_like

LEAST = 0.01
"""The share of its own model that a client keeps at least while it learns the share."""


@dataclass(frozen=True)
class APFL(Personalising):
    """min_v F_k(alpha v + (1 - alpha) w) at every site, v its own model and w its local one of the federation.

    The mixture is the personal model, and v goes on from round to round. Here v is trained after w and with w at rest;
    in the paper they take their steps together. alpha 1 is what the site learns alone. Weight decay is the mixture's.

    Args:
        alpha: share of v, in the first round where it is learnt.
        alpha_lr: step of alpha a round, down the mean gradient that v met; 0 leaves it as it is.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"alpha": 1.0}

    alpha: float = 0.5
    alpha_lr: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            alpha=(self.alpha, 0 < self.alpha <= 1, "above 0, at most 1"),
            alpha_lr=(self.alpha_lr, self.alpha_lr >= 0, "0 or more"),
        )

    def personalise(self, client: Client, broadcast: Broadcast, memory: Slots) -> Slots:
        local = client.weights()
        own = beside(memory.get("own", broadcast.weights), local)
        alpha = memory["mixture"]["alpha"].item() if "mixture" in memory else self.alpha
        before = {slot: memory[f"personal_{slot}"] for slot in OF_TRAINING if f"personal_{slot}" in memory}
        plan = replace(client.plan, optimizer=partial(slower, client.plan.optimizer, alpha))
        met = zeros_like(client.resident.parameters)
        correct = as_seen_by_own(client, alpha, met)
        mixed, after = train_apart(client, lerp(local, own, alpha), broadcast.round, before, plan=plan, correct=correct)
        # statistics are those of the mixture: taken apart, a variance could become negative
        apart = {name: torch.lerp(local[name], mixed[name], 1 / alpha) for name in client.resident.parameters}
        learnt = self.next_share(alpha, apart, local, met)
        return {
            "personal": mixed,
            "own": {**mixed, **apart},
            "mixture": {"alpha": torch.tensor(learnt, dtype=torch.float64), "share": torch.tensor(alpha)},
            **{f"personal_{slot}": values for slot, values in after.items()},
        }

    def next_share(self, alpha: float, own: Weights, local: Weights, gradient: Weights) -> float:
        """alpha - alpha_lr <v - w, gradient of the mixture>, from LEAST to 1."""
        if not self.alpha_lr:
            return alpha
        slope = sum(((own[name] - local[name]) * gradient[name]).sum().item() for name in gradient)
        return min(1.0, max(LEAST, alpha - self.alpha_lr * slope))


def slower(make: Callable[[Iterable[nn.Parameter]], Optimizer], share: float, parameters: Any) -> Optimizer:
    """A step of v moves the mixture by `share` of it."""
    optimizer = make(parameters)
    for group in optimizer.param_groups:
        group["lr"] *= share
    return optimizer


def as_seen_by_own(client: Client, share: float, met: dict[str, Tensor]) -> Callable[[nn.Module], None]:
    """Makes the mixture's gradients those of v; `met` becomes the mean of the mixture's own."""
    parameters, num_steps = client.resident.parameters, client.plan.num_steps(client.site)

    def correct(network: nn.Module) -> None:
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                met[name].add_(parameter.grad.nan_to_num(0.0, 0.0, 0.0), alpha=1 / num_steps)
                parameter.grad *= share

    return correct
