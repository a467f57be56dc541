"""Sites that differ by chance alone, of equal or unequal size. Li et al., ICDE 2022."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedlit.partition.base import Patient, Rule, shuffled, site_names, splits
from fedlit.partition.shares import by_shares, check_alpha


@dataclass(frozen=True)
class IID(Rule):
    """Sites of equal size that differ by chance alone: within each split patients are dealt like cards."""

    def deal(self, patients: Sequence[Patient], num_sites: int | None, seed: int) -> dict[str, str]:
        sites = site_names(num_sites, patients)
        dealt, place = {}, 0
        for split in splits(patients):
            for patient in shuffled([one for one in patients if one.split == split], seed):
                dealt[patient.name] = sites[place % len(sites)]
                place += 1
        return dealt


@dataclass(frozen=True)
class Size(Rule):
    """Sites of unequal size that differ by chance otherwise: their shares are one draw of Dirichlet(alpha).

    Quantity skew. Li et al., ICDE 2022 (NIID-Bench), where alpha is 0.5.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def deal(self, patients: Sequence[Patient], num_sites: int | None, seed: int) -> dict[str, str]:
        return by_shares([patients], site_names(num_sites, patients), self.alpha, seed)
