"""Which patients train, which choose the round and which test: every patient whole in one split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from fedlit.data.manifest import SPLITS, Row, split_by_group
from fedlit.preparation.cases import Case

VALIDATION = (
    1 / 8
)  # of the training patients, where a data set is published without: 10 % of all beside a fifth for test


def assigned(cases: Sequence[Case], *, seed: int) -> tuple[list[Case], list[str]]:
    """The cases with a split each, and in a line each what was decided.

    A published split is kept. A site without any is divided 70/10/20 by patients; one without validation cases gives an
    eighth of its training patients; a patient in two splits goes to the later one (train, val, test) whole. The order
    of the cases does not matter.
    """
    kept, notes = _whole_patients(cases)
    by_site: dict[str, list[Case]] = defaultdict(list)
    for case in kept:
        by_site[case.site].append(case)
    done: list[Case] = []
    drawn, validated = [], []
    for site, own in sorted(by_site.items()):
        splits = {case.split for case in own}
        if None in splits:
            fixed = [case for case in own if case.split]
            done += fixed + dealt([case for case in own if not case.split], (0.7, 0.1, 0.2), seed=seed)
            drawn.append(site)
        elif "val" not in splits and "train" in splits:
            training = [case for case in own if case.split == "train"]
            done += [case for case in own if case.split != "train"]
            done += dealt(training, (1 - VALIDATION, VALIDATION, 0.0), seed=seed)
            validated.append(site)
        else:
            done += own
    if drawn:
        notes.append(f"split: 70/10/20 of the patients by seed {seed} at {', '.join(drawn)}")
    if validated:
        notes.append(f"split: as published; an eighth of the training patients, by seed {seed}, became val at "
                     + ", ".join(validated))  # fmt: skip
    return done, notes


def dealt(cases: Sequence[Case], fractions: Sequence[float], *, seed: int) -> list[Case]:
    """The cases with their patients dealt to train, val and test by a hash, as `fedlit.data.manifest` does it."""
    if not cases:
        return []
    nowhere = Path()
    rows = [Row(case.site, nowhere, nowhere, None, case.group, None, 0, case.name) for case in cases]
    divided = split_by_group(rows, fractions=fractions, seed=seed)
    return [replace(case, split=row.split) for case, row in zip(cases, divided, strict=True)]


def _whole_patients(cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for case in cases:
        if case.split:
            splits[case.site, case.group].add(case.split)
    torn = {patient: _latest(found) for patient, found in splits.items() if len(found) > 1}
    whole = [replace(case, split=torn.get((case.site, case.group), case.split)) for case in cases]
    if not torn:
        return whole, []
    named = ", ".join(f"{site} {group}" for site, group in sorted(torn)[:5])
    more = f" and {len(torn) - 5} more" if len(torn) > 5 else ""
    return whole, [f"split: patients published in two splits are whole in the later one: {named}{more}"]


def _latest(splits: Iterable[str]) -> str:
    return max(splits, key=SPLITS.index)
