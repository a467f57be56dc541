"""Sites by how pictures were acquired: a column of the manifest."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedlit.data.manifest import SITE_NAME
from fedlit.errors import BadInput
from fedlit.partition.base import Patient, Rule, site_names


@dataclass(frozen=True)
class Field(Rule):
    """A site for each value of a column of the manifest, such as the scanner; or numbers cut into so many ranges.

    A patient whose files have several values stays whole, with the value of most files (of equals the first).
    """

    name: str

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("field is empty; name a column of the manifest")

    def deal(self, patients: Sequence[Patient], num_sites: int | None, seed: int) -> dict[str, str]:
        values = {patient.name: _usual(patient.fields) for patient in patients}
        if num_sites is None:
            names = _as_sites(sorted(set(values.values())), self.name)
            return {patient: names[value] for patient, value in values.items()}
        sites = site_names(num_sites, patients)
        try:
            numbers = {patient: float(value) for patient, value in values.items()}
            if not np.isfinite(list(numbers.values())).all():
                raise ValueError
        except ValueError:
            found = sorted(set(values.values()))
            raise BadInput(
                f"the column {self.name!r} holds {found[0]!r}, and not numbers alone: each of its {len(found)} values"
                " can be a site; leave --sites away"
            ) from None
        ends = np.quantile(list(numbers.values()), np.linspace(0, 1, len(sites) + 1)[1:-1])
        dealt = {patient: sites[int(np.searchsorted(ends, number))] for patient, number in numbers.items()}
        if missing := sorted(set(sites) - set(dealt.values())):
            raise BadInput(
                f"the column {self.name!r} has too few different numbers for {len(sites)} ranges:"
                f" {', '.join(missing)} would be empty; ask for fewer sites"
            )
        return dealt


def _usual(fields: Sequence[str]) -> str:
    counts = Counter(fields)
    return min(counts, key=lambda value: (-counts[value], value))


def _as_sites(values: Sequence[str], column: str) -> dict[str, str]:
    """Value -> a name that a site may have.

    Raises:
        BadInput: two values become one name, or one becomes none.
    """
    taken: dict[str, list[str]] = defaultdict(list)
    for value in values:
        taken[re.sub(r"\s*[^\w .+-]+\s*", "_", value).strip(" _")].append(value)
    for name, same in taken.items():
        if len(same) > 1 or not SITE_NAME.fullmatch(name):
            listed = ", ".join(map(repr, same))
            raise BadInput(
                f"the column {column!r}: {listed} cannot name sites of their own ({name!r}); use letters and digits"
            )
    return {same[0]: name for name, same in taken.items()}
