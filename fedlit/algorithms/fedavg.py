"""FedAvg: local training, then the mean of the weights. McMahan et al., AISTATS 2017."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedlit.algorithms.base import Algorithm
from fedlit.client import Client
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """w <- sum_k n_k/n w_k."""

    sends_training_alone: ClassVar[bool] = True

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(broadcast.weights)
        client.fit(broadcast.round)
        return client.update(), client.memory

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        return replace(server, weights=aggregate.weights)
