"""Reads sites.csv: which picture belongs to which site, split and patient."""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from fedlit.data.slices import Slice, read_slice
from fedlit.errors import BadInput
from fedlit.seeding import address

SPLITS = ("train", "val", "test")
REQUIRED = ("site", "image", "mask", "group")
SITE_NAME = re.compile(r"\w([\w .+-]*[\w.+-])?")  # also names folders and stands in a seed's address: no slash


@dataclass(frozen=True)
class Row:
    """One case, or one slice of a case: a picture or a volume with its mask."""

    site: str
    image: Path  # absolute, links resolved, inside the root
    mask: Path
    split: str | None  # None when the manifest has no such column
    group: str  # the patient, unique within its site
    spacing: tuple[float, ...] | None  # as written: 1 to 3 numbers, mm
    line: int  # in the file, from 1
    name: str  # the image as written in the manifest
    slice: Slice | None = None  # of a picture that is part of a volume


def refuse(problems: Sequence[str], heading: str) -> NoReturn:
    """Raise one `BadInput` that lists the first 20 problems."""
    lines = list(problems[:20])
    if len(problems) > 20:
        lines.append(f"and {len(problems) - 20} more")
    raise BadInput("\n  ".join([f"{heading}:", *lines]))


def manifest_problems(root: str | Path, file: str = "sites.csv") -> list[str]:
    """What is wrong with the folder, the file or its columns, without looking at a row."""
    path = Path(root).expanduser() / file
    if not path.parent.is_dir():
        return [f"data.root={str(root)!r} is no folder; give the folder that holds {file}"]
    if not path.is_file():
        return [
            f"{path} does not exist; a manifest has the columns site,image,mask,group and optionally split and spacing"
        ]
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            header = next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [f"{path} cannot be read ({error}); save it as comma-separated text in UTF-8"]
    columns = [column.strip() for column in header]
    problems = [f"{path}: the column {name!r} is missing; found {columns}" for name in REQUIRED if name not in columns]
    if problems and "image" in columns and "mask" not in columns:
        problems.append("without masks nothing can be trained or scored; fedlit predict RUN IMAGES makes some")
    if problems and len(columns) == 1 and (";" in columns[0] or "\t" in columns[0]):
        return [f"{path}: columns are separated by {';' if ';' in columns[0] else 'tabs'}; save it comma-separated"]
    twice = sorted({column for column in columns if columns.count(column) > 1 and column})
    return problems + [f"{path}: the column {column!r} appears twice" for column in twice]


def read_manifest(root: str | Path, file: str = "sites.csv") -> list[Row]:
    """The rows of `root/file`, in its order. Columns: site, image, mask, group, optionally split (train, val or test)
    and spacing in mm (one number, `row column` or `slice row column`, separated by blanks or x); of a picture that is a
    slice of a volume also slice (its number there), volume (by default the patient) and slice_spacing in mm: the slices
    are scored together. Others are ignored.

    Paths are relative to the root and may not leave it, not through a link either. All problems are raised as one
    `BadInput`.
    """
    if problems := manifest_problems(root, file):
        refuse(problems, "The manifest cannot be used")
    root = Path(root).expanduser().resolve()
    rows: list[Row] = []
    problems = []
    with (root / file).open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        columns = [column.strip() for column in next(reader)]
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    where = f"{file} line {reader.line_num}"
                    if len(cells) != len(columns):
                        problems.append(f"{where}: {len(cells)} cells, but the header has {len(columns)}")
                        continue
                    record = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
                    row, found = _row(record, root, where, reader.line_num)
                    problems += found
                    rows += [row] if row else []
        except (UnicodeDecodeError, csv.Error) as error:
            problems.append(f"{file} line {reader.line_num}: {error}; save it as comma-separated text in UTF-8")
    if not rows and not problems:
        problems.append(f"{root / file} has no rows")
    if problems:
        refuse(problems, f"{root / file} has problems")
    return rows


def _row(record: dict[str, str], root: Path, where: str, line: int) -> tuple[Row | None, list[str]]:
    problems = [f"{where}: {name} is empty" for name in ("site", "group") if not record[name]]
    site, split = record["site"], record.get("split")
    if site and not SITE_NAME.fullmatch(site):
        problems.append(f"{where}: site={site!r}; allowed are letters, digits, blank and _ . + - inside")
    if split is not None and split not in SPLITS:
        problems.append(f"{where}: split={split!r}; allowed are train, val, test (or no split column at all)")
    paths = {}
    for column in ("image", "mask"):
        try:
            paths[column] = _inside(root, record[column])
        except ValueError as error:
            problems.append(f"{where}: {column}={record[column]!r} {error}")
    spacing = None
    try:
        spacing = _spacing(record.get("spacing", ""))
    except ValueError:
        allowed = "one number, `row column` or `slice row column`, in mm above 0"
        problems.append(f"{where}: spacing={record['spacing']!r}; allowed are {allowed}")
    own = None
    try:
        own = read_slice(record)
    except ValueError as error:
        problems.append(f"{where}: {error}")
    if problems:
        return None, problems
    name = record["image"]
    return Row(site, paths["image"], paths["mask"], split, record["group"], spacing, line, name, own), []


