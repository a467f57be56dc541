"""FedPer: the head of the network stays at its site. Arivazhagan et al., arXiv 1912.00818."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fedlit.algorithms.base import Algorithm
from fedlit.algorithms.fedavg import FedAvg
from fedlit.errors import BadInput
from fedlit.resident import Resident
from fedlit.weights import select


@dataclass(frozen=True)
class FedPer(Algorithm):
    """FedAvg of the base layers; the personal layers are trained along with them and go on from round to round.

    Args:
        head: shell patterns of the personal layers' entries; None: the layer that the network calls its `classifier`.
    """

    sends_training_alone: ClassVar[bool] = True

    keeps_local: ClassVar[bool] = True

    head: tuple[str, ...] | None = None

    def kept(self, resident: Resident) -> tuple[str, ...]:
        return head_of(resident, self.head)

    local_update = FedAvg.local_update
    server_update = FedAvg.server_update


def head_of(resident: Resident, patterns: Sequence[str] | None) -> tuple[str, ...]:
    """The entries of a network's head: those that match the patterns, by default those of its `classifier`.

    Raises:
        BadInput: a pattern matches nothing, or the head is the whole network, or the network names no head.
    """
    entries, kind = resident.entries, type(resident.network).__name__
    some = ", ".join([*entries][-3:])
    if patterns is None:
        layer = getattr(resident.network, "classifier", None)
        if not isinstance(layer, nn.Module):
            raise BadInput(
                f"algorithm.head: is not set, and no `classifier` is named by {kind}; give patterns of the head's "
                f"entries; the last ones here are {some}"
            )
        inside = {id(value) for value in (*layer.parameters(), *layer.buffers())}
        found = [name for name, value in entries.items() if id(value) in inside]
    else:
        for pattern in patterns:
            if not select(entries, [pattern]):
                raise BadInput(
                    f"algorithm.head: {pattern!r} matches none of the network's {len(entries)} entries, such as {some}"
                )
        found = [*select(entries, patterns)]
    if 0 < len(found) < len(entries):
        return tuple(found)
    given = "the classifier" if patterns is None else list(patterns)
    what = "nothing that is trained" if not found else "all that is trained"
    raise BadInput(f"algorithm.head: {given} is {what} of {kind}; the head is to be a part of it; give other patterns")
