"""Geometric median (RFA): the point with the least sum of distances to all updates. Pillutla et al., IEEE TSP 2022."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from fedlit.aggregation.base import Chosen, Coefficient, Comparing, Differences, weighted
from fedlit.aggregation.mean import Mean


@dataclass(frozen=True)
class GeometricMedian(Comparing):
    """argmin_z sum_k c_k |z - w_k| by the smoothed Weiszfeld algorithm, from the mean on.

    z stays a mean of the updates, so that their inner products are all it takes: an iteration costs nothing, where the
    paper's costs a round of messages and it stops after 3.

    Args:
        weigh: c_k; the paper's are the numbers of pictures.
        smoothing: distances below it count as it.
        num_iterations: at most.
        tolerance: relative change of the sum of distances at which it ends.
    """

    weigh: Mean = field(default_factory=Mean)
    smoothing: float = 1e-6
    num_iterations: int = 1000
    tolerance: float = 1e-10

    def __post_init__(self) -> None:
        if not 0 < self.smoothing < math.inf:
            raise ValueError(f"smoothing={self.smoothing!r} is not allowed; use a finite number above 0")
        if self.num_iterations < 1:
            raise ValueError(f"num_iterations={self.num_iterations!r} is not allowed; use 1 or more")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance={self.tolerance!r} is not allowed; use a finite number, 0 or more")

    @property
    def needs_validation(self) -> bool:
        return self.weigh.needs_validation

    def coefficients(self, num_samples: Mapping[str, int]) -> Coefficient:
        return self.weigh.coefficients(num_samples)

    def choose(self, differences: Differences) -> Chosen:
        gram, shares = differences.gram, differences.coefficients / differences.coefficients.sum()
        alpha, before = shares, torch.inf
        for _ in range(self.num_iterations):
            inner = gram @ shares
            distances = (shares @ inner - 2 * inner + gram.diagonal()).clamp(min=0).sqrt()  # of z to all updates
            total = float(alpha @ distances)
            if before - total <= self.tolerance * total:
                break
            beta = alpha / distances.clamp(min=self.smoothing)
            shares, before = beta / beta.sum(), total
        return weighted(differences, shares)
