"""Smooth shapes for drawing: functions that are positive inside, so cutting and joining are soft minima and maxima."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def step(distance: np.ndarray, softness: float) -> np.ndarray:
    """0 outside, 1 inside, over about `softness` on each side of the edge."""
    return 0.5 + 0.5 * np.tanh(distance / softness)


def ridge(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((distance / width) ** 2))


def meet(*shapes: np.ndarray, k: float = 0.03) -> np.ndarray:
    """The intersection of shapes, with corners rounded at scale k."""
    lowest = np.minimum.reduce(shapes)
    return lowest - k * np.log(sum(np.exp((lowest - shape) / k) for shape in shapes))


def join(*shapes: np.ndarray, k: float = 0.03) -> np.ndarray:
    return -meet(*(-shape for shape in shapes), k=k)


def superellipse(x: np.ndarray, y: np.ndarray, rx: float, ry: float, power: float = 2.0) -> np.ndarray:
    return (1 - (np.abs(x / rx) ** power + np.abs(y / ry) ** power) ** (1 / power)) * min(rx, ry)


@lru_cache
def bumps(knots: int, size: int) -> np.ndarray:
    """[size, knots + 2]: Gaussian weights of knots (one beyond each end) at pixels; the squares of a row sum to 1."""
    place = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size * knots + 0.5
    weights = ridge(place - np.arange(knots + 2, dtype=np.float32), 0.8)
    return weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))


def clouds(rng: np.random.Generator, knots: int, size: int) -> np.ndarray:
    """Smooth noise [size, size] of unit variance with `knots` bumps a side: the same picture at every size."""
    weights = bumps(knots, size)
    grid = rng.standard_normal((knots + 2, knots + 2)).astype(np.float32)
    rows = np.einsum("yk,kl->yl", weights, grid)  # einsum, as BLAS may add in another order on other numbers of threads
    return np.einsum("yl,xl->yx", rows, weights)
