"""FedAdam, FedYogi, FedAdagrad: adaptive steps at the server. Reddi et al., ICLR 2021."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlit.algorithms.base import Algorithm, require, step
from fedlit.algorithms.fedavg import FedAvg
from fedlit.messages import Aggregate, Server
from fedlit.weights import combine, lerp, subtract


@dataclass(frozen=True)
class FedOpt(Algorithm):
    """The mean change d of the clients is a gradient: m <- beta1 m + (1 - beta1) d, w <- w + lr m / (sqrt(v) + tau).

    No bias correction, as in the paper's Algorithm 2; m starts at 0 and v at tau^2. A large tau makes it SGD.
    Clients count by their pictures; in Algorithm 2 they count alike (`aggregate` uniform).

    Args:
        lr: of the server. The paper tunes it from 1e-3 to 10.
        beta1: decay of m.
        tau: how little a change may be to count in full.
    """

    sends_training_alone: ClassVar[bool] = True

    lr: float = 0.01
    beta1: float = 0.9
    tau: float = 1e-3

    def __post_init__(self) -> None:
        require(
            lr=(self.lr, self.lr > 0, "above 0"),
            beta1=(self.beta1, 0 <= self.beta1 < 1, "0 or more, below 1"),
            tau=(self.tau, self.tau > 0, "above 0"),
        )

    @abstractmethod
    def second_moment(self, before: Tensor, square: Tensor) -> Tensor:
        """v, from v before and d^2."""

    local_update = FedAvg.local_update

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        start = server.trained(server.weights)
        change = subtract(server.trained(aggregate.weights), start)
        first = server.slots.get("first_moment") or combine(torch.zeros_like, start)
        second = server.slots.get("second_moment") or combine(lambda value: torch.full_like(value, self.tau**2), start)
        first = lerp(change, first, self.beta1)
        second = combine(lambda v, d: self.second_moment(v, d.square()), second, change)
        moved = combine(lambda w, m, v: w + self.lr * m / (v.sqrt() + self.tau), start, first, second)
        return step(server, moved, aggregate, slots={"first_moment": first, "second_moment": second})


@dataclass(frozen=True)
class FedAdagrad(FedOpt):
    """v <- v + d^2."""

    neutral: ClassVar[Mapping[str, float]] = {"beta1": 0, "tau": 1e6, "lr": 2e6}

    beta1: float = 0.0

    def second_moment(self, before: Tensor, square: Tensor) -> Tensor:
        return before + square


@dataclass(frozen=True)
class Decaying(FedOpt):
    """An adaptive step whose v forgets.

    Args:
        beta2: decay of v.
    """

    neutral: ClassVar[Mapping[str, float]] = {"beta1": 0, "beta2": 0.999999, "tau": 1e6, "lr": 2e6}

    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        require(beta2=(self.beta2, 0 <= self.beta2 < 1, "0 or more, below 1"))


@dataclass(frozen=True)
class FedAdam(Decaying):
    """v <- beta2 v + (1 - beta2) d^2."""

    def second_moment(self, before: Tensor, square: Tensor) -> Tensor:
        return torch.lerp(square, before, self.beta2)


@dataclass(frozen=True)
class FedYogi(Decaying):
    """v <- v - (1 - beta2) d^2 sign(v - d^2)."""

    def second_moment(self, before: Tensor, square: Tensor) -> Tensor:
        return before - (1 - self.beta2) * square * torch.sign(before - square)
