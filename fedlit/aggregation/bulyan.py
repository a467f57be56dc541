"""Bulyan: a trimmed mean, around the median, of what Krum chooses again and again. El Mhamdi et al., ICML 2018."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlit.aggregation.base import Chosen, Comparing, Differences, PerCoordinate, weighted
from fedlit.aggregation.krum import check_num_malicious, scores
from fedlit.aggregation.median import middle


@dataclass(frozen=True)
class Bulyan(Comparing):
    """Of K updates Krum picks K - 2 f, one after the other; of these the K - 4 f values nearest to the median count.

    Args:
        num_malicious: f, assumed among the K clients of a round; K must be 4 f + 3 or more.
    """

    num_malicious: int = 1

    def __post_init__(self) -> None:
        check_num_malicious(self.num_malicious)

    @property
    def least(self) -> tuple[int, str]:
        return 4 * self.num_malicious + 3, "4 num_malicious + 3"

    @property
    def per_coordinate(self) -> PerCoordinate:
        return self.nearest_to_median

    def nearest_to_median(self, rows: Tensor) -> Tensor:
        """[K - 2 f, n] -> [n]: of each coordinate the mean of all but the 2 f values farthest from the median."""
        ordered = rows.sort(0).values
        nearest = (ordered - middle(rows)).abs().argsort(dim=0, stable=True)[: len(rows) - 2 * self.num_malicious]
        return ordered.gather(0, nearest).double().mean(0).to(rows.dtype)

    def choose(self, differences: Differences) -> Chosen:
        self.admit(len(differences))
        distances, left = differences.squared_distances(), list(range(len(differences)))
        coefficients = torch.zeros_like(differences.coefficients)
        for _ in range(len(differences) - 2 * self.num_malicious):
            best = left[int(scores(distances[left][:, left], self.num_malicious).argmin())]
            coefficients[best] = 1
            left.remove(best)
        return weighted(differences, coefficients)
