"""FedAvgM: FedAvg with momentum at the server. Hsu, Qi and Brown, arXiv 1909.06335, 2019."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedlit.algorithms.base import Algorithm, require, step
from fedlit.algorithms.fedavg import FedAvg
from fedlit.messages import Aggregate, Server
from fedlit.weights import add, subtract


@dataclass(frozen=True)
class FedAvgM(Algorithm):
    """v <- momentum v + (mean_k w_k - w), w <- w + lr v, over the parameters."""

    sends_training_alone: ClassVar[bool] = True

    neutral: ClassVar[Mapping[str, float]] = {"momentum": 0, "lr": 1}

    momentum: float = 0.9
    lr: float = 1.0

    def __post_init__(self) -> None:
        require(
            momentum=(self.momentum, 0 <= self.momentum < 1, "0 or more, below 1"), lr=(self.lr, self.lr > 0, "above 0")
        )

    local_update = FedAvg.local_update

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        start = server.trained(server.weights)
        velocity = subtract(server.trained(aggregate.weights), start)
        if "momentum" in server.slots:
            velocity = add(velocity, server.slots["momentum"], scale=self.momentum)
        return step(server, add(start, velocity, scale=self.lr), aggregate, slots={"momentum": velocity})
