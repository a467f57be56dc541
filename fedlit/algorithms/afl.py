"""AFL: the best model for the worst mixture of the clients. Mohri, Sivek and Suresh, ICML 2019."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from fedlit.aggregation import Aggregation, Mean
from fedlit.algorithms.base import Algorithm, require, require_own_weights
from fedlit.client import Client
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update


@dataclass(frozen=True)
class AFL(Algorithm):
    """min_w max_s sum_k s_k F_k(w): w <- sum_k s_k w_k, and the shares s climb along the clients' losses at w.

    Where only m of N clients take part, a loss counts N / m times, so that the step is right on average.

    Args:
        lr: of the shares.
        floor: the least share, in parts of an equal one; the paper's simplex has 0, but a client whose share is 0 would
            train for nothing.
    """

    aggregate: Aggregation = field(default_factory=partial(Mean, by="reported"))
    lr: float = 0.1
    floor: float = 0.001

    def __post_init__(self) -> None:
        require(lr=(self.lr, self.lr >= 0, "0 or more"), floor=(self.floor, 0 < self.floor <= 1, "above 0, at most 1"))
        require_own_weights(self.aggregate, "AFL")

    def broadcast(self, server: Server) -> Broadcast:
        return Broadcast(server.round, server.weights, scalars=shares(server))

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(broadcast.weights)
        loss = client.loss_over(client.site.train)
        client.fit(broadcast.round)
        numbers = {"coefficient": broadcast.scalars[client.site.name], "global_loss": loss}
        return client.update(numbers=numbers), client.memory

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        factor = self.lr * len(server.clients) / len(aggregate.reports)
        losses = {report.client: report.scalars["global_loss"] for report in aggregate.reports}
        climbed = {name: share + factor * losses.get(name, 0.0) for name, share in shares(server).items()}
        return replace(server, weights=aggregate.weights, scalars=nearest_shares(climbed, self.floor))


def shares(server: Server) -> dict[str, float]:
    """Every client's share; equal ones before the first round."""
    return {name: server.scalars.get(name, 1 / len(server.clients)) for name in sorted(server.clients)}


def nearest_shares(values: Mapping[str, float], floor: float = 0.0) -> dict[str, float]:
    """The nearest point that sums to 1 with no value below floor / N (Duchi et al., ICML 2008)."""
    least, free = floor / len(values), 1 - floor
    ordered = sorted(values.values(), reverse=True)
    excesses = [(math.fsum(ordered[:count]) - count * least - free) / count for count in range(1, len(ordered) + 1)]
    shift = max(excesses)
    return {name: least + max(0.0, value - least - shift) for name, value in values.items()}
