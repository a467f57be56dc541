"""A batch still to be read: small enough to be sent to a worker, which calls it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlit.data.augmentation import Augmentation
from fedlit.data.pack import JoinedPack, Pack
from fedlit.errors import BadInput


@dataclass(frozen=True, eq=False)
class Request:
    """The pictures `rows` of a pack; `indices` are their numbers for the caller. Called, it reads and augments them.

    `table` bool [K, V] says which codes belong to which class; one seed per picture, or None for no augmentation.
    """

    pack: Pack | JoinedPack
    rows: np.ndarray
    indices: np.ndarray
    table: np.ndarray
    augmentation: Augmentation | None = None
    seeds: tuple[int, ...] | None = None

    def __call__(self) -> dict[str, Tensor]:
        if self.augmentation is None or self.seeds is None:
            same_size(self.pack, self.rows)
            image, codes = self.pack.images(self.rows), self.pack.codes(self.rows)
        else:
            image, codes = self._augmented(self.augmentation, self.seeds)
        return {"image": channels_first(image), "target": self._planes(codes), "index": torch.from_numpy(self.indices)}

    def _augmented(self, augmentation: Augmentation, seeds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        changed = []
        for position, seed in enumerate(seeds):
            row = self.rows[position : position + 1]
            changed.append(augmentation(self.pack.images(row)[0], self.pack.codes(row)[0], seed))
        images, codes = zip(*changed, strict=True)
        if len(sizes := {one.shape[:2] for one in images}) > 1:
            raise BadInput(_unequal(sizes, "after augmentation"))
        return np.stack(images), np.stack(codes)

    def _planes(self, codes: np.ndarray) -> Tensor:
        planes = np.zeros((len(codes), len(self.table), *codes.shape[1:]), bool)
        for number, code in np.argwhere(self.table):  # comparing is 10 times as fast as table[codes] (measured)
            planes[:, number] |= codes == code
        return torch.from_numpy(planes.astype(np.float32))

    def portable(self) -> Request:
        """The same batch without what it does not need."""
        pack, rows = self.pack.portable(self.rows)
        return Request(pack, rows, self.indices, self.table, self.augmentation, self.seeds)


def channels_first(images: np.ndarray) -> Tensor:
    """[B, H, W, C] to [B, C, H, W], contiguous."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def same_size(pack: Pack | JoinedPack, rows: np.ndarray) -> None:
    sizes = pack.sizes[rows]
    if len(rows) and (sizes != sizes[0]).any():
        raise BadInput(_unequal({tuple(size) for size in sizes.tolist()}, "in one batch"))


def _unequal(sizes: set[tuple[int, int]], where: str) -> str:
    found = ", ".join(f"{height}x{width}" for height, width in sorted(sizes)[:5])
    return f"pictures of different sizes {where} ({found}); set data.image_size=..., or end data.augment with a crop"
