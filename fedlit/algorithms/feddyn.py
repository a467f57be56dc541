"""FedDyn: each client's loss is bent so that local and global minima agree. Acar et al., ICLR 2021."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedlit.aggregation import Aggregation, Mean
from fedlit.algorithms.base import Algorithm, require, require_uniform, step
from fedlit.client import Client
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update
from fedlit.weights import add, subtract, zeros_like


@dataclass(frozen=True)
class FedDyn(Algorithm):
    """min_w F_k(w) - <g_k, w> + alpha/2 |w - w_t|^2 at every client, g_k <- g_k - alpha (w_k - w_t) after it.

    The server: h <- h - alpha/N sum_k (w_k - w_t), w <- mean_k w_k - h / alpha, N counting all clients. Over the
    parameters. alpha 0 is FedAvg.
    """

    sends_training_alone: ClassVar[bool] = True

    neutral: ClassVar[Mapping[str, float]] = {"alpha": 0}

    aggregate: Aggregation = field(default_factory=partial(Mean, by="uniform"))
    alpha: float = 0.01

    def __post_init__(self) -> None:
        require(alpha=(self.alpha, self.alpha >= 0, "0 or more"))
        require_uniform(self.aggregate, "FedDyn")

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        def bent(network: nn.Module) -> Tensor:
            parts = [
                (self.alpha / 2 * (value - start[name]).square() - gradient[name] * value).sum()
                for name, value in shared.items()
            ]
            return torch.stack(parts).sum()

        client.load(broadcast.weights)
        shared, start = client.shared_parameters(), client.here(broadcast.weights)
        gradient = client.here(client.memory.get("gradient", {}))
        client.fit(broadcast.round, penalty=bent)
        gradient = add(gradient, subtract(client.here(client.weights()), start), scale=-self.alpha)
        return client.update(), {**client.memory, "gradient": gradient}

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        if not self.alpha:
            return replace(server, weights=aggregate.weights)
        mean = server.trained(aggregate.weights)
        moved = subtract(mean, server.trained(server.weights))
        share = aggregate.num_clients / len(server.clients)
        h = add(server.slots.get("h") or zeros_like(moved), moved, scale=-self.alpha * share)
        return step(server, add(mean, h, scale=-1 / self.alpha), aggregate, slots={"h": h})
