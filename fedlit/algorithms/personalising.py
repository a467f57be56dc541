"""Personal models beside a federation: what a client learns for itself, besides its part in any other algorithm."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fedlit.aggregation import Aggregation, Mean
from fedlit.algorithms.base import Algorithm, Sampling
from fedlit.algorithms.fedavg import FedAvg
from fedlit.client import Client
from fedlit.data.site import Site
from fedlit.errors import BadInput
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update
from fedlit.resident import Resident
from fedlit.signatures import CHANGES
from fedlit.training import LocalTraining
from fedlit.training_state import OF_TRAINING
from fedlit.weights import Weights


@dataclass(frozen=True)
class Personalising(Algorithm):
    """An algorithm beside which every client makes a personal model and remembers it; no round sends it.

    The federation is that of `inner`, bit for bit.

    Args:
        aggregate: instead of that of `inner`.
        inner: any algorithm that learns a global model.
    """

    aggregate: Aggregation = field(default=None, metadata={CHANGES: Mean})  # type: ignore[assignment]  # in __post_init__
    inner: Algorithm = field(default_factory=FedAvg)

    def __post_init__(self) -> None:
        if self.inner.models != ("global",) or not self.inner.sends_updates:
            kind = type(self.inner).__name__
            raise ValueError(
                f"inner={kind} learns no global model of members, or personal ones already; use fedavg, fedprox, ..."
            )
        if self.aggregate is None:
            object.__setattr__(self, "aggregate", self.inner.aggregate)
        else:
            object.__setattr__(self, "inner", replace(self.inner, aggregate=self.aggregate))

    @property
    def models(self) -> tuple[str, ...]:
        """The personal model, which the run is for and its kept round is chosen by; beside it the global one."""
        return ("personal", *self.inner.models)

    @property
    def exchanged(self) -> str:
        return self.inner.exchanged

    def participants(self, sites: Sequence[Site]) -> list[Site]:
        with named_inside():
            return self.inner.participants(sites)

    def kept(self, resident: Resident) -> tuple[str, ...]:
        with named_inside():
            return self.inner.kept(resident)

    def check_size(self, size: Sequence[int]) -> None:
        with named_inside():
            self.inner.check_size(size)

    def problems(self, settings: Mapping[str, Any]) -> Iterator[str]:
        yield from self.inner.problems(settings)

    def cohort(self, server: Server, names: Sequence[str], sampling: Sampling) -> list[str]:
        return self.inner.cohort(server, names, sampling)

    def broadcast(self, server: Server) -> Broadcast:
        return self.inner.broadcast(server)

    def older(self, server: Server, cohort: Sequence[str]) -> Mapping[str, Broadcast]:
        return self.inner.older(server, cohort)

    def num_begun_anew(self, server: Server, cohort: Sequence[str]) -> int:
        return self.inner.num_begun_anew(server, cohort)

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        whole = with_kept(client, broadcast)
        update, memory = self.inner.local_update(client, broadcast)
        return update, {**memory, **self.personalise(client, whole, memory)}

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        return self.inner.server_update(server, aggregate)

    @abstractmethod
    def personalise(self, client: Client, broadcast: Broadcast, memory: Slots) -> Slots:
        """What the client remembers of its own: its personal model in the slot `personal`, or what that is mixed of.

        That is the slot `average`, of which the newest global model takes the `share` of the slot `mixture`.

        Args:
            client: after its local update; the resident network holds what it has learnt locally.
            broadcast: the whole model that the round began with here, of which the client keeps some entries.
            memory: what it is about to remember, that of earlier rounds included.
        """


def with_kept(client: Client, broadcast: Broadcast) -> Broadcast:
    """A broadcast with the entries that the client keeps to itself, as they are before the round."""
    first = {name: client.resident.first[name] for name in client.resident.entries}
    return replace(broadcast, weights={**first, **broadcast.weights, **client.memory.get("kept", {})})


@contextmanager
def named_inside() -> Iterator[None]:
    """What the inner algorithm refuses names its keys as they are in the experiment."""
    try:
        yield
    except BadInput as error:
        raise BadInput(re.sub(r"^algorithm\.", "algorithm.inner.", str(error))) from error


def train_apart(
    client: Client, weights: Weights, round: int, memory: Slots, *, plan: LocalTraining | None = None, **fit: Any
) -> tuple[dict, Slots]:
    """Train from some weights on, beside the federation: the client's memory and report are afterwards as before.

    Args:
        weights: of all entries, those that are kept at the site included.
        memory: what this training remembers of its last round, such as the optimizer's state.
        plan: how much, instead of as much as in the federation.
        fit: openings of `fedlit.training.fit`.

    Returns the weights and what the training remembers.
    """
    before = client.memory, client.report
    client.memory = memory
    try:
        client.resident.load(weights)
        client.fit(round, plan=plan, **fit)
        return client.weights(), {slot: client.memory[slot] for slot in OF_TRAINING if slot in client.memory}
    finally:
        client.memory, client.report = before
