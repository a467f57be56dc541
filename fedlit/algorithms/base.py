"""What an algorithm is: what a client does in a round, and what the server does with the outcome."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ClassVar

from fedlit.aggregation import ROOT, Aggregation, Mean
from fedlit.aggregation.base import nested
from fedlit.client import Client
from fedlit.data.site import Site
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update
from fedlit.resident import Resident
from fedlit.seeding import address
from fedlit.weights import Weights, lerp


@dataclass(frozen=True)
class Sampling:
    """Who takes part in a round: everyone, a number or a fraction of the clients, drawn uniformly by (seed, round)."""

    clients_per_round: int | None = None
    fraction_train: float | None = None
    seed: int = 0

    def __call__(self, names: Sequence[str], round: int) -> list[str]:
        root = [name for name in names if name == ROOT]  # takes part in every round
        names = [name for name in names if name != ROOT]
        count = len(names)
        if self.clients_per_round is not None:
            count = min(count, self.clients_per_round)
        elif self.fraction_train is not None:
            count = max(1, math.ceil(count * self.fraction_train - 1e-9))
        return sorted(Random(address(self.seed, round, "cohort")).sample(sorted(names), count) + root)


@dataclass(frozen=True)
class Algorithm(ABC):
    """A frozen value whose fields are its hyper-parameters; all state is in `Server` and in the clients' memory.

    Args:
        aggregate: makes one of the updates of a round.
    """

    neutral: ClassVar[Mapping[str, Any]] = {}
    """The hyper-parameters that switch the method off: one client then learns what it would by itself."""

    keeps_local: ClassVar[bool] = False
    """Members keep some entries by themselves, beside those of the experiment's `keep_local`."""

    sends_updates: ClassVar[bool] = True
    """Members send what they have learnt, each its own."""

    sends_training_alone: ClassVar[bool] = False
    """All that leaves a site is made of what it was sent and of what one call of `client.fit` makes of that, the number
    of its pictures and the loss told; what is told of pictures otherwise gets no noise with `privacy`."""

    aggregate: Aggregation = field(default_factory=Mean)

    @property
    def models(self) -> tuple[str, ...]:
        """The predictors that fit what this algorithm learns; the first one decides the kept round by validation."""
        return ("global",)

    @property
    def exchanged(self) -> str:
        """What sites tell of their pictures beside weights and numbers of their training; empty where nothing."""
        return ""

    def participants(self, sites: Sequence[Site]) -> list[Site]:
        """The sites that train, each as one client."""
        return list(sites)

    def kept(self, resident: Resident) -> tuple[str, ...]:
        """The entries of this network that stay at their site, beside those of the experiment's `keep_local`.

        Raises:
            BadInput: the network has none such.
        """
        return ()

    def check_size(self, size: Sequence[int]) -> None:  # noqa: B027 (most take any)
        """Raises BadInput where training pictures of this (H, W) are too small."""

    def problems(self, settings: Mapping[str, Any]) -> Iterator[str]:
        """What of an experiment's settings, by key, does not go together with it."""
        yield from ()

    def cohort(self, server: Server, names: Sequence[str], sampling: Sampling) -> list[str]:
        """The clients of the coming round."""
        return sampling(names, server.round)

    def broadcast(self, server: Server) -> Broadcast:
        """What clients see of the server."""
        return Broadcast(server.round, server.weights)

    def older(self, server: Server, cohort: Sequence[str]) -> Mapping[str, Broadcast]:
        """What those clients of the cohort have seen that began before this round; all others see `broadcast`."""
        return {}

    def num_begun_anew(self, server: Server, cohort: Sequence[str]) -> int:
        """How many updates were lost and begun again with this round's broadcast, before those of the cohort came."""
        return 0

    @abstractmethod
    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        """What a client sends, and what it remembers: new values, `client.memory` is not changed in place."""

    @abstractmethod
    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        """The server after the round; the loop counts the round."""


def step(server: Server, parameters: Weights, aggregate: Aggregate, **changes: Any) -> Server:
    """The server with other parameters; buffers are those of the aggregate, for no step may make a variance negative.

    Args:
        changes: further fields, such as `slots`.
    """
    return replace(server, weights={**aggregate.weights, **parameters}, **changes)


def step_towards(server: Server, aggregate: Aggregate, lr: float) -> Server:
    """w + lr (mean - w), exactly the mean where `lr` is 1."""
    return step(server, lerp(server.trained(server.weights), server.trained(aggregate.weights), lr), aggregate)


def require(**holds: tuple[float, bool, str]) -> None:
    """Raises ValueError for the first of the arguments (value, whether it is allowed, what is) that is not allowed.

    NaN and Inf never are.
    """
    for name, (value, is_allowed, allowed) in holds.items():
        if not math.isfinite(value):
            raise ValueError(f"{name}={value!r} is not allowed; use a finite number, {allowed}")
        if not is_allowed:
            raise ValueError(f"{name}={value!r} is not allowed; use {allowed}")


def require_uniform(aggregate: Aggregation, kind: str) -> None:
    """Raises ValueError where a rule weighs clients, or one inside it: the method's state is that of equal weights."""
    if any(isinstance(rule, Mean) and rule.by != "uniform" for rule in nested(aggregate)):
        raise ValueError(
            f"aggregate={aggregate!r} is not allowed: {kind} corrects the mean in which all clients count alike; use "
            "by=uniform"
        )


def require_own_weights(aggregate: Aggregation, kind: str) -> None:
    """Raises ValueError where another rule is asked to weigh the updates than the algorithm's own."""
    if aggregate != Mean(by="reported"):
        raise ValueError(
            f"aggregate={aggregate!r} is not allowed: {kind} weighs updates by its own formula; leave it out"
        )
