"""The weighted mean of updates, exact in whatever order they come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from fedlit.aggregation.base import Aggregation, Coefficient
from fedlit.errors import BadInput

By = Literal["samples", "uniform", "samples_rounded_as_released"]


@dataclass(frozen=True)
class Mean(Aggregation):
    """sum_k c_k w_k / sum_k c_k.

    c_k is the number of training pictures (`samples`), 1 (`uniform`), or that of FedFMS's released code
    (`samples_rounded_as_released`, see `rounded_shares`). Of a round from which clients were dropped, the rounded
    shares are still those among the whole cohort; only their sum is smaller.
    """

    by: By = "samples"

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise ValueError(f"by={self.by!r} is unknown; use one of {', '.join(get_args(By))}")

    def coefficients(self, num_samples: Mapping[str, int]) -> Coefficient:
        if self.by == "samples":
            return lambda update: float(update.num_samples)
        if self.by == "uniform":
            return lambda update: 1.0
        shares = rounded_shares(num_samples)
        return lambda update: shares[update.client]


def rounded_shares(num_samples: Mapping[str, int]) -> dict[str, float]:
    """Each client's share of the pictures, rounded to 2 decimals; the last by name takes what is left of 1.

    The released code of FedFMS (Liu et al., MICCAI 2024) does so with the last of its list.

    Raises:
        BadInput: the share of a client is not above 0 then.
    """
    total, names = sum(num_samples.values()), sorted(num_samples)
    shares = {name: round(num_samples[name] / total, 2) for name in names[:-1]}
    shares[names[-1]] = 1 - math.fsum(shares.values())
    for name, share in shares.items():
        if round(share, 2) <= 0:
            raise BadInput(
                f"algorithm.aggregate.by=samples_rounded_as_released gives {name} ({num_samples[name]} of the round's "
                f"{total} training pictures) the weight {share:.2f}, and so it would not count; use by=samples"
            )
    return shares
