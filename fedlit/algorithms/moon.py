"""MOON: what a client sees in a picture is held near the global model's view of it. Li, He and Song, CVPR 2021."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fedlit.algorithms.base import Algorithm, require
from fedlit.algorithms.fedavg import FedAvg
from fedlit.client import Client
from fedlit.messages import Broadcast, Slots, Update
from fedlit.networks.representation import layer_of, outputs_of, pooled
from fedlit.training import Batch
from fedlit.weights import Weights

KEY = "algorithm.layer"


@dataclass(frozen=True)
class MOON(Algorithm):
    """The loss plus mu times -log(e^(s/t) / (e^(s/t) + e^(r/t))), from a client's second round on.

    s and r are the cosines between the picture's representation and that by the global model, and by the client's own
    last model. The representation is the output of one layer, averaged over the picture; there is no projection head.

    Args:
        temperature: t.
        layer: the name of that layer in the network; None: the one that the network calls its `representation`.
    """

    neutral: ClassVar[Mapping[str, float]] = {"mu": 0}

    mu: float = 1.0
    temperature: float = 0.5
    layer: str | None = None

    def __post_init__(self) -> None:
        require(
            mu=(self.mu, self.mu >= 0, "0 or more"), temperature=(self.temperature, self.temperature > 0, "above 0")
        )

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        layer = layer_of(client.network, self.layer, KEY)
        client.load(broadcast.weights)
        if not self.mu or "previous" not in client.memory:
            client.fit(broadcast.round)
        else:
            anchors = client.weights(), client.memory["previous"]
            with outputs_of(layer) as outputs:
                client.fit(broadcast.round, objective=self.contrastive(client, anchors, outputs))
        return client.update(), {**client.memory, "previous": client.weights()}

    server_update = FedAvg.server_update

    def contrastive(
        self, client: Client, anchors: tuple[Weights, Weights], outputs: list[Tensor]
    ) -> Callable[[nn.Module, Batch], Tensor]:
        """The objective; `anchors` are the global weights and the client's last ones, `outputs` the layer's so far."""
        device = next(client.network.parameters()).device
        of_global, of_last = ({name: value.to(device) for name, value in each.items()} for each in anchors)

        def objective(network: nn.Module, batch: Batch) -> Tensor:
            loss = client.objective(network, batch)
            own = pooled(outputs, KEY)
            client.network.eval()
            views = [self.view(client, weights, batch, outputs) for weights in (of_global, of_last)]
            client.network.train()
            near, far = (F.cosine_similarity(own, view) / self.temperature for view in views)
            return loss + self.mu * F.softplus(far - near).mean()

        return objective

    @torch.no_grad()
    def view(self, client: Client, weights: Weights, batch: Batch, outputs: list[Tensor]) -> Tensor:
        """The representation of a batch by other weights in the same network [B, channels]."""
        assert client.workbench is not None
        parameter = next(client.network.parameters())
        image = batch["image"].to(parameter.device, parameter.dtype, memory_format=client.memory_format)
        with client.workbench.fabric.autocast():
            functional_call(client.network, dict(weights), (image,))
        return pooled(outputs, KEY)
