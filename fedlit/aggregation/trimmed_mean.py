"""Trimmed mean: of every coordinate the mean without its smallest and largest values. Yin et al., ICML 2018."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedlit.aggregation.base import Chosen, Comparing, Differences, PerCoordinate, weighted


@dataclass(frozen=True)
class TrimmedMean(Comparing):
    """The mean of each coordinate over the clients, all alike, less floor(fraction K) values at either end.

    Args:
        fraction: of the K clients that is left out at either end; at least the share of the malicious.
    """

    fraction: float = 0.2

    remedy: ClassVar[str] = "leave out a larger fraction, or 0"

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 0.5:
            raise ValueError(f"fraction={self.fraction!r} is not allowed; use 0 or more, less than 0.5")

    @property
    def needs_gram(self) -> bool:
        return False

    @property
    def least(self) -> tuple[int, str]:
        return (math.ceil(1 / self.fraction - 1e-9), "to leave out one at either end") if self.fraction else (1, "")

    @property
    def per_coordinate(self) -> PerCoordinate:
        return self.trimmed

    def trimmed(self, rows: Tensor) -> Tensor:
        """[K, n] -> [n]."""
        cut = math.floor(self.fraction * len(rows) + 1e-9)
        return rows.sort(0).values[cut : len(rows) - cut].double().mean(0).to(rows.dtype)

    def choose(self, differences: Differences) -> Chosen:
        self.admit(len(differences))
        return weighted(differences, differences.coefficients)
