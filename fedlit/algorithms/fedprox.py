"""FedProx: FedAvg with a proximal pull. Li et al., MLSys 2020."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedlit.algorithms.base import Algorithm, require
from fedlit.algorithms.fedavg import FedAvg
from fedlit.client import Client
from fedlit.messages import Broadcast, Slots, Update
from fedlit.weights import Weights, beside


@dataclass(frozen=True)
class FedProx(Algorithm):
    """min_w F_k(w) + mu/2 |w - w_t|^2 at every client, over the trained parameters that are shared."""

    sends_training_alone: ClassVar[bool] = True

    neutral: ClassVar[Mapping[str, Any]] = {"mu": 0}

    mu: float = 0.01

    def __post_init__(self) -> None:
        require(mu=(self.mu, self.mu >= 0, "0 or more"))

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(broadcast.weights)
        client.fit(broadcast.round, penalty=proximal(broadcast.weights, self.mu))
        return client.update(), client.memory

    server_update = FedAvg.server_update


def proximal(start: Weights, strength: float) -> Callable[[nn.Module], Tensor]:
    """network -> strength/2 |w - start|^2 over those trained parameters w that `start` holds."""
    anchor: dict[str, Tensor] = {}  # on the network's device, from the first step on

    def penalty(network: nn.Module) -> Tensor:
        held = {name: value for name, value in network.named_parameters() if name in start}
        if not anchor:
            anchor.update(beside({name: start[name] for name in held}, held))
        return strength / 2 * torch.stack([(value - anchor[name]).square().sum() for name, value in held.items()]).sum()

    return penalty
