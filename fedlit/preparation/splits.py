"""Which patients train, which choose the round and which test: every patient whole in one split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedlit.data.manifest import SPLITS, Row, split_by_group
from fedlit.preparation.cases import Case, Found

VALIDATION = 1 / 8  # of the training patients, where a set is published without: 10 % of all beside a fifth for test
FEDFMS_SEED = 0  # which patients the paper drew is not published
FEDFMS_NOTE = ("split: FedFMS, a tenth of a site's patients for validation (of three or more) and none for test,"
               f" drawn anew by seed {FEDFMS_SEED}")  # fmt: skip


@dataclass(frozen=True)
class Assigned:
    """The cases with a split each, and what was decided for it: of sites, and of patients that stood in two splits."""

    cases: tuple[Case, ...]
    seed: int
    drawn: tuple[str, ...]  # sites without a published split
    validated: tuple[str, ...]  # sites that had no val and were given one
    without: tuple[str, ...]  # sites that are too small for a val
    torn: tuple[tuple[str, str], ...]  # (site, patient)

    def notes(self, sites: Collection[str]) -> list[str]:
        """What was decided at these sites, a line each."""
        told = (
            (f"70/10/20 of the patients by seed {self.seed} at", self.drawn),
            (f"as published; an eighth of the training patients, by seed {self.seed}, became val at", self.validated),
            ("too few patients for a val at", self.without),
        )
        notes = []
        if torn := [f"{site} {patient}" for site, patient in self.torn if site in sites]:
            more = f" and {len(torn) - 5} more" if len(torn) > 5 else ""
            named = ", ".join(torn[:5])
            notes.append(f"split: patients published in two splits are whole in the later one: {named}{more}")
        for what, decided in told:
            if named := ", ".join(site for site in decided if site in sites):
                notes.append(f"split: {what} {named}")
        return notes


def assigned(cases: Sequence[Case], *, seed: int) -> Assigned:
    """A split for every case.

    A published split is kept, for all pictures of its patient. A site without any is divided 70/10/20 by patients; one
    without validation cases gives an eighth of its training patients; a patient in two splits goes to the later one
    (train, val, test) whole. The order of the cases does not matter.
    """
    whole, torn = _whole_patients(cases)
    by_site: dict[str, list[Case]] = defaultdict(list)
    for case in whole:
        by_site[case.site].append(case)
    done: list[Case] = []
    drawn, validated, without = [], [], []
    for site, own in sorted(by_site.items()):
        splits, new = {case.split for case in own}, list[Case]()
        if None in splits:
            new = dealt([case for case in own if not case.split], (0.7, 0.1, 0.2), seed=seed)
            done += [case for case in own if case.split] + new
            drawn.append(site)
        elif "val" not in splits and "train" in splits:
            training = [case for case in own if case.split == "train"]
            done += [case for case in own if case.split != "train"]
            new = dealt(training, (1 - VALIDATION, VALIDATION, 0.0), seed=seed)
            done += new
            if any(case.split == "val" for case in new):
                validated.append(site)
        else:
            done += own
        if new and "val" not in {case.split for case in own + new}:
            without.append(site)
    return Assigned(tuple(done), seed, tuple(drawn), tuple(validated), tuple(without), tuple(torn))


def as_fedfms(cases: Sequence[Case]) -> list[Case]:
    """The cases with the patients of every site pooled and divided 90/10 to train and val, whatever was published: the
    protocol of FedFMS (Liu et al., MICCAI 2024), whose site left out is tested whole."""
    return dealt(cases, (0.9, 0.1, 0.0), seed=FEDFMS_SEED)


def divided(found: Found, split: str | None) -> Found:
    """What was found, by the split of FedFMS where that is asked for."""
    if split != "fedfms":
        return found
    return replace(found, cases=as_fedfms(found.cases), notes=[*found.notes, FEDFMS_NOTE])


def check_split(split: str | None) -> None:
    """Raises ValueError unless it is one that every data set knows."""
    if split not in (None, "fedfms"):
        raise ValueError(f"--split {split}: allowed is fedfms; without it the published split, or 70/10/20 by --seed")


def dealt(cases: Sequence[Case], fractions: Sequence[float], *, seed: int) -> list[Case]:
    """The cases with their patients dealt to train, val and test by a hash, as `fedlit.data.manifest` does it."""
    if not cases:
        return []
    nowhere = Path()
    rows = [Row(case.site, nowhere, nowhere, None, case.group, None, 0, case.name) for case in cases]
    divided = split_by_group(rows, fractions=fractions, seed=seed)
    return [replace(case, split=row.split) for case, row in zip(cases, divided, strict=True)]


def _whole_patients(cases: Sequence[Case]) -> tuple[list[Case], list[tuple[str, str]]]:
    """The cases with one published split for each patient, and the patients that stood in several."""
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for case in cases:
        if case.split:
            splits[case.site, case.group].add(case.split)
    latest = {patient: max(found, key=SPLITS.index) for patient, found in splits.items()}
    whole = [replace(case, split=latest.get((case.site, case.group))) for case in cases]
    return whole, sorted(patient for patient, found in splits.items() if len(found) > 1)
