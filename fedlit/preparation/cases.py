"""What a reader finds in a published data set: cases still to be decoded, what is left out, what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Decoded:
    """A case in memory.

    `image` is [H, W] or [H, W, 3] of a picture, [D, H, W] or [D, H, W, 3] of a volume, in the numbers to be written;
    `mask` uint8 [H, W] or [D, H, W] with 0 for no class. Spacing in mm: (row, column) or (slice, row, column).
    """

    image: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, ...] | None = None
    affine: np.ndarray | None = None  # of a volume: voxel (column, row, slice) to mm, as NIfTI has it
    dropped: tuple[str, ...] = ()  # identifying fields that were in the source and are not passed on
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One picture, or one volume, of a site.

    `decode` is a `functools.partial` of a function of a module, so that another process can call it; it raises
    `BadInput` where the case cannot be used. `as_slices` writes a volume as one picture for each slice.
    """

    site: str
    name: str  # unique within its site
    group: str  # the patient, unique within its site
    decode: Callable[..., Decoded]  # called without arguments
    sources: tuple[Path, ...]
    split: str | None = None
    as_slices: bool = False
    slice_of: tuple[str, str] | None = None  # of a picture: its volume, unique within the site, and its number there


@dataclass(frozen=True)
class Skipped:
    """What is left out, and why."""

    what: str  # a path below SOURCE, or a case
    reason: str


@dataclass(frozen=True)
class About:
    """What dataset.json says of a data set. `labels`: class -> mask value or values, as `data.labels` takes them."""

    title: str
    labels: Mapping[str, int | list[int]]
    conventions: tuple[str, ...]  # how masks were read, and what else was decided, a line each
    licence: str
    citation: str


def nothing_to_say(sites: Collection[str]) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Found:
    """All that a reader knows before a picture is decoded. No order of the lists matters.

    `remarks` gives lines about sites; it is asked for those of which a case was written. `absent` are lines about what
    the set has and SOURCE lacks; they are not said where sites were chosen.
    """

    cases: list[Case]
    skipped: list[Skipped]
    about: About
    notes: list[str] = field(default_factory=list)
    extra: Mapping[str, Any] = field(default_factory=dict)  # further entries of dataset.json
    lost: Callable[[Collection[int], Sequence[Case]], list[Skipped]] | None = None
    """Classes of which nothing is there, by all values in the masks that were written and by the cases of these."""
    remarks: Callable[[Collection[str]], Sequence[str]] = nothing_to_say
    absent: list[str] = field(default_factory=list)


class Reader(Protocol):
    """A frozen dataclass whose fields are the options of one data set."""

    def find(self, source: Path) -> Found:
        """The cases below `source`. Raises `BadInput` when it is not laid out as published."""
        ...
