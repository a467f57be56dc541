"""Sites that differ in a statistic. Hsu et al., 2019 (mildly); McMahan et al., AISTATS 2017 (wholly)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedlit.errors import BadInput
from fedlit.partition.base import Patient, Rule, by_statistic, site_names, splits
from fedlit.partition.shares import by_shares, check_alpha
from fedlit.seeding import address

STATISTICS = ("foreground", "brightness")


@dataclass(frozen=True)
class Dirichlet(Rule):
    """Sites that differ in a statistic: patients are sorted by it into bins, and each bin is dealt by its own draw of
    Dirichlet(alpha) over the sites.

    Label skew of Hsu et al., 2019, and Li et al., ICDE 2022 (there with classes for bins, 10 of them, and alpha 0.5).
    The same draw deals a bin's training, validation and test patients, so a site is tested on what it is like.

    Args:
        of: `foreground` (its share of the picture) or `brightness` (the mean intensity).
        alpha: the smaller, the more sites differ; 100 is nearly iid.
    """

    of: str = "foreground"
    alpha: float = 0.5
    bins: int = 10

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_statistic(self.of)
        if self.bins < 2:
            raise ValueError(f"bins={self.bins}; needs 2 or more, one bin is the rule `size`")

    @property
    def needed(self) -> str:
        return self.of

    def deal(self, patients: Sequence[Patient], num_sites: int | None, seed: int) -> dict[str, str]:
        sites = site_names(num_sites, patients)
        ordered = by_statistic(patients)
        bins = [[ordered[place] for place in part] for part in np.array_split(np.arange(len(ordered)), self.bins)]
        return by_shares(bins, sites, self.alpha, seed)


@dataclass(frozen=True)
class Pathological(Rule):
    """Sites that know a few kinds of patients each: sorted by a statistic, cut into equal shards, some to each site.

    McMahan et al., AISTATS 2017, sorted by digit, with two shards a client. Each split is sorted and cut alike, so a
    site is tested on what it is like.
    """

    of: str = "foreground"
    shards: int = 2

    def __post_init__(self) -> None:
        check_statistic(self.of)
        if self.shards < 1:
            raise ValueError(f"shards={self.shards}; needs 1 or more a site")

    @property
    def needed(self) -> str:
        return self.of

    def deal(self, patients: Sequence[Patient], num_sites: int | None, seed: int) -> dict[str, str]:
        sites = site_names(num_sites, patients)
        num_shards = self.shards * len(sites)
        owners = sorted(range(num_shards), key=lambda shard: address(seed, "partition", "shard", shard))
        site_of = {shard: sites[place % len(sites)] for place, shard in enumerate(owners)}
        trained = sum(patient.split in ("train", None) for patient in patients)
        if trained < num_shards:
            raise BadInput(
                f"{trained} training patients cannot be cut into {num_shards} shards ({self.shards} for each of"
                f" {len(sites)} sites); ask for fewer sites or shards"
            )
        dealt = {}
        for split in splits(patients):
            own = by_statistic([patient for patient in patients if patient.split == split])
            for place, patient in enumerate(own):
                dealt[patient.name] = site_of[(2 * place + 1) * num_shards // (2 * len(own))]
        return dealt


def check_statistic(of: str) -> None:
    if of not in STATISTICS:
        raise ValueError(f"of={of!r}; allowed are {', '.join(STATISTICS)}")