def _inside(root: Path, cell: str) -> Path:
    if not cell:
        raise ValueError("is empty; every case needs an image and a mask")
    try:
        path = (root / cell).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"is no usable path ({error})") from None
    if not path.is_relative_to(root):
        raise ValueError(f"leads to {path}, outside of {root}; copy the file there, or choose data.root above it")
    if not path.is_file():
        raise ValueError(f"does not exist in {root}")
    return path


def _spacing(text: str) -> tuple[float, ...] | None:
    if not text:
        return None
    numbers = tuple(float(part) for part in re.split(r"\s*[x×]\s*|\s+", text))
    if len(numbers) > 3 or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ValueError(text)
    return numbers


def split_by_group(rows: Sequence[Row], *, fractions: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0) -> list[Row]:
    """The rows with a split each: at every site whole patients go to train, val or test, in the order of a hash.

    `fractions` (train, val, test) are of patients and sum to 1. A site of three patients or more gets every split whose
    fraction is not 0; one of two has no val, one of one only train. The order of the rows does not matter.
    """
    if len(fractions) != 3 or min(fractions) < 0 or fractions[0] <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise BadInput(f"data.fractions={tuple(fractions)}; needs (train, val, test), train above 0, with the sum 1")
    groups = defaultdict(set)
    for row in rows:
        groups[row.site].add(row.group)
    split_of = {}
    for site, names in groups.items():
        ordered = sorted(names, key=lambda group: (address(seed, site, "split", group), group))
        num_test, num_val = _num_held_out(len(ordered), fractions)
        for position, group in enumerate(ordered):
            split = "test" if position < num_test else "val" if position < num_test + num_val else "train"
            split_of[site, group] = split
    return [replace(row, split=split_of[row.site, row.group]) for row in rows]


def resplit(rows: Sequence[Row], *, seed: int) -> list[Row]:
    """The rows with every site's patients dealt anew into its train, val and test, in the order of a hash.

    Each split keeps its number of patients, and each patient is whole in one. The order of the rows does not matter.
    """
    numbers: defaultdict[str, dict[str, int]] = defaultdict(dict)  # of each patient's split; one in two is in the later
    for row in rows:
        assert row.split is not None, "there is no split yet to keep the numbers of"
        own = numbers[row.site]
        own[row.group] = max(own.get(row.group, 0), SPLITS.index(row.split))
    split_of = {}
    for site, own in numbers.items():
        shuffled = sorted(own, key=lambda group: (address(seed, site, "resplit", group), group))
        for group, number in zip(shuffled, sorted(own.values()), strict=True):
            split_of[site, group] = SPLITS[number]
    return [replace(row, split=split_of[row.site, row.group]) for row in rows]


def dealt(rows: Sequence[Row], members: Collection[str], *, seed: int) -> list[Row]:
    """The rows with the members' training patients dealt at random among them: what is learnt from is alike everywhere.

    Each member keeps its number of patients, and its own val and test. The order of the rows does not matter.
    """
    patients = sorted({(row.site, row.group) for row in rows if row.split == "train" and row.site in members})
    shuffled = sorted(patients, key=lambda patient: address(seed, "deal", *patient))
    home = {patient: site for patient, (site, _) in zip(shuffled, patients, strict=True)}

    def moved(row: Row) -> Row:
        if row.split != "train" or row.site not in members:
            return row
        own = row.slice and row.slice._replace(volume=f"{row.site}/{row.slice.volume}")
        return replace(row, site=home[row.site, row.group], group=f"{row.site}/{row.group}", slice=own)

    return [moved(row) for row in rows]


def _num_held_out(num_groups: int, fractions: Sequence[float]) -> tuple[int, int]:
    _, val, test = fractions
    num_test = max(1, round(test * num_groups)) if test > 0 and num_groups >= 2 else 0
    num_val = max(1, round(val * num_groups)) if val > 0 and num_groups >= 3 else 0
    while num_test + num_val >= num_groups:  # training keeps at least one patient
        num_test, num_val = (num_test - 1, num_val) if num_test >= num_val else (num_test, num_val - 1)
    return num_test, num_val
