"""The weighted mean of updates, exact in whatever order they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedlit.aggregation.base import Aggregation
from fedlit.messages import Update


@dataclass(frozen=True)
class Mean(Aggregation):
    """sum_k c_k w_k / sum_k c_k with c_k the number of training pictures (`samples`) or 1 (`uniform`)."""

    by: Literal["samples", "uniform"] = "samples"

    def __post_init__(self) -> None:
        if self.by not in ("samples", "uniform"):
            raise ValueError(f"by={self.by!r} is unknown; use samples or uniform")

    def coefficient(self, update: Update) -> float:
        return float(update.num_samples) if self.by == "samples" else 1.0
