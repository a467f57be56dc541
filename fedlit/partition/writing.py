"""A pooled manifest in, a manifest of dealt sites out, with a note on how it was made."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedlit import __version__
from fedlit.data.checks import listed_twice, patients_in_two_splits
from fedlit.data.manifest import SPLITS, Row, read_manifest, refuse
from fedlit.errors import BadInput
from fedlit.files import write_atomically, write_json
from fedlit.inspection.measuring import look
from fedlit.partition.base import Patient, Rule
from fedlit.partition.pooled import measured, patients_of, read_cells, read_fields, shared_pictures

ORIGIN = "from_site"  # the column that says where a case came from


@dataclass(frozen=True)
class Partition:
    """The cells of the new manifest under `columns`, its rows in order of site and image, and the note."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: Mapping[str, Any]


def partition(
    root: str | Path,
    rule: Rule,
    *,
    num_sites: int | None = None,
    seed: int = 0,
    file: str = "sites.csv",
    background: int = 0,
    intensity: str = "auto",
    num_workers: int | None = None,
    advance: Callable[[int, int], object] = lambda done, of: None,
) -> Partition:
    """Deal the cases of `root/file` to new sites: whole patients, every case once, the same for the same seed.

    Patients keep their split, and are called `site/group` by what they were, volumes of slices `site/volume`; other
    columns stay as they are.

    Args:
        num_sites: None only for `Field`, whose values are the sites.
        background, intensity, num_workers, advance: as for `inspection.inspect`, where a statistic is measured.

    Raises:
        BadInput: the manifest, a file or the rule does not allow it.
    """
    root = Path(root).expanduser()
    rows = sorted(read_manifest(root, file), key=lambda row: (row.name, row.site))
    problems = (
        listed_twice(rows, file=file) + patients_in_two_splits(rows, file=file) + shared_pictures(rows, root, file)
    )
    if problems:
        refuse(problems, f"{root / file} cannot be partitioned")
    cells = read_cells(root / file)
    statistics: dict[int, float] = {}
    if rule.needed:
        work = partial(look, background=background, intensity=intensity)
        statistics = measured(rule.needed, rows, work, file, num_workers, advance)
    patients = patients_of(rows, statistics, read_fields(rule, rows, cells, file))
    dealt = rule.deal(patients, num_sites, seed)
    note = {
        "made_by": f"fedlit {__version__}, partition",
        "rule": {"name": type(rule).__name__, **asdict(rule)},
        "num_sites": num_sites,
        "seed": seed,
        "source": {"file": Path(file).name, "sha256": hashlib.sha256((root / file).read_bytes()).hexdigest()},
        "background": background,
        "intensity": intensity,
        "numpy": np.__version__,
        "sites": _counts(patients, dealt, rule.needed),
        "patients_with_several_values": sorted(one.name for one in patients if len(set(one.fields)) > 1),
    }
    return _rewritten(rows, cells, dealt, note)


def write_partition(made: Partition, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write the manifest `out`, and the note beside it under the same name with .json. Returns the note's path.

    Raises:
        BadInput: one of them exists and may not be replaced, or cannot be written.
    """
    out = Path(out)
    beside = out.with_suffix(".json")
    if out.suffix.lower() != ".csv":
        raise BadInput(f"{out}: a manifest is comma-separated text; give it a name that ends in .csv")
    for path in (out, beside):
        if path.exists() and not overwrite:
            raise BadInput(f"{path} exists already; choose another name, or --overwrite")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(made.columns)
    writer.writerows(made.rows)
    try:
        write_json(beside, made.note)
        write_atomically(out, text.getvalue())
    except OSError as error:
        raise BadInput(f"{out} cannot be written ({error.strerror}); choose another place") from None
    return beside


def _rewritten(
    rows: Sequence[Row], cells: Mapping[int, Mapping[str, str]], dealt: Mapping[str, str], note: Mapping[str, Any]
) -> Partition:
    columns = [*next(iter(cells.values()))]
    columns += [] if ORIGIN in columns else [ORIGIN]
    written = []
    for row in rows:
        patient = f"{row.site}/{row.group}"
        record = {ORIGIN: row.site, **cells[row.line], "site": dealt[patient], "group": patient}
        if record.get("volume"):  # an empty one is the patient, who has the old site in front by now
            record["volume"] = f"{row.site}/{record['volume']}"
        written.append(tuple(record[column] for column in columns))
    order = [columns.index("site"), columns.index("image")]
    written.sort(key=lambda record: [record[place] for place in order])
    return Partition(tuple(columns), tuple(written), note)


def _counts(patients: Sequence[Patient], dealt: Mapping[str, str], statistic: str | None) -> dict[str, dict[str, Any]]:
    """Of each new site: patients, cases (a volume is one), cases of each split, the mean statistic of its patients."""
    found: dict[str, dict[str, Any]] = {}
    for site in sorted(set(dealt.values())):
        own = [patient for patient in patients if dealt[patient.name] == site]
        splits: Counter[str] = Counter()
        for patient in own:
            splits[patient.split or ""] += patient.num_cases
        found[site] = {"patients": len(own), "cases": sum(patient.num_cases for patient in own)}
        found[site] |= {split: splits[split] for split in SPLITS} if "" not in splits else {}
        found[site] |= {statistic: float(np.mean([patient.statistic for patient in own]))} if statistic else {}
    return found
