"""FedDC: each client learns its drift, and sends its model without it. Gao et al., CVPR 2022."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedlit.algorithms.base import Algorithm, require
from fedlit.algorithms.scaffold import fit_corrected
from fedlit.client import Client
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update
from fedlit.weights import add, subtract


@dataclass(frozen=True)
class FedDC(Algorithm):
    """min_w F_k(w) + alpha/2 |h_k + w - w_t|^2 + <g - g_k, w> at every client; it sends w_k + h_k.

    The drift h_k grows by w_k - w_t. g_k is the mean gradient of the client's last round, g that of all clients': with
    plain SGD -1 / (K lr) times the paper's local update, and fit for every optimizer. Over the parameters. alpha 0 is
    FedAvg, without drift.
    """

    sends_training_alone: ClassVar[bool] = True

    neutral: ClassVar[Mapping[str, float]] = {"alpha": 0}

    alpha: float = 0.01

    def __post_init__(self) -> None:
        require(alpha=(self.alpha, self.alpha >= 0, "0 or more"))

    def broadcast(self, server: Server) -> Broadcast:
        return Broadcast(server.round, server.weights, server.slots)

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        def pulled(network: nn.Module) -> Tensor:
            parts = [(drift[name] + value - start[name]).square().sum() for name, value in shared.items()]
            return self.alpha / 2 * torch.stack(parts).sum()

        client.load(broadcast.weights)
        if not self.alpha:
            client.fit(broadcast.round)
            return client.update(), client.memory
        shared, start = client.shared_parameters(), client.here(broadcast.weights)
        drift, own = (client.here(client.memory.get(slot, {})) for slot in ("drift", "gradient"))
        correction = subtract(client.here(broadcast.slots.get("gradient", {})), own)
        gradient = fit_corrected(client, broadcast.round, correction, counts_correction=True, penalty=pulled)
        update = client.update(gradient=gradient)
        drift = add(drift, subtract(client.here(update.weights), start))
        undrifted = {**update.weights, **add(client.here(update.weights), drift)}
        return replace(update, weights=undrifted), {**client.memory, "drift": drift, "gradient": gradient}

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        return replace(server, weights=aggregate.weights, slots=aggregate.slots)
