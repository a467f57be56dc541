"""The one network of a process, as a place for weights; which of its entries may stay at a site."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedlit.errors import BadInput
from fedlit.weights import Weights, select


class Resident:
    """The one network of a process, as a place to load weights into and read them from.

    Its entries are the trained parameters and the floating-point buffers of its state dict; frozen parameters and
    buffers that are not persistent (constants) are not touched. Integer buffers (counters) are set back to their first
    value by every `load`: they are never sent and never averaged.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        state = network.state_dict(keep_vars=True)
        buffers = {name: value for name, value in network.named_buffers() if name in state}
        self.parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
        self.buffers = {name: value for name, value in buffers.items() if value.is_floating_point()}
        self.entries = self.parameters | self.buffers
        self.counters = {name: value for name, value in buffers.items() if not value.is_floating_point()}
        self.first = self._copies(self.entries | self.counters)

    def trained(self) -> set[int]:
        """The trained parameters, by `id`."""
        return {id(value) for value in self.parameters.values()}

    def load(self, weights: Weights) -> None:
        """Set every entry: to its value in `weights`, else to its first value.

        Raises:
            BadInput: `weights` holds an unknown entry or one of another shape.
        """
        for name, value in weights.items():
            if name not in self.entries or value.shape != self.entries[name].shape:
                here = f"of shape {tuple(self.entries[name].shape)}" if name in self.entries else "absent"
                there = f"has shape {tuple(value.shape)}"
                raise BadInput(f"these weights are of another network: entry {name} {there}, here it is {here}")
        state = {**self.first, **weights}
        with torch.no_grad():
            torch._foreach_copy_([*self.entries.values()], [state[name] for name in self.entries])
            for name, counter in self.counters.items():
                counter.copy_(state[name])

    def begin_with(self, weights: Weights) -> None:
        """Let these be the first values of their entries. Raises as `load` does."""
        self.load(weights)
        self.first = self._copies(self.entries | self.counters)

    def read(self) -> dict[str, Tensor]:
        """A copy of every entry."""
        return self._copies(self.entries)

    @contextmanager
    def training_only(self, names: Collection[str] | None) -> Iterator[None]:
        """Gradients for these parameters alone (None: all); the backward pass ends where none of them lies below."""
        others = [] if names is None else [value for name, value in self.parameters.items() if name not in names]
        for value in others:
            value.requires_grad_(False)
        try:
            yield
        finally:
            for value in others:
                value.requires_grad_(True)

    @staticmethod
    def _copies(values: Weights) -> dict[str, Tensor]:
        return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in values.items()}


def check_keep_local(entries: Iterable[str], patterns: Sequence[str]) -> None:
    """Raises BadInput where a pattern matches nothing, or all patterns together match everything."""
    entries = {name: torch.empty(0) for name in entries}
    for pattern in patterns:
        if not select(entries, [pattern]):
            some = ", ".join([*entries][:3])
            raise BadInput(
                f"keep_local: {pattern!r} matches none of the network's {len(entries)} entries, such as {some}"
            )
    if patterns and len(select(entries, patterns)) == len(entries):
        named = ", ".join(patterns[:3]) + f" and {len(patterns) - 3} more" * (len(patterns) > 3)
        raise BadInput(
            f"keep_local: {named}, with what the algorithm keeps, keeps every entry local: nothing is left to share; "
            "use algorithm=local"
        )
