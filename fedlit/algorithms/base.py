"""What an algorithm is: what a client does in a round, and what the server does with the outcome."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from fedlit.aggregation import Aggregation, Mean
from fedlit.client import Client
from fedlit.data.site import Site
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update
from fedlit.seeding import address


@dataclass(frozen=True)
class Sampling:
    """Who takes part in a round: everyone, a number or a fraction of the clients, drawn uniformly by (seed, round)."""

    clients_per_round: int | None = None
    fraction_train: float | None = None
    seed: int = 0

    def __call__(self, names: Sequence[str], round: int) -> list[str]:
        count = len(names)
        if self.clients_per_round is not None:
            count = min(count, self.clients_per_round)
        elif self.fraction_train is not None:
            count = max(1, math.ceil(count * self.fraction_train - 1e-9))
        return sorted(Random(address(self.seed, round, "cohort")).sample(sorted(names), count))


@dataclass(frozen=True)
class Algorithm(ABC):
    """A frozen value whose fields are its hyper-parameters; all state is in `Server` and in the clients' memory.

    Args:
        aggregate: makes one of the updates of a round.
    """

    aggregate: Aggregation = field(default_factory=Mean)

    @property
    def models(self) -> tuple[str, ...]:
        """The predictors that fit what this algorithm learns; the first one decides the kept round by validation."""
        return ("global",)

    def participants(self, sites: Sequence[Site]) -> list[Site]:
        """The sites that train, each as one client."""
        return list(sites)

    def cohort(self, server: Server, names: Sequence[str], sampling: Sampling) -> list[str]:
        """The clients of the coming round."""
        return sampling(names, server.round)

    def broadcast(self, server: Server) -> Broadcast:
        """What clients see of the server."""
        return Broadcast(server.round, server.weights)

    @abstractmethod
    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        """What a client sends, and what it remembers: new values, `client.memory` is not changed in place."""

    @abstractmethod
    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        """The server after the round; the loop counts the round."""
