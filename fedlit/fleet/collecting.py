"""How a round's updates are collected: added up as they come, or kept until the rule has seen them all."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fedlit.aggregation import ROOT, Aggregation, Chosen, Coefficient, Comparing, Differences, PerCoordinate
from fedlit.aggregation.base import check_stretched
from fedlit.errors import BadInput
from fedlit.fleet.exchange import mean_of_all
from fedlit.fleet.rows import Rows
from fedlit.fleet.world import World
from fedlit.messages import Broadcast, Update, tensors
from fedlit.weights import WeightedSum, Weights, check_finite, flattened, shaped


class Outcome(NamedTuple):
    """What became of a round's updates: tensors by their flat names; the clients that the rule dropped or clipped."""

    tensors: dict[str, Tensor]
    dropped: Mapping[str, str]
    clipped: Mapping[str, str]

    def screened(self) -> dict[str, str]:
        """Which of the two became of whom; what the server trains itself is no client's."""
        found = {**dict.fromkeys(self.clipped, "clipped"), **dict.fromkeys(self.dropped, "dropped")}
        return {name: what for name, what in found.items() if name != ROOT}


class Collected(Protocol):
    """The updates that were made here, and what the processes make of those of all."""

    def add(self, update: Update) -> None: ...

    def part(self) -> Any: ...

    def outcome(self, parts: Sequence[Any]) -> Outcome: ...


def collecting(
    rule: Aggregation, coefficient: Coefficient, broadcast: Broadcast, buffers: Collection[str], world: World
) -> Collected:
    """What a rule needs. `coefficient` is the rule's for this round, `buffers` names the float buffers."""
    if isinstance(rule, Comparing):
        return Kept(rule, coefficient, broadcast, buffers, world)
    return Summed(coefficient, world)


class Summed:
    """Updates added up as they come: memory does not grow with their number."""

    def __init__(self, coefficient: Coefficient, world: World):
        self.coefficient, self.world = coefficient, world
        self.total = WeightedSum()
        self.coefficients: list[float] = []

    def add(self, update: Update) -> None:
        coefficient = self.coefficient(update)
        self.total.add(tensors(update), coefficient)
        self.coefficients.append(coefficient)

    def part(self) -> tuple[Weights | None, list[float]]:
        """What the other processes need to know of this one's."""
        return self.total.like, self.coefficients

    def outcome(self, parts: Sequence[tuple[Weights | None, list[float]]]) -> Outcome:
        """The mean over the updates of all processes, whose `parts` these are."""
        like = next(like for like, _ in parts if like is not None)
        have_terms = [bool(part) for _, part in parts]
        divisor = math.fsum(value for _, part in parts for value in part)
        return Outcome(mean(self.total, like, have_terms, self.world, divisor), {}, {})


def mean(
    total: WeightedSum, like: Weights, have_terms: Sequence[bool], world: World, divisor: float
) -> dict[str, Tensor]:
    """The mean over the terms of all processes; `divisor` is the sum of all coefficients."""
    if world.size == 1:
        return total.mean(divisor)
    if total.like is None:
        total = WeightedSum.zeros(like, world.fabric.device)
    try:
        return mean_of_all(total, have_terms, world.place, divisor)
    except RuntimeError as error:
        raise world.lookout.explain(error) from error


