"""Sites by their numbers alone, for what is planned before any picture is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedlit.data.augmentation import Augmentation
from fedlit.data.manifest import SPLITS, Row
from fedlit.data.reading import num_slices
from fedlit.errors import BadInput

OWN_SIZES = ((1024, 1024), (1536, 2048), (2048, 1280))  # tried where sizes are not known: a crop makes them one


@dataclass(frozen=True)
class Outline:
    """A site's name, role (see `Site`) and number of pictures in each split, slices of volumes counted one by one.

    `patients` of the training pictures; None where they are not known.
    """

    name: str
    role: str
    train: int
    val: int
    test: int
    patients: int | None = field(default=None, compare=False)

    @property
    def num_pictures(self) -> int:
        return self.train + self.val + self.test


def outlines(rows: Sequence[Row], roles: Mapping[str, str]) -> list[Outline]:
    """The sites of these rows in order of their names; of a volume the header is read.

    Raises one `BadInput` with all headers that cannot be read.
    """
    found: Counter[tuple[str, str | None]] = Counter()
    problems = []
    for row in rows:
        try:
            found[row.site, row.split] += num_slices(row.image)
        except BadInput as error:
            problems.append(str(error))
    if problems:
        raise BadInput("\n  ".join(["The headers of volumes cannot be read:", *problems]))
    groups = {name: {row.group for row in rows if (row.site, row.split) == (name, "train")} for name in roles}
    counts = {name: [found[name, split] for split in SPLITS] for name in roles}
    return [replace(Outline(name, roles[name], *counts[name]), patients=len(groups[name])) for name in sorted(roles)]


def augmented_size(size: tuple[int, int] | None, augment: Sequence | None, channels: int = 1) -> tuple[int, int] | None:
    """(H, W) of training pictures after augmentation, by trying it; None where it depends on the picture or on chance.

    Args:
        size: before augmentation, None where pictures keep their own sizes.

    Raises:
        BadInput: the augmentation fails on a picture of this size.
    """
    if not augment:
        return size
    augmentation = Augmentation(tuple(augment))
    afters = set()
    for seed in range(8):
        before = size or OWN_SIZES[seed % len(OWN_SIZES)]
        image = np.random.default_rng(seed).random((*before, channels), np.float32)
        try:
            afters.add(augmentation(image, np.zeros(before, np.uint8), seed)[0].shape[:2])
        except BadInput:
            if size:
                raise
            return None
    return afters.pop() if len(afters) == 1 else None
