"""The long result tables of a run: metrics.csv, cases.csv and routing.csv of a run directory."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from fedlit.errors import BadInput
from fedlit.files import replacing


class MetricRow(NamedTuple):
    """A line of metrics.csv: one number of one site. The key is all before `value`; NaN is an empty cell."""

    round: int
    site: str
    role: str
    model: str
    split: str
    metric: str
    value: float
    num_cases: int


class CaseRow(NamedTuple):
    """A line of cases.csv: one number of one case and class. The key is all before `value`; None is excluded.

    New rows of a site, model and metric take the place of all that there were, also of cases that are there no more.
    """

    round: int
    site: str
    case: str
    model: str
    split: str
    class_name: str
    metric: str
    value: float | None


class GateRow(NamedTuple):
    """A line of routing.csv: how much of one member went into one layer for one case. The key is all before `value`.

    New rows of a site and model take the place of all that there were.
    """

    round: int
    site: str
    case: str
    model: str
    split: str
    layer: str
    member: str
    value: float


class Record:
    """The tables of one run directory. One process writes at a time (the run's lock sees to that)."""

    def __init__(self, run_dir: str | Path):
        self.run_dir = Path(run_dir)
        self._metrics = _Table(self.run_dir / "metrics.csv", MetricRow)
        self._cases = _Table(self.run_dir / "cases.csv", CaseRow, ("round", "site", "model", "split", "metric"))
        self._gates = _Table(self.run_dir / "routing.csv", GateRow, ("round", "site", "model", "split"))

    def add(self, rows: Iterable[MetricRow], cases: Iterable[CaseRow] = (), gates: Iterable[GateRow] = ()) -> None:
        """Append rows; those whose key is there are replaced. Only that, or an earlier round, rewrites a file.

        Args:
            cases, gates: of a site all, since they replace all.
        """
        self._gates.add(list(gates))
        self._cases.add(list(cases))
        self._metrics.add(list(rows))

    def truncate(self, after_round: int) -> None:
        """Remove what later rounds wrote, and all test scores, before a resumed run writes them again."""
        self._gates.truncate(after_round)
        self._cases.truncate(after_round)
        self._metrics.truncate(after_round)

    def metrics(self) -> Iterator[MetricRow]:
        """Rows of metrics.csv in order; a last line torn by kill -9 is not one. Raises BadInput on any other damage."""
        return self._metrics.rows()

    def cases(self) -> Iterator[CaseRow]:
        """Rows of cases.csv, likewise."""
        return self._cases.rows()

    def gates(self) -> Iterator[GateRow]:
        """Rows of routing.csv, likewise; none where no mixture was scored."""
        return self._gates.rows()


class _Table:
    """A CSV file of NamedTuples that appends where it can; it remembers only the last round, so memory stays flat.

    Rows that are alike in the columns `together`, the round first, are replaced together; by default those of one key.
    """

    def __init__(
        self, path: Path, row_type: type[MetricRow] | type[CaseRow] | type[GateRow], together: Sequence[str] = ()
    ):
        self.path, self.row_type = path, row_type
        self.num_key = row_type._fields.index("value")
        self.group_of = itemgetter(
            *(row_type._fields.index(name) for name in together or row_type._fields[: self.num_key])
        )
        self.header = ",".join("class" if name == "class_name" else name for name in row_type._fields) + "\n"
        self.tail: tuple[int, set[tuple]] | None = None  # last round and its keys; None: not known, look at the file

    def rows(self) -> Iterator[Any]:
        if not self.path.exists():
            return
        # newline="\n": only the writer's line end counts, and a name never contains it (see _line).
        with open(self.path, newline="\n", encoding="utf-8", errors="replace") as file:
            header = file.readline()
            if header != self.header and header.endswith("\n"):
                raise BadInput(
                    f"{self.path}, line 1: columns are {header.strip()!r}, expected "
                    f"{self.header.strip()!r}; move the file away or start anew with overwrite=true"
                )
            for number, fields in enumerate(csv.reader(line for line in file if line.endswith("\n")), 2):
                yield self._parse(fields, number)

    def add(self, rows: list) -> None:
        if not rows:
            return
        new = {tuple(row[: self.num_key]): row for row in rows}
        last, keys = self.tail or self._look()
        self.tail = None  # until the write is known to have worked
        if any(row.round < last for row in rows) or not keys.isdisjoint(map(self.group_of, new)):
            self._rewrite(new, after_round=None)
            return
        text = "".join(_line(row) for row in new.values()).encode()
        with open(self.path, "ab") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        newest = max(row.round for row in rows)
        written = {self.group_of(key) for key in new if key[0] == newest}
        self.tail = newest, written | (keys if newest == last else set())

    def truncate(self, after_round: int) -> None:
        if not all(_stays(row, after_round) for row in self.rows()):
            self._rewrite({}, after_round=after_round)

    def _look(self) -> tuple[int, set[tuple]]:
        """Make the file end in a whole line, then find the last round and its keys."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            end = size = file.seek(0, os.SEEK_END)
            while end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                end -= 1
            if end < size:
                file.truncate(end)
            if end == 0:
                file.write(self.header.encode())
        last, keys = -1, set[tuple]()
        for row in self.rows():
            if row.round > last:
                last, keys = row.round, set()
            if row.round == last:
                keys.add(self.group_of(row))
        return last, keys

    def _rewrite(self, new: dict[tuple, Any], *, after_round: int | None) -> None:
        """One pass over the file into a new one, row by row: replaced rows keep their place, new ones go to the end."""
        new, replaced = dict(new), set(map(self.group_of, new))
        with replacing(self.path) as file:
            file.write(self.header.encode())
            for row in self.rows():
                if after_round is None or _stays(row, after_round):
                    is_old = self.group_of(row) in replaced
                    if written := new.pop(tuple(row[: self.num_key]), None if is_old else row):
                        file.write(_line(written).encode())
            file.write("".join(_line(row) for row in new.values()).encode())
        self.tail = None

    def _parse(self, fields: list[str], number: int) -> MetricRow | CaseRow | GateRow:
        try:
            cells: list[Any] = [int(fields[0]), *fields[1 : self.num_key]]
            value = fields[self.num_key]
            if self.row_type is not MetricRow:
                return self.row_type._make([*cells, float(value) if value else None])
            return MetricRow._make([*cells, float(value) if value else math.nan, int(fields[-1])])
        except (ValueError, TypeError, IndexError):
            raise BadInput(
                f"{self.path}, line {number}: {','.join(fields)!r} is not {self.header.strip()!r}; the "
                "file was changed or damaged: remove the line or start anew with overwrite=true"
            ) from None


def _stays(row: MetricRow | CaseRow | GateRow, after_round: int) -> bool:
    return row.round <= after_round and row.split != "test"


def _line(row: MetricRow | CaseRow | GateRow) -> str:
    cells: list[object] = []
    for name, cell in zip(row._fields, row, strict=True):
        if name == "value":
            # repr is read back to the same bits
            cell = "" if row.value is None or math.isnan(row.value) else repr(float(row.value))
        elif isinstance(cell, str) and re.search(r"[\r\n\0]", cell):
            raise BadInput(f"{name} {cell!r} contains a line break; rename it")
        cells.append(cell)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
