"""What a start is: an algorithm whose one client is the server's own data; its model is the first global one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedlit.algorithms import Algorithm, FedAvg
from fedlit.client import Client
from fedlit.data.site import Site
from fedlit.messages import Broadcast, Server, Slots, Update
from fedlit.training import Batch


@dataclass(frozen=True)
class Study:
    """What the server's client learns from: its `train`, and its `val` to stop by; and what to report of it."""

    site: Site
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Start(Algorithm):
    """The server trains the first model on its own pictures; every client's training goes on from there.

    Args:
        num_rounds: passes over the server's pictures.
        patience: passes that bring no better loss on held-out pictures, after which it ends; None: never.
        lr: learning rate; None: the clients'.
    """

    num_rounds: int = 10
    patience: int | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.num_rounds < 0:
            raise ValueError(f"num_rounds={self.num_rounds!r} is not allowed; use 0 or more")

    @abstractmethod
    def study(self, site: Site, classes: tuple[str, ...], device: torch.device, seed: int) -> Study:
        """What the server's data are made into before the first pass."""

    def begin(self, server: Server, device: torch.device) -> Server:
        """The server before the first pass."""
        return server

    def objective(self, client: Client, network: nn.Module, batch: Batch) -> Tensor:
        """The mean loss over the pictures of a batch."""
        return client.objective(network, batch)

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(broadcast.weights)
        client.fit(broadcast.round, objective=partial(self.objective, client))
        return client.update(), client.memory

    server_update = FedAvg.server_update