@dataclass
class Kept:
    """All updates, kept on the CPU until the rule has seen them; memory grows with the clients of a process.

    Args:
        buffers: the entries that are float buffers.
    """

    rule: Comparing
    coefficient: Coefficient
    broadcast: Broadcast
    buffers: Collection[str]
    world: World
    like: Weights | None = None
    rows: dict[str, Tensor] = field(default_factory=dict)
    coefficients: dict[str, float] = field(default_factory=dict)

    def add(self, update: Update) -> None:
        """Keep an update.

        Raises:
            BadInput: it does not fit a rule that compares weights.
            ClientFailed: it holds NaN or Inf, and the rule does not judge that.
        """
        check_comparable(self.rule, update, self.broadcast)
        values = {entry: value for entry, value in tensors(update).items() if value.is_floating_point()}
        row = flattened(values).cpu()
        if not self.rule.takes_any:
            check_finite(row)
        self.like = {entry: torch.empty_like(value, device="meta") for entry, value in values.items()}
        self.coefficients[update.client] = self.coefficient(update)
        self.rows[update.client] = row

    def part(self) -> tuple[Weights | None, dict[str, float]]:
        """What the other processes need to know of this one's."""
        return self.like, self.coefficients

    def outcome(self, parts: Sequence[tuple[Weights | None, dict[str, float]]]) -> Outcome:
        """What the rule makes of the updates of all processes, whose `parts` these are.

        Raises:
            BadInput, ClientFailed: in every process, what the rule raises.
        """
        like = next(like for like, _ in parts if like is not None)
        coefficients = {name: value for _, part in parts for name, value in part.items()}
        places = {name: place for place, (_, part) in enumerate(parts) for name in part}
        start = self._start(like)
        rows = Rows(self.rows, places, len(start), self.world)
        values = torch.tensor([coefficients[name] for name in rows.names], dtype=torch.float64)
        gram = gram_of(rows, start) if self.rule.needs_gram else values.new_zeros(len(values), len(values))
        chosen = self.rule.choose(Differences(rows.names, values, gram))
        self._refuse_stretched(chosen, like)
        if self.rule.per_coordinate is None:
            flat = self._mean(chosen, rows, start)
        else:
            flat = coordinate_wise(self.rule.per_coordinate, chosen, rows, start).to(self.world.fabric.device)
        return Outcome(shaped(flat, like), chosen.dropped, chosen.clipped)

    def _start(self, like: Weights) -> Tensor:
        """What was sent out of the entries that come back, as a row."""
        sent = tensors(self.broadcast)
        dtypes = [value.dtype for value in like.values()]
        return flattened({name: sent[name].to(dtype) for name, dtype in zip(like, dtypes, strict=True)}).cpu()

    def _refuse_stretched(self, chosen: Chosen, like: Weights) -> None:
        """Raises BadInput where a running variance could become negative."""
        if bool((chosen.scales > 1).any()):
            check_stretched(self.rule, [name for name in self.buffers if f"weights/{name}" in like])

    def _mean(self, chosen: Chosen, rows: Rows, start: Tensor) -> Tensor:
        """The weighted mean of the chosen updates of all processes, each followed as far as its scale says."""
        followed = (chosen.coefficients * chosen.scales).tolist()
        stayed = math.fsum((chosen.coefficients * (1 - chosen.scales)).tolist())
        total, device = WeightedSum(), self.world.fabric.device
        for name, coefficient in zip(rows.names, followed, strict=True):
            if name in self.rows and coefficient:
                total.add({"flat": self.rows[name].to(device)}, coefficient)
        if stayed and self.world.is_first:
            total.add({"flat": start.to(device)}, stayed)
        have_terms = self.world.share(total.like is not None)
        return mean(total, {"flat": start}, have_terms, self.world, math.fsum(chosen.coefficients.tolist()))["flat"]


def check_comparable(rule: Comparing, update: Update, broadcast: Broadcast) -> None:
    """Raises BadInput where an update is not one that the rule could compare with what was sent out."""
    name = type(rule).__name__
    if update.slots:
        raise BadInput(
            f"algorithm.aggregate: {name} compares weights, and this algorithm sends more than these "
            f"({', '.join(sorted(update.slots))}), which have no share in it; use fedlit.aggregation.Mean"
        )
    if unknown := update.weights.keys() - broadcast.weights.keys():
        raise BadInput(
            f"algorithm.aggregate: {name} compares updates with what was sent out, and {min(unknown)} "
            f"({len(unknown)} entries in all) was not; use fedlit.aggregation.Mean"
        )


def gram_of(rows: Rows, start: Tensor) -> Tensor:
    """The inner products of the rows' differences from `start`, [K, K], float64; added up block by block in order."""

    def products(block: Tensor, where: slice) -> Tensor:
        changes = block.double() - start[where].double()
        return changes @ changes.T

    count = len(rows.names)
    gram = torch.zeros(count, count, dtype=torch.float64)
    for _, part in rows.each_block(products, lambda length: torch.zeros(count, count).double(), start.dtype):
        gram += part
    return gram


def coordinate_wise(function: PerCoordinate, chosen: Chosen, rows: Rows, start: Tensor) -> Tensor:
    """`function` of every coordinate of the chosen rows, each followed as far as its scale says."""
    kept = chosen.coefficients.nonzero().flatten()
    scales = chosen.scales[kept, None]

    def combined(block: Tensor, where: slice) -> Tensor:
        block = block[kept]
        if bool((scales != 1).any()):
            begin = start[where].double()
            block = (begin + scales * (block.double() - begin)).to(start.dtype)
        return function(block)

    flat = torch.empty_like(start)
    for where, part in rows.each_block(combined, lambda length: start.new_empty(length), start.dtype):
        flat[where] = part
    return flat
