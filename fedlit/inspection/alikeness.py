"""Pictures that are nearly the same: pairs of fingerprints a few bits apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

NUM_BITS = 255
CLOSE = 22
"""Bits. Copies rescaled by half, saved as JPEG of quality 50 or with noise of 8 grey levels were at most 10 bits apart,
with a gamma of 0.7 at most 26; of 450 chest X-rays and fundus pictures of different patients, all but two that show the
same eye at least 26."""
BLOCK = 2048  # fingerprints compared with as many others at once: 16 MB


class Pair(NamedTuple):
    """Two places in what was compared, the first below the second, and how many bits they differ in."""

    first: int
    second: int
    distance: int


def close_pairs(fingerprints: Sequence[bytes], patients: Sequence[object], *, most: int = CLOSE) -> Iterator[Pair]:
    """Pairs of different `patients` at most so many bits apart, in order of their places.

    Every pair is compared, by products of matrices: memory does not grow with their number.
    """
    if not fingerprints:
        return
    bits = np.unpackbits(np.frombuffer(b"".join(fingerprints), np.uint8).reshape(len(fingerprints), -1), axis=1)
    codes = {patient: code for code, patient in enumerate(dict.fromkeys(patients))}
    owner = np.array([codes[patient] for patient in patients])
    for start in range(0, len(bits), BLOCK):
        rows = _signs(bits[start : start + BLOCK])
        for other in range(start, len(bits), BLOCK):
            columns = _signs(bits[other : other + BLOCK])
            distances = (NUM_BITS - rows @ columns.T) / 2
            is_close = (distances <= most) & (owner[start : start + BLOCK, None] != owner[None, other : other + BLOCK])
            for row, column in zip(*np.nonzero(is_close), strict=True):
                if start + row < other + column:
                    yield Pair(int(start + row), int(other + column), round(float(distances[row, column])))


def _signs(bits: np.ndarray) -> np.ndarray:
    return 2 * bits[:, :NUM_BITS].astype(np.float32) - 1
