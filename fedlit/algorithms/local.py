"""Local: every site trains alone and never shares; the lower reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlit.algorithms.base import Algorithm
from fedlit.client import Client
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update


@dataclass(frozen=True)
class Local(Algorithm):
    """Each site's own model goes on from where it was; only the common first state is shared, and no byte is sent."""

    sends_updates: ClassVar[bool] = False
    sends_training_alone: ClassVar[bool] = True

    @property
    def models(self) -> tuple[str, ...]:
        return ("personal",)

    def broadcast(self, server: Server) -> Broadcast:
        return Broadcast(server.round, {})

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(client.memory.get("personal", broadcast.weights))
        client.fit(broadcast.round)
        return client.update(weights={}), {**client.memory, "personal": client.weights()}

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        return server
