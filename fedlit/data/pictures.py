"""The pictures of one site and one split, as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from fedlit.data.augmentation import Augmentation
from fedlit.data.pack import JoinedPack, Pack
from fedlit.data.request import Request, channels_first, same_size
from fedlit.errors import BadInput

Stack = TypeVar("Stack")


class Case(NamedTuple):
    """What is scored once: a picture, or all slices of a volume.

    `indices` are its pictures, in order; `group` is the patient, unique within its site; `spacing` in mm is
    (row, column) of a picture, (slice, row, column) of a volume, or None. `numbers` are the places of its slices where
    they were files of their own, of which some may be missing; empty where all are there.
    """

    id: str
    indices: tuple[int, ...]
    group: str
    spacing: tuple[float, ...] | None = None
    is_volume: bool = False
    numbers: tuple[int, ...] = ()


class Pictures:
    """2D pictures in the order of their cases' ids, so that the order in a manifest never matters.

    `table` [K, V] says which mask codes (0 to V - 1) belong to each of K classes; planes may overlap. Batches without
    augmentation are one fancy index on the memory map when all pictures have one size.
    """

    def __init__(
        self,
        pack: Pack | JoinedPack,
        *,
        cases: Sequence[Case],
        rows: Sequence[int] | np.ndarray,
        table: np.ndarray,
        augmentation: Augmentation | None = None,
        name: str = "",
    ) -> None:
        self.cases, self.name, self.augmentation = tuple(cases), name, augmentation
        self.num_classes, self.channels = len(table), pack.channels
        self._pack, self._rows, self._table = pack, np.asarray(rows, np.int64), np.asarray(table, bool)
        assert sum(len(case.indices) for case in self.cases) == len(self._rows)

    @classmethod
    def from_arrays(
        cls,
        images: np.ndarray,
        masks: np.ndarray,
        table: np.ndarray | Sequence | None = None,
        *,
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        spacing: tuple[float, float] | None = None,
        augmentation: Augmentation | None = None,
        name: str = "",
    ) -> Pictures:
        """Pictures from memory, one case each: images uint8 or uint16 [N, H, W, C] (the type's range means [0, 1]) and
        masks uint8 codes [N, H, W]. Without a table code 1 is class 0, code 2 class 1, and so on. Sorted by id."""
        if images.ndim != 4 or images.dtype not in (np.uint8, np.uint16) or masks.shape != images.shape[:3]:
            found = f"images {images.dtype} {images.shape} and masks {masks.shape}"
            raise BadInput(f"{found}; needs uint8 or uint16 [N, H, W, C] and [N, H, W]")
        num, height, width, channels = images.shape
        ids = list(ids) if ids is not None else [f"{number:06d}" for number in range(num)]
        groups = list(groups) if groups is not None else ids
        order = sorted(range(num), key=lambda number: ids[number])
        if table is None:
            table = np.eye(max(2, int(masks.max(initial=0)) + 1), dtype=bool)[1:]
        sizes = np.tile((height, width), (num, 1))
        pack = Pack(np.ascontiguousarray(images), np.ascontiguousarray(masks, np.uint8), sizes=sizes, channels=channels)
        cases = [Case(ids[number], (place,), str(groups[number]), spacing) for place, number in enumerate(order)]
        return cls(pack, cases=cases, rows=order, table=np.asarray(table), augmentation=augmentation, name=name)

    @classmethod
    def pooled(cls, parts: Sequence[Pictures], *, name: str = "pooled") -> Pictures:
        """The pictures of several sites as one set, in the given order; ids and groups open with the site's name."""
        first = parts[0]
        if any(part.channels != first.channels or not np.array_equal(part._table, first._table) for part in parts):
            raise BadInput("pictures to be pooled differ in channels or classes; use one data.channels and data.labels")
        cases, rows, start, offset = [], [], 0, 0
        for part in parts:
            for case in part.cases:
                indices = tuple(index + start for index in case.indices)
                cases.append(
                    case._replace(id=f"{part.name}/{case.id}", group=f"{part.name}/{case.group}", indices=indices)
                )
            rows.append(part._rows + offset)
            start, offset = start + len(part), offset + len(part._pack)
        pack = JoinedPack([part._pack for part in parts])
        return cls(
            pack, cases=cases, rows=np.concatenate(rows), table=first._table, augmentation=first.augmentation, name=name
        )

    def __len__(self) -> int:
        """The number of 2D pictures."""
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Pictures({self.name!r}, {len(self)} pictures in {len(self.cases)} cases)"

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of all pictures, None when they differ or there are none."""
        sizes = np.unique(self._pack.sizes[self._rows], axis=0)
        return tuple(sizes[0].tolist()) if len(sizes) == 1 else None

    @property
    def smallest(self) -> tuple[int, int] | None:
        """(H, W) of the picture with the shortest side; None where there are no pictures."""
        sizes = self._pack.sizes[self._rows]
        return tuple(sizes[sizes.min(axis=1).argmin()].tolist()) if len(sizes) else None

    def request(self, indices: Sequence[int] | np.ndarray, seeds: Sequence[int] | None = None) -> Request:
        """What `batch` would read. One seed per picture asks for augmentation."""
        indices = np.array(indices, np.int64)
        seeds = None if seeds is None or self.augmentation is None else tuple(seeds)
        assert seeds is None or len(seeds) == len(indices)
        return Request(self._pack, self._rows[indices], indices, self._table, self.augmentation, seeds)

    def batch(self, indices: Sequence[int] | np.ndarray, seeds: Sequence[int] | None = None) -> dict[str, Tensor]:
        """image float32 [B, C, H, W] in [0, 1], target float32 [B, K, H, W] of 0 and 1, index int64 [B].

        With one seed per picture they are augmented. Raises `BadInput` when the pictures then differ in size.
        """
        return self.request(indices, seeds)()

    def images(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """image float32 [B, C, H, W] in [0, 1], never augmented; the masks are not touched."""
        rows = self._rows[np.array(indices, np.int64)]
        same_size(self._pack, rows)
        return channels_first(self._pack.images(rows))

    def unlabelled(self) -> Unlabelled:
        return Unlabelled(self.cases, self.images, size=self.size, channels=self.channels, name=self.name)


class Unlabelled:
    """Pictures as a predictor sees them: no targets.

    Args:
        cases: their indices count all pictures.
        images: indices -> image float32 [B, C, H, W] in [0, 1].
        size: (H, W) of all pictures, None where they differ.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        images: Callable[[Sequence[int] | np.ndarray], Tensor],
        *,
        size: tuple[int, int] | None,
        channels: int,
        name: str = "",
    ) -> None:
        self.cases, self.channels, self.name, self.size = tuple(cases), channels, name, size
        self._images, self._num = images, sum(len(case.indices) for case in cases)

    def __len__(self) -> int:
        return self._num

    def images(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        return self._images(indices)

    def batch(self, indices: Sequence[int] | np.ndarray, seeds: Sequence[int] | None = None) -> dict[str, Tensor]:
        raise AssertionError(f"a predictor asked for the labels of {self.name}: it may only see images(indices)")


def batches_of_cases(cases: Iterable[Case], has_one_size: bool, batch_size: int) -> Iterator[list[Case]]:
    """Whole cases together, about `batch_size` pictures at once; one by one where sizes differ."""
    return in_batches(cases, has_one_size, batch_size, lambda case: len(case.indices))


def in_batches(
    stacks: Iterable[Stack], has_one_size: bool, batch_size: int, num_pictures: Callable[[Stack], int]
) -> Iterator[list[Stack]]:
    """Whole stacks of pictures together, about `batch_size` pictures at once; one by one where sizes differ."""
    group: list[Stack] = []
    for stack in stacks:
        group.append(stack)
        if not has_one_size or sum(map(num_pictures, group)) >= batch_size:
            yield group
            group = []
    if group:
        yield group
