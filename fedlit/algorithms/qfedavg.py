"""q-FedAvg: clients with a higher loss count more. Li et al., ICLR 2020."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from fedlit.aggregation import Aggregation, Mean
from fedlit.algorithms.base import Algorithm, require, require_own_weights, step_towards
from fedlit.client import Client
from fedlit.errors import ClientFailed
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update

TINY = 1e-10
"""Added to a loss, as in the released code: one of 0 has no negative power."""


@dataclass(frozen=True)
class QFedAvg(Algorithm):
    """w <- w - sum_k F_k^q L (w - w_k) / sum_k h_k, h_k = q F_k^(q-1) L^2 |w - w_k|^2 + L F_k^q.

    F_k is the client's mean loss over its training pictures at w. The sum is w + lr (mean - w), the mean by F_k^q and
    lr = L sum_k F_k^q / sum_k h_k, so that clients send what they do under FedAvg, and two numbers. q 0 is FedAvg with
    uniform weights.

    Args:
        q: how much fairness counts.
        lipschitz: L, how fast gradients change. The paper takes 1 / lr of its plain SGD; with Adam, whose steps are as
            long as its lr and not as the gradient, that would all but stop the server.
    """

    neutral: ClassVar[Mapping[str, float]] = {"q": 0}

    aggregate: Aggregation = field(default_factory=partial(Mean, by="reported"))
    q: float = 0.1
    lipschitz: float = 1.0

    def __post_init__(self) -> None:
        require(q=(self.q, self.q >= 0, "0 or more"), lipschitz=(self.lipschitz, self.lipschitz > 0, "above 0"))
        require_own_weights(self.aggregate, "QFedAvg")

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(broadcast.weights)
        loss = client.loss_over(client.site.train) + TINY
        if loss <= 0:
            raise ClientFailed(f"its loss is {loss}: q-FedAvg needs one that is never below 0; choose another loss")
        client.fit(broadcast.round)
        return client.update(numbers=self.numbers(loss, client.distance(broadcast.weights))), client.memory

    def numbers(self, loss: float, distance: float) -> dict[str, float]:
        """F_k^q and h_k, by the loss F_k and the distance |w - w_k|."""
        curvature = self.q * loss ** (self.q - 1) * (self.lipschitz * distance) ** 2 + self.lipschitz * loss**self.q
        return {"coefficient": loss**self.q, "curvature": curvature}

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        coefficients, curvatures = (
            math.fsum(report.scalars[name] for report in aggregate.reports) for name in ("coefficient", "curvature")
        )
        return step_towards(server, aggregate, self.lipschitz * coefficients / curvatures)
