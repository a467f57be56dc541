"""Which test cases are of one patient: patients.csv of a run directory."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedlit.errors import BadInput
from fedlit.files import write_atomically

if TYPE_CHECKING:
    from fedlit.data.site import Site

HEADER = ["site", "case", "patient"]

Patients = Mapping[tuple[str, str], str]
"""(site, case) -> the patient, unique within the site."""


def write_patients(run_dir: Path, sites: Mapping[str, Site]) -> None:
    """Note the patients of these sites' test cases, beside those of other sites that are noted there."""
    here = {(name, case.id): case.group for name, site in sites.items() for case in site.test.cases}
    before = {key: patient for key, patient in _there(run_dir).items() if key[0] not in sites}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((*key, patient) for key, patient in sorted({**before, **here}.items()))
    write_atomically(Path(run_dir) / "patients.csv", text.getvalue())


def _there(run_dir: Path) -> Patients:
    try:
        return read_patients(run_dir) or {}
    except BadInput:
        return {}  # it is written anew


def read_patients(run_dir: Path) -> Patients | None:
    """The patients of a run's test cases; None where the run noted none, as those of earlier versions.

    Raises:
        BadInput: the file was damaged.
    """
    path = Path(run_dir) / "patients.csv"
    if not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    if header != HEADER or any(len(line) != len(HEADER) for line in lines):
        raise BadInput(f"{path} is damaged: its lines are not {','.join(HEADER)}; `fedlit evaluate` writes it again")
    return {(site, case): patient for site, case, patient in lines}
