"""What a rule is: patients of one pooled set go in, the site of each comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from fedlit.errors import BadInput
from fedlit.seeding import address


@dataclass(frozen=True)
class Patient:
    """All cases of a person, who is never divided.

    Args:
        name: unique in the pooled set, `site/group`.
        num_cases: pictures, and volumes, whose slices are one case.
        split: train, val or test; None where the manifest has no splits.
        statistic: the mean over the files, for rules that ask for one.
        fields: of each file, the cell of the column that the rule asks for.
    """

    name: str
    num_cases: int
    split: str | None = None
    statistic: float = 0.0
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule(ABC):
    """How patients come to sites."""

    @property
    def needed(self) -> str | None:
        """One of `STATISTICS`, which has to be measured, or None."""
        return None

    @abstractmethod
    def deal(self, patients: Sequence[Patient], num_sites: int | None, seed: int) -> dict[str, str]:
        """Patient -> site. The order of the patients does not matter.

        Raises:
            BadInput: there are too few patients, or the rule does not fit them.
        """


def site_names(num_sites: int | None, patients: Sequence[Patient]) -> list[str]:
    """site1, site2, ..., with as many digits as the last needs."""
    if num_sites is None or num_sites < 2:
        raise BadInput(f"sites={num_sites}; needs 2 or more")
    trained = sum(patient.split in ("train", None) for patient in patients)
    if trained < num_sites:
        raise BadInput(f"{trained} training patients cannot be dealt to {num_sites} sites; ask for at most {trained}")
    return [f"site{number:0{len(str(num_sites))}d}" for number in range(1, num_sites + 1)]


def splits(patients: Sequence[Patient]) -> list[str | None]:
    return sorted({patient.split for patient in patients}, key=str)


def shuffled(patients: Sequence[Patient], seed: int) -> list[Patient]:
    return sorted(patients, key=lambda one: (address(seed, "partition", one.name), one.name))


def by_statistic(patients: Sequence[Patient]) -> list[Patient]:
    return sorted(patients, key=lambda one: (one.statistic, one.name))
