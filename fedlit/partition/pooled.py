"""What a rule needs to know of a pooled set: its patients, their statistic, the cells of a column."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fedlit.data.cache import file_hashes
from fedlit.data.manifest import Row, refuse
from fedlit.errors import BadInput
from fedlit.inspection.cases import place
from fedlit.inspection.gathering import each
from fedlit.partition.base import Patient, Rule
from fedlit.partition.field import Field
from fedlit.storage import cache_folder


def shared_pictures(rows: Sequence[Row], root: Path, file: str) -> list[str]:
    """Pictures, by content, of two patients: dealt to two sites, a run would refuse them."""
    digests = file_hashes([row.image for row in rows], root=root.resolve(), cache=cache_folder())
    found: dict[str, dict[tuple[str, str], Row]] = defaultdict(dict)
    for row in rows:
        found[digests[row.image]].setdefault((row.site, row.group), row)
    return [
        f"{file}: the same picture is "
        + " and ".join(f"{row.name} (patient {group} of {site}, line {row.line})" for (site, group), row in own.items())
        + "; leave one out, or give them one patient"
        for own in found.values()
        if len(own) > 1
    ]


def read_cells(path: Path) -> dict[int, dict[str, str]]:
    """The cells of every row by its line, as `read_manifest` counts them."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        columns = [column.strip() for column in next(reader)]
        found = {}
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found[reader.line_num] = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
        return found


def read_fields(rule: Rule, rows: Sequence[Row], cells: Mapping[int, Mapping[str, str]], file: str) -> dict[int, str]:
    """The cell of each row in the column that the rule asks for."""
    if not isinstance(rule, Field):
        return {}
    columns = [*next(iter(cells.values()))]
    if rule.name not in columns:
        raise BadInput(f"{file} has no column {rule.name!r}; it has {', '.join(columns)}")
    if empty := [row.line for row in rows if not cells[row.line][rule.name]]:
        listed = ", ".join(map(str, sorted(empty)[:8])) + (f" and {len(empty) - 8} more" if len(empty) > 8 else "")
        raise BadInput(f"{file}: the column {rule.name!r} is empty in line {listed}; fill it in, or leave them out")
    return {row.line: cells[row.line][rule.name] for row in rows}


def measured(
    name: str,
    rows: Sequence[Row],
    work: partial,
    file: str,
    num_workers: int | None,
    advance: Callable[[int, int], object],
) -> dict[int, float]:
    """The statistic of every row's case."""
    found, problems = {}, []
    for number, (row, outcome) in enumerate(zip(rows, each(work, rows, num_workers=num_workers), strict=True), 1):
        advance(number, len(rows))
        if isinstance(outcome, BadInput):
            problems.append(f"{file} line {row.line}: {outcome}")
        else:
            found[row.line] = getattr(outcome[0], name)
    if problems:
        refuse(problems, "Some files cannot be used")
    return found


def patients_of(rows: Sequence[Row], statistics: Mapping[int, float], fields: Mapping[int, str]) -> list[Patient]:
    cases: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        cases[row.site, row.group].append(row)
    return [
        Patient(
            f"{site}/{group}",
            len({place(row) for row in own}),
            own[0].split,
            statistic=float(np.mean([statistics.get(row.line, 0.0) for row in own])),
            fields=tuple(fields[row.line] for row in own if row.line in fields),
        )
        for (site, group), own in sorted(cases.items())
    ]
