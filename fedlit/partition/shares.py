"""Patients dealt in random proportions: draws of a Dirichlet distribution over the sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedlit.errors import BadInput
from fedlit.partition.base import Patient, shuffled, splits
from fedlit.seeding import address

DRAWS = 1000  # of proportions, until every site has a training patient


def by_shares(bins: Sequence[Sequence[Patient]], sites: Sequence[str], alpha: float, seed: int) -> dict[str, str]:
    """Every bin dealt in its own proportions, drawn until every site has a training patient."""
    for draw in range(DRAWS):
        dealt: dict[str, str] = {}
        for number, members in enumerate(bins):
            random = np.random.default_rng(address(seed, "partition", "shares", draw, number))
            shares = random.dirichlet([alpha] * len(sites))
            for split in splits(members):
                own = shuffled([patient for patient in members if patient.split == split], seed)
                start = np.random.default_rng(address(seed, "partition", "start", number, str(split))).random()
                dealt |= _spread(own, dict(zip(sites, shares, strict=True)), start)
        trained = {dealt[one.name] for members in bins for one in members if one.split in ("train", None)}
        if len(trained) == len(sites):
            return dealt
    raise BadInput(
        f"alpha={alpha:g} left a site without training patients in {DRAWS} draws; ask for a larger alpha or fewer sites"
    )


def _spread(patients: Sequence[Patient], shares: Mapping[str, float], start: float) -> dict[str, str]:
    """Patient -> site: each site gets its share to within one patient, whose it is depends on `start` in [0, 1)."""
    sites, ends = list(shares), np.cumsum(list(shares.values()))
    places = np.searchsorted(ends, (np.arange(len(patients)) + start) / max(1, len(patients)))
    return {
        patient.name: sites[min(int(place), len(sites) - 1)] for patient, place in zip(patients, places, strict=True)
    }


def check_alpha(alpha: float) -> None:
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha={alpha}; needs a number above 0: 0.1 is very unequal, 100 nearly equal")
