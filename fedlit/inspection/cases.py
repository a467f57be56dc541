"""Slices in files of their own seen as the volumes that they are: one look a case, as where a file holds them all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from fedlit.data.manifest import Row
from fedlit.data.slices import volume_spacing
from fedlit.inspection.measuring import MOST_VALUES, Look

Place = tuple[str, str, bool]
"""The site of a case, its name there, and whether it is made of slices."""


def place(row: Row) -> Place:
    """What the row's case is: the picture or the file itself, or the volume that it is a slice of."""
    return (row.site, row.name, False) if row.slice is None else (row.site, row.slice.volume, True)


def shares(rows: Iterable[Row]) -> dict[Place, float]:
    """Of each case what one of its files counts, so that every case counts 1."""
    return {case: 1 / number for case, number in Counter(map(place, rows)).items()}


def cases_of(looks: Iterable[Look]) -> list[Look]:
    """One look for each case, in the order in which their first files come."""
    found: dict[Place, list[Look]] = defaultdict(list)
    for look in looks:
        found[place(look.row)].append(look)
    return [own[0] if own[0].row.slice is None else _whole(own) for own in found.values()]


def _whole(slices: Sequence[Look]) -> Look:
    """The look at a volume; its row is that of the slice with most foreground, under the volume's name."""
    slices = sorted(slices, key=_number)
    fullest = max(slices, key=lambda look: look.foreground)
    assert fullest.row.slice is not None
    values = sorted({value for look in slices for value in look.values})
    return replace(
        fullest,
        row=replace(fullest.row, name=fullest.row.slice.volume),
        num_pictures=sum(look.num_pictures for look in slices),
        channels=max(look.channels for look in slices),
        low=min(look.low for look in slices),
        high=max(look.high for look in slices),
        spacing=volume_spacing(fullest.row),
        features=np.mean([look.features for look in slices], axis=0),
        foreground=float(np.mean([look.foreground for look in slices])),
        num_empty=sum(look.num_empty for look in slices),
        values=tuple(values[:MOST_VALUES]),
        is_volume=True,
    )


def _number(look: Look) -> int:
    assert look.row.slice is not None
    return look.row.slice.number
