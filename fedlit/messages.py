"""All that crosses between a site and the server: frozen records of named tensors, and their form on the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor

from fedlit.weights import Weights, num_bytes

Slots = Mapping[str, Weights]
"""What an algorithm keeps beside the weights, by name: `{"momentum": {...}}`."""


@dataclass(frozen=True)
class Server:
    """Everything the server remembers.

    `weights` are the shared entries: trained parameters and, unless kept local, float buffers.

    Args:
        clients: the names of all clients, in a round's cohort or not.
        buffers: the entries that are no parameters: they are averaged, and no step is taken along them.
    """

    weights: Weights
    round: int = 0
    slots: Slots = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    clients: Sequence[str] = ()
    buffers: Sequence[str] = ()

    def trained(self, weights: Weights) -> dict[str, Tensor]:
        """The parameters among shared entries."""
        return {name: value for name, value in weights.items() if name not in self.buffers}


@dataclass(frozen=True)
class Broadcast:
    """Everything clients see of the server.

    Entries that `weights` leaves out start from the network's first state, which all sites share.
    """

    round: int
    weights: Weights
    slots: Slots = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """Everything one client sends: tensors, the number of its training pictures, scalars such as its mean loss."""

    client: str
    num_samples: int
    weights: Weights
    slots: Slots = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Expert:
    """What a member shares once, after the kept round, where the experiment says so: the model of its own.

    `scalars["share"]` is how much of that is in its personal model, all where it is absent; the rest of that is the
    global model that the kept round ended with.
    Other scalars may tell how models and predictors do on validation cases, and `slots["features"]` hold statistics of
    the member's pictures.
    """

    client: str
    weights: Weights
    slots: Slots = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What the server keeps of one update beside the aggregate."""

    client: str
    num_samples: int
    num_bytes: int
    seconds: float
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Aggregate:
    """What an aggregation rule makes of a round's updates. `dropped` names the clients that failed and the reason.

    Args:
        root: of the server's own training, where the rule compares updates with it; it is no client's.
        screened: what the rule did to clients whose updates it had doubts about: `dropped` or `clipped`.
        counts_dropped: the clients that failed are in the mean, too, as some that changed nothing.
    """

    weights: Weights
    slots: Slots = field(default_factory=dict)
    reports: tuple[Report, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    root: Report | None = None
    screened: Mapping[str, str] = field(default_factory=dict)
    counts_dropped: bool = False

    @property
    def num_clients(self) -> int:
        """How many clients it is the mean of."""
        return len(self.reports) + (len(self.dropped) if self.counts_dropped else 0)


Record = TypeVar("Record", Server, Broadcast, Update, Expert, Aggregate)


def tensors(message: Any) -> dict[str, Tensor]:
    """The tensors of a message under flat names: `weights/conv.bias`, `slots/momentum/conv.bias`."""
    return flatten({"weights": message.weights, "slots": flatten(message.slots)})


def header(message: Any) -> dict[str, Any]:
    """What is not a tensor, as JSON values."""
    assert is_dataclass(message)
    names = [part.name for part in fields(message) if part.name not in ("weights", "slots")]
    plain = {name: getattr(message, name) for name in names}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in plain.items()}


def restore(kind: type[Record], header: Mapping[str, Any], flat: Weights) -> Record:
    """The message that `header` and `tensors` were taken from."""
    parts = unflatten(flat)
    return kind(weights=parts.get("weights", {}), slots=unflatten(parts.get("slots", {})), **header)


def flatten(slots: Slots) -> dict[str, Tensor]:
    """The tensors of all slots under flat names: `momentum/conv.bias`."""
    return {f"{slot}/{entry}": value for slot, values in slots.items() for entry, value in values.items()}


def unflatten(flat: Weights) -> dict[str, dict[str, Tensor]]:
    """The slots that `flatten` made one of; those without an entry are gone."""
    slots: dict[str, dict[str, Tensor]] = {}
    for name, value in flat.items():
        slot, entry = name.split("/", 1)
        slots.setdefault(slot, {})[entry] = value
    return slots


def size(message: Any) -> int:
    """Bytes of the tensors of a message: what is sent, but for a few hundred bytes of names."""
    return num_bytes(tensors(message))
