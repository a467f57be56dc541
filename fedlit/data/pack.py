"""Many pictures and their label codes in one block of bytes, in memory or mapped from a file."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class Pack:
    """Pictures by number. `images` holds the pixels [H, W, C] of all, one after another, as uint8 or uint16 whose range
    means [0, 1]; `codes` the label codes [H, W], uint8; `sizes` is [N, 2] (H, W).

    A pack on disk travels to another process as its folder's name, one in memory as its arrays.
    """

    def __init__(
        self, images: np.ndarray, codes: np.ndarray, *, sizes: np.ndarray, channels: int, folder: Path | None = None
    ) -> None:
        self.sizes, self.channels, self._folder = np.asarray(sizes, np.int64).reshape(-1, 2), channels, folder
        self._images, self._codes = images.reshape(-1), codes.reshape(-1)
        self._full_scale = np.float32(np.iinfo(images.dtype).max)
        self._starts = np.concatenate([[0], np.cumsum(self.sizes.prod(axis=1))])
        self._same_size = len(self.sizes) > 0 and bool((self.sizes == self.sizes[0]).all())
        if self._same_size:
            height, width = self.sizes[0]
            self._image_stack = self._images.reshape(-1, height, width, channels)
            self._code_stack = self._codes.reshape(-1, height, width)

    def __len__(self) -> int:
        return len(self.sizes)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """float32 [B, H, W, C] in [0, 1]; the pictures asked for must have one size."""
        if self._same_size:
            stored = self._image_stack[rows]
        else:
            height, width = self.sizes[rows[0]]
            ends = self._starts * self.channels
            pieces = [self._images[ends[row] : ends[row + 1]] for row in rows]
            stored = np.stack(pieces).reshape(-1, height, width, self.channels)
        return np.divide(stored, self._full_scale, dtype=np.float32)

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [B, H, W]; the pictures asked for must have one size."""
        if self._same_size:
            return self._code_stack[rows]
        height, width = self.sizes[rows[0]]
        pieces = [self._codes[self._starts[row] : self._starts[row + 1]] for row in rows]
        return np.stack(pieces).reshape(-1, height, width)

    def portable(self, rows: np.ndarray) -> tuple[Pack, np.ndarray]:
        """A pack that is cheap to send and holds at least these pictures, and their numbers in it."""
        if self._folder is not None:
            return self, rows
        starts, channels = self._starts, self.channels
        images = [self._images[starts[row] * channels : starts[row + 1] * channels] for row in rows]
        codes = [self._codes[starts[row] : starts[row + 1]] for row in rows]
        part = Pack(np.concatenate(images), np.concatenate(codes), sizes=self.sizes[rows], channels=channels)
        return part, np.arange(len(rows))

    def __reduce__(self):
        if self._folder is not None:
            return open_pack, (self._folder,)
        return _in_memory, (self._images, self._codes, self.sizes, self.channels)


class JoinedPack:
    """Several packs as one: the pictures of the first, then those of the second, and so on."""

    channels: int
    sizes: np.ndarray

    def __init__(self, packs: Sequence[Pack | JoinedPack]) -> None:
        self.packs, self.channels = tuple(packs), packs[0].channels
        self.sizes = np.concatenate([pack.sizes for pack in packs])
        self.offsets = np.concatenate([[0], np.cumsum([len(pack) for pack in packs])])

    def __len__(self) -> int:
        return len(self.sizes)

    def images(self, rows: np.ndarray) -> np.ndarray:
        return self._gather(rows, "images", (self.channels,), np.float32)

    def codes(self, rows: np.ndarray) -> np.ndarray:
        return self._gather(rows, "codes", (), np.uint8)

    def _gather(self, rows: np.ndarray, what: str, tail: tuple[int, ...], dtype: type) -> np.ndarray:
        out = np.empty((len(rows), *self.sizes[rows[0]], *tail), dtype)
        owners = np.searchsorted(self.offsets, rows, side="right") - 1
        for owner in np.unique(owners):
            mine = owners == owner
            out[mine] = getattr(self.packs[owner], what)(rows[mine] - self.offsets[owner])
        return out

    def portable(self, rows: np.ndarray) -> tuple[JoinedPack, np.ndarray]:
        owners = np.searchsorted(self.offsets, rows, side="right") - 1
        parts, numbers, start = [], np.empty(len(rows), np.int64), 0
        for owner in np.unique(owners):
            mine = owners == owner
            part, own_rows = self.packs[owner].portable(rows[mine] - self.offsets[owner])
            numbers[mine], start = own_rows + start, start + len(part)
            parts.append(part)
        return JoinedPack(parts), numbers


def _in_memory(images: np.ndarray, codes: np.ndarray, sizes: np.ndarray, channels: int) -> Pack:
    return Pack(images, codes, sizes=sizes, channels=channels)


@functools.cache  # one mapping, and one open file, per pack and process
def open_pack(folder: Path) -> Pack:
    """The pack that `cache.py` wrote into a folder. Raises OSError or ValueError when its files are not whole."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    dtype, channels, sizes = np.dtype(index["dtype"]), index["channels"], np.array(index["sizes"], np.int64)
    num_pixels = int(sizes.prod(axis=1).sum())
    block = np.asarray(np.memmap(folder / "pixels.bin", np.uint8, mode="r"))
    split = num_pixels * channels * dtype.itemsize
    if len(block) != split + num_pixels:
        raise ValueError(f"{folder / 'pixels.bin'} has {len(block)} bytes instead of {split + num_pixels}")
    return Pack(block[:split].view(dtype), block[split:], sizes=sizes, channels=channels, folder=folder)
