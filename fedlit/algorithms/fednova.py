"""FedNova: clients count by direction, not by how many steps they take. Wang et al., NeurIPS 2020."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from torch.optim import SGD

from fedlit.aggregation import Aggregation, Mean
from fedlit.algorithms.base import Algorithm, require_own_weights, step_towards
from fedlit.client import Client
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update


@dataclass(frozen=True)
class FedNova(Algorithm):
    """w <- w - (sum_i p_i a_i) sum_i p_i (w - w_i) / a_i.

    p_i is the client's share of the pictures, a_i the length of its steps: their number, or what that comes to with the
    momentum of SGD, of which nothing is kept between rounds. The sum is w + lr (mean - w), the mean by p_i / a_i and
    lr = (sum_i p_i a_i) (sum_i p_i / a_i), so that clients send what they do under FedAvg, and two numbers.
    """

    sends_training_alone: ClassVar[bool] = True

    aggregate: Aggregation = field(default_factory=partial(Mean, by="reported"))

    def __post_init__(self) -> None:
        require_own_weights(self.aggregate, "FedNova")

    def problems(self, settings: Mapping[str, Any]) -> Iterator[str]:
        optimizer = settings["optimizer"]
        if optimizer.get("momentum") and settings["optimizer_state"] == "keep":
            yield "optimizer_state=keep is not allowed with momentum: FedNova counts none as kept; use recreate"
        for name in ("nesterov", "dampening"):
            if optimizer.get(name):
                yield f"optimizer.{name}={optimizer[name]} is not allowed: FedNova counts steps without; leave it out"

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(broadcast.weights)
        client.fit(broadcast.round)
        optimizer = client.make_optimizer(broadcast.round)
        momentum = optimizer.defaults["momentum"] if isinstance(optimizer, SGD) else 0.0
        length = length_of_steps(client.plan.num_steps(client.site), momentum)
        numbers = {"coefficient": len(client.site.train) / length, "length_of_steps": length}
        return client.update(numbers=numbers), client.memory

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        total = sum(report.num_samples for report in aggregate.reports)
        lengths = [(report.num_samples / total, report.scalars["length_of_steps"]) for report in aggregate.reports]
        lr = math.fsum(share * length for share, length in lengths) * math.fsum(
            share / length for share, length in lengths
        )
        return step_towards(server, aggregate, lr)


def length_of_steps(num_steps: int, momentum: float = 0.0) -> float:
    """|a|_1 of Wang et al., section 4.1: (K - rho (1 - rho^K) / (1 - rho)) / (1 - rho), rho the momentum."""
    return (num_steps - momentum * (1 - momentum**num_steps) / (1 - momentum)) / (1 - momentum)
