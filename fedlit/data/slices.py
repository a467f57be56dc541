"""Slices in files of their own, put together as the volume that they were: what is scored once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fedlit.errors import BadInput

if TYPE_CHECKING:  # who only reads a manifest needs no torch
    from fedlit.data.cache import PackedCase
    from fedlit.data.manifest import Row
    from fedlit.data.pictures import Case
    from fedlit.data.preparing import Preparation


class Slice(NamedTuple):
    """Where a picture belongs: its volume, unique within the site, its number there, mm to the next one if known."""

    volume: str
    number: int
    step: float | None


def read_slice(cells: Mapping[str, str]) -> Slice | None:
    """The cells volume, slice and slice_spacing of a row; None of a picture that is a case of its own.

    Without a volume the slices of a patient (group) are one. Raises ValueError with what is wrong.
    """
    volume, number, step = (cells.get(name, "") for name in ("volume", "slice", "slice_spacing"))
    if not number:
        if volume:
            raise ValueError(f"slice is empty, and volume={volume!r}; number its slices, or leave both empty")
        if step:
            raise ValueError(f"slice is empty, and slice_spacing={step!r}; number the slices, or leave both empty")
        return None
    if not number.isascii() or not number.isdigit():
        raise ValueError(f"slice={number!r}; allowed are whole numbers from 0")
    try:
        distance = float(step) if step else None
    except ValueError:
        distance = 0.0
    if distance is not None and not 0 < distance < float("inf"):
        raise ValueError(f"slice_spacing={step!r}; allowed is one number in mm above 0")
    return Slice(volume or cells["group"], int(number), distance)


def slice_problems(rows: Iterable[Row], *, file: str) -> list[str]:
    """What keeps slices from being one volume: a number or name twice, two patients or splits, half of a spacing."""
    volumes: dict[tuple[str, str], list[Row]] = defaultdict(list)
    pictures = set()
    for row in rows:
        if row.slice is None:
            pictures.add((row.site, row.name))
        else:
            volumes[row.site, row.slice.volume].append(row)
    problems = []
    for (site, volume), own in volumes.items():
        told = f"{file}: volume {volume!r} of site {site!r}"
        numbers: dict[int, Row] = {}
        for row in own:
            assert row.slice is not None
            other = numbers.setdefault(row.slice.number, row)
            if other is not row:
                lines = f"lines {other.line} and {row.line}"
                problems.append(f"{told} has slice {row.slice.number} twice ({lines}); give each volume its own name")
        if (site, volume) in pictures:
            problems.append(f"{told} has the name of a picture; give each volume its own name")
        if len({row.group for row in own}) > 1:
            groups = ", ".join(sorted({row.group for row in own}))
            problems.append(f"{told} is of the patients {groups}; give each volume its own name")
        if len({row.split for row in own}) > 1 and len({row.group for row in own}) == 1:
            continue  # a patient in two splits, which is told elsewhere
        if len({volume_spacing(row) for row in own}) > 1:
            problems.append(f"{told} has slices of different spacing; a volume has one")
        elif half := _half_spacing(own[0]):
            problems.append(f"{told} has {half}")
    return problems


def _half_spacing(row: Row) -> str:
    """What is wrong with the two columns of a volume's spacing together; empty where they are right."""
    assert row.slice is not None
    if row.spacing is None:
        missing = "a slice_spacing and no spacing; add that column (row column, in mm), or leave both out for pixels"
        return missing if row.slice.step is not None else ""
    if len(row.spacing) == 3 and row.slice.step not in (None, row.spacing[0]):
        return f"a spacing of {row.spacing[0]:g} mm between slices and a slice_spacing of {row.slice.step:g}; give one"
    if volume_spacing(row) is None:
        return "a spacing and no slice_spacing; add that column, or leave both out for pixels"
    return ""


def volume_spacing(row: Row) -> tuple[float, ...] | None:
    """(slice, row, column) in mm; None where one of them is not known."""
    if row.spacing is None or row.slice is None:
        return None
    within, step = row.spacing, row.slice.step
    if len(within) == 3 or (len(within) == 1 and step is None):
        return within * 3 if len(within) == 1 else within
    return None if step is None else (step, *(within * 2 if len(within) == 1 else within))


def case_of(row: Row) -> tuple[str, int]:
    """What a row's case is called, and the row's place in it; pictures are kept in this order."""
    return (row.name, 0) if row.slice is None else (row.slice.volume, row.slice.number)


def cases_of(located: Sequence[tuple[Row, PackedCase]], preparation: Preparation, file: str) -> list[Case]:
    """The cases of rows in the order of `case_of`, each with the pictures that `located` gives it.

    Raises:
        BadInput: a spacing does not fit, or slices are no pictures of one size.
    """
    parts: dict[str, list[tuple[Row, PackedCase]]] = {}
    for row, place in located:
        parts.setdefault(case_of(row)[0], []).append((row, place))
    cases, start = [], 0
    for name, own in parts.items():
        row, place = own[0]
        try:
            case = _case(name, own, preparation, start)
        except BadInput as error:
            raise BadInput(f"{file} line {row.line}: {error}") from error
        cases.append(case)
        start += len(case.indices)
    return cases


def _case(name: str, own: Sequence[tuple[Row, PackedCase]], preparation: Preparation, start: int) -> Case:
    from fedlit.data.pictures import Case

    row, place = own[0]
    indices = tuple(range(start, start + sum(place.num_slices for _, place in own)))
    if row.slice is None:
        spacing = row.spacing or place.spacing
        spacing = preparation.spacing(spacing, decoded_size=place.size, is_volume=place.is_volume)
        return Case(name, indices, row.group, spacing, place.is_volume)
    for other, found in own:
        if found.is_volume or found.num_slices > 1:
            raise BadInput(f"{other.name} is a whole volume and not slice {other.slice and other.slice.number} of one")
        if found.size != place.size:
            sizes = " and ".join(f"{height}x{width}" for height, width in (place.size, found.size))
            raise BadInput(f"{row.name} and {other.name} are slices of one volume and differ in size, {sizes}")
    spacing = preparation.spacing(volume_spacing(row), decoded_size=place.size, is_volume=True)
    numbers = tuple(row.slice.number for row, _ in own if row.slice is not None)
    return Case(name, indices, row.group, spacing, True, numbers)
