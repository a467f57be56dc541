"""Boxes and points that ask for an object, as carelessly as people set them."""

from __future__ import annotations

import numpy as np

from fedlit.micro_sam.drawing import Random

MOST_POINTS = 3
INSIDE, OUTSIDE, NO_POINT = 1, 0, -1


def box_of(mask: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom of a mask [H, W] that is not empty, the centres of its outermost pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)


def jittered(random: Random, box: np.ndarray, share: float, size: tuple[int, int]) -> np.ndarray:
    """A box whose every edge is moved by a normal of `share` of the box, kept in a picture of `size` [H, W]."""
    left, top, right, bottom = box
    width, height = right - left + 1, bottom - top + 1
    moved = box + random.normal(0, share, 4) * (width, height, width, height)
    rows, columns = size
    x = np.sort(moved[[0, 2]].clip(0, columns - 1))
    y = np.sort(moved[[1, 3]].clip(0, rows - 1))
    return np.array([x[0], y[0], x[1], y[1]], dtype=np.float32)


def points_of(random: Random, mask: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """`least` to MOST_POINTS places (x, y) [MOST_POINTS, 2] with their labels; the first is inside a mask."""
    num = int(random.integers(least, MOST_POINTS + 1))
    places = np.zeros((MOST_POINTS, 2), dtype=np.float32)
    labels = np.full(MOST_POINTS, NO_POINT, dtype=np.float32)
    left, top, right, bottom = box_of(mask)
    inside = np.flatnonzero(mask)
    for number in range(num):
        is_inside = number == 0 or random.random() < 0.5
        if is_inside:
            row, column = divmod(int(random.choice(inside)), mask.shape[1])
        else:
            column = int(random.integers(max(0, left - 12), min(mask.shape[1], right + 13)))
            row = int(random.integers(max(0, top - 12), min(mask.shape[0], bottom + 13)))
        places[number] = column, row
        labels[number] = INSIDE if mask[row, column] else OUTSIDE
    return places, labels
