"""SCAFFOLD: control variates against client drift. Karimireddy et al., ICML 2020."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from fedlit.aggregation import Aggregation, Mean
from fedlit.algorithms.base import Algorithm, require, require_uniform, step_towards
from fedlit.client import Client
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update
from fedlit.weights import Weights, add, subtract, zeros_like


@dataclass(frozen=True)
class Scaffold(Algorithm):
    """Every local gradient is corrected by c - c_i, the server's control variate less the client's own.

    c_i becomes the mean of the gradients that the client met. With plain SGD that is the paper's option II,
    c_i - c + (x - y_i) / (K lr), and it holds for momentum, Adam and a clipped gradient too. Over the parameters.

    Args:
        lr: of the server.
    """

    sends_training_alone: ClassVar[bool] = True

    aggregate: Aggregation = field(default_factory=partial(Mean, by="uniform"))
    lr: float = 1.0

    def __post_init__(self) -> None:
        require(lr=(self.lr, self.lr > 0, "above 0"))
        require_uniform(self.aggregate, "SCAFFOLD")

    def broadcast(self, server: Server) -> Broadcast:
        return Broadcast(server.round, server.weights, server.slots)

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(broadcast.weights)
        old = client.here(client.memory.get("control", {}))
        correction = subtract(client.here(broadcast.slots.get("control", {})), old)
        control = fit_corrected(client, broadcast.round, correction)
        # `change`: a slot of the broadcast's name would be taken for a new value of that, and sent as its difference
        return client.update(change=subtract(control, old)), {**client.memory, "control": control}

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        change = aggregate.slots["change"]
        share = aggregate.num_clients / len(server.clients)
        control = add(server.slots.get("control") or zeros_like(change), change, scale=share)
        return replace(step_towards(server, aggregate, self.lr), slots={"control": control})


def fit_corrected(
    client: Client, round: int, correction: Weights, *, counts_correction: bool = False, **openings: Any
) -> dict[str, Tensor]:
    """Train for one round with `correction` added to every gradient; returns the mean of the gradients met.

    Args:
        counts_correction: it is a part of the gradients met.
    """
    parameters, num_steps = client.shared_parameters(), client.plan.num_steps(client.site)
    mean = zeros_like(correction)

    def correct(network: nn.Module) -> None:
        for name, parameter in parameters.items():
            if parameter.grad is None:
                continue
            met = parameter.grad + correction[name] if counts_correction else parameter.grad
            # 0 for NaN and Inf: a step that a loss scaler leaves out; where there is no scaler, they end the round
            mean[name].add_(met.nan_to_num(0.0, 0.0, 0.0), alpha=1 / num_steps)
            parameter.grad += correction[name]

    client.fit(round, correct=correct, **openings)
    return mean
