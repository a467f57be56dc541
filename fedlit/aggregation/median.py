"""Median: the middle value of every coordinate. Yin et al., ICML 2018."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedlit.aggregation.base import Chosen, Comparing, Differences, PerCoordinate, weighted


@dataclass(frozen=True)
class Median(Comparing):
    """The median of each coordinate over the clients, all alike; the mean of the middle two of an even number.

    It holds while fewer than half of the clients are malicious.
    """

    @property
    def needs_gram(self) -> bool:
        return False

    @property
    def per_coordinate(self) -> PerCoordinate:
        return middle

    def choose(self, differences: Differences) -> Chosen:
        return weighted(differences, differences.coefficients)


def middle(rows: Tensor) -> Tensor:
    """[K, n] -> [n]."""
    count, ordered = len(rows), rows.sort(0).values
    return ordered[(count - 1) // 2 : count // 2 + 1].double().mean(0).to(rows.dtype)
