"""FedProx: FedAvg with a proximal pull. Li et al., MLSys 2020."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlit.algorithms.base import Algorithm
from fedlit.algorithms.fedavg import FedAvg
from fedlit.client import Client
from fedlit.messages import Broadcast, Slots, Update


@dataclass(frozen=True)
class FedProx(Algorithm):
    """min_w F_k(w) + mu/2 |w - w_t|^2 at every client, over the trained parameters that are shared."""

    mu: float = 0.01

    def __post_init__(self) -> None:
        if not self.mu >= 0:
            raise ValueError(f"mu={self.mu!r} is not allowed; use 0 or more")

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        def proximal(network: nn.Module) -> Tensor:
            shared = {name: value for name, value in network.named_parameters() if name in start}
            return (
                self.mu
                / 2
                * torch.stack([(value - start[name]).square().sum() for name, value in shared.items()]).sum()
            )

        client.load(broadcast.weights)
        start = {name: value.to(client.device) for name, value in broadcast.weights.items()}
        client.fit(broadcast.round, penalty=proximal)
        return client.update(), client.memory

    server_update = FedAvg.server_update
