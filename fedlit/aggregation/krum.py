"""Krum and Multi-Krum: the updates that are nearest to their neighbours. Blanchard et al., NeurIPS 2017."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlit.aggregation.base import Chosen, Comparing, Differences, weighted


def check_num_malicious(num_malicious: int) -> None:
    """Raises ValueError where it is no number of clients."""
    if num_malicious < 0:
        raise ValueError(f"num_malicious={num_malicious!r} is not allowed; use 0 or more")


def scores(squared_distances: Tensor, num_malicious: int) -> Tensor:
    """Of each of K updates: the sum of its squared distances to its nearest K - num_malicious - 2 others, [K].

    To its nearest one where that number is below 1, and 0 for a single update.
    """
    count = len(squared_distances)
    nearest = min(max(1, count - num_malicious - 2), count - 1)
    others = squared_distances + torch.diag(torch.full((count,), torch.inf, dtype=squared_distances.dtype))
    return others.sort(1).values[:, :nearest].sum(1)


@dataclass(frozen=True)
class Krum(Comparing):
    """The one update whose nearest K - num_malicious - 2 others are nearest; of equals the first by name.

    Args:
        num_malicious: f, assumed among the K clients of a round; K must be 2 f + 3 or more.
    """

    num_malicious: int = 1

    def __post_init__(self) -> None:
        check_num_malicious(self.num_malicious)

    @property
    def least(self) -> tuple[int, str]:
        return 2 * self.num_malicious + 3, "2 num_malicious + 3"

    def num_kept(self, num_updates: int) -> int:
        """How many of the best count."""
        return 1

    def choose(self, differences: Differences) -> Chosen:
        self.admit(len(differences))
        best = scores(differences.squared_distances(), self.num_malicious).argsort(stable=True)
        coefficients = torch.zeros_like(differences.coefficients)
        coefficients[best[: self.num_kept(len(differences))]] = 1
        return weighted(differences, coefficients)


@dataclass(frozen=True)
class MultiKrum(Krum):
    """The mean of the best updates by Krum's score, all alike.

    Args:
        num_chosen: how many; None for all but f + 2, which is the most that the bound allows.
    """

    num_chosen: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_chosen is not None and self.num_chosen < 1:
            raise ValueError(f"num_chosen={self.num_chosen!r} is not allowed; use 1 or more, or null")

    @property
    def least(self) -> tuple[int, str]:
        least, reason = super().least
        chosen = (self.num_chosen or 0) + self.num_malicious + 2
        return (chosen, "num_chosen + num_malicious + 2") if chosen > least else (least, reason)

    def num_kept(self, num_updates: int) -> int:
        return self.num_chosen or num_updates - self.num_malicious - 2
