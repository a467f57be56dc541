"""FedRep: each client fits its own head, then the shared representation. Collins et al., ICML 2021."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from fedlit.algorithms.base import Algorithm, require
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.fedper import head_of
from fedlit.client import Client
from fedlit.messages import Broadcast, Slots, Update
from fedlit.resident import Resident


@dataclass(frozen=True)
class FedRep(Algorithm):
    """FedPer in turns: the head alone over the shared representation, then the representation under that head.

    The representation is trained as much as the experiment says. Running statistics change in both turns. Clients count
    by their pictures, in the paper alike (`aggregate` uniform).

    Args:
        head: shell patterns of the head's entries; None: the layer that the network calls its `classifier`.
        head_epochs: passes over the site's pictures for the head, 10 in the paper. 0: both at once, which is FedPer.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"head_epochs": 0}
    keeps_local: ClassVar[bool] = True

    head: tuple[str, ...] | None = None
    head_epochs: int = 10

    def __post_init__(self) -> None:
        require(head_epochs=(self.head_epochs, self.head_epochs >= 0, "0 or more"))

    def kept(self, resident: Resident) -> tuple[str, ...]:
        return head_of(resident, self.head)

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(broadcast.weights)
        if not self.head_epochs:
            client.fit(broadcast.round)
            return client.update(), client.memory
        head = head_of(client.resident, self.head)
        body = [name for name in client.resident.parameters if name not in head]
        plan = replace(client.plan, epochs=self.head_epochs, steps=None)
        client.fit(broadcast.round, plan=plan, trained=head)
        client.fit(broadcast.round, trained=body)
        return client.update(), client.memory

    server_update = FedAvg.server_update
