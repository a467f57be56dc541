"""The weighted mean of updates, exact in whatever order they come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from fedlit.aggregation.base import Aggregation, Coefficient
from fedlit.errors import BadInput, ClientFailed
from fedlit.messages import Update

By = Literal["samples", "sqrt_samples", "uniform", "loss", "validation_loss", "reported", "samples_rounded_as_released"]


@dataclass(frozen=True)
class Mean(Aggregation):
    """sum_k c_k w_k / sum_k c_k.

    c_k is, with n_k training pictures and a mean loss of F_k:

    - `samples`: n_k. `sqrt_samples`: its square root. `uniform`: 1.
    - `loss`: n_k F_k, F_k in training. Clients that do worse than others count more than their pictures.
    - `validation_loss`: 1 / F_k, F_k of what the client has trained over its own validation pictures.
    - `reported`: what the client reports as its `coefficient`, by the formula of its algorithm.
    - `samples_rounded_as_released`: that of FedFMS's released code, see `rounded_shares`. Of a round from which clients
      were dropped, these are still the shares among the whole cohort; only their sum is smaller.
    """

    by: By = "samples"

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise ValueError(f"by={self.by!r} is unknown; use one of {', '.join(get_args(By))}")

    @property
    def needs_validation(self) -> bool:
        return self.by == "validation_loss"

    def coefficients(self, num_samples: Mapping[str, int]) -> Coefficient:
        if self.by == "samples_rounded_as_released":
            shares = rounded_shares(num_samples)
            return lambda update: shares[update.client]
        return COEFFICIENTS[self.by]


def reported(update: Update) -> float:
    """The coefficient that a client reports.

    Raises:
        BadInput: its algorithm makes none.
    """
    if "coefficient" not in update.scalars:
        raise BadInput(
            "algorithm.aggregate.by=reported is for algorithms whose clients report a coefficient (FedNova, QFedAvg, "
            "AFL), and this one's do not; use by=samples"
        )
    return update.scalars["coefficient"]


def loss(update: Update, name: str = "loss") -> float:
    """A loss that a client reports.

    Raises:
        ClientFailed: it is not above 0.
    """
    if not update.scalars[name] > 0:
        raise ClientFailed(
            f"its {name.replace('_', ' ')} is {update.scalars[name]}, by which it cannot be weighed; use by=samples"
        )
    return update.scalars[name]


COEFFICIENTS: Mapping[str, Coefficient] = {
    "samples": lambda update: float(update.num_samples),
    "sqrt_samples": lambda update: math.sqrt(update.num_samples),
    "uniform": lambda update: 1.0,
    "loss": lambda update: update.num_samples * loss(update),
    "validation_loss": lambda update: 1 / loss(update, "validation_loss"),
    "reported": reported,
}


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
