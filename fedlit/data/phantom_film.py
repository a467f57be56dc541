"""From absorbed X-rays to a displayed picture: scatter, blur, noise, exposure, window, collimator, marker."""

from __future__ import annotations

from math import cos, exp, sin

import numpy as np

from fedlit.data.phantom_hospitals import Hospital
from fedlit.data.phantom_shapes import meet, step

GLYPHS = {"L": "100100100111", "R": "110101110101"}  # 4 rows of 3


def expose(total: np.ndarray, hospital: Hospital, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Absorption [size, size] (0 air, about 1 behind the heart) to grey in [0, 1], white where much is absorbed, and
    where the film was exposed at all: nobody outlines a lung behind the collimator."""
    from scipy.ndimage import gaussian_filter

    size = len(total)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    # drawn before the grain, whose amount depends on the size: the field of view must not
    exposed = aperture(size, rng) if rng.random() < hospital.collimation else np.ones((size, size), np.float32)
    bars = np.abs(axis)[:, None] > 1 - 2 * rng.uniform(0.04, 0.12) * (rng.random() < hospital.letterbox)
    vary = rng.standard_normal(8).clip(-2, 2).tolist()
    wide = gaussian_filter(total, 0.12 * size)
    total = total + hospital.scatter * (wide - total) - hospital.equalise * (wide - wide.mean())
    total = gaussian_filter(total, hospital.blur * size / 2)
    # fewer quanta arrive behind dense tissue: there the logarithm of their number is noisier
    strength = hospital.noise * np.exp(0.25 * vary[0] + 1.2 * (total - 0.5))
    total = total + strength * grain(rng, size, hospital.grain)
    total = total + hospital.heel * (axis[:, None] * cos(vary[1]) + axis * sin(vary[1]))
    level, width = hospital.level + 0.03 * vary[2], hospital.width * exp(0.1 * vary[3])
    grey = (0.5 + 0.5 * np.tanh(1.1 * (total - level) / width)) ** (hospital.gamma * exp(0.08 * vary[4]))
    grey = 1 - grey if rng.random() < hospital.inverted else grey
    grey = 0.02 + (grey - 0.02) * exposed
    grey = mark(grey, hospital.marker, rng) if rng.random() < 0.7 else grey
    return np.where(bars, 0, grey), (exposed > 0.5) & ~bars


def grain(rng: np.random.Generator, size: int, length: float) -> np.ndarray:
    """Noise [size, size] of unit variance, correlated over `length`."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.standard_normal((size, size)).astype(np.float32), length * size / 2, mode="wrap")
    return noise / noise.std()


def aperture(size: int, rng: np.random.Generator) -> np.ndarray:
    """The collimator's opening [size, size]: 1 inside of a slightly turned rectangle, 0 outside."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = axis[None], axis[:, None]
    turn, (left, right, top, bottom) = rng.normal(0, 0.03), rng.uniform(0.8, 1.05, 4)
    inside = meet(x + turn * y + left, right - x - turn * y, y - turn * x + top, bottom - y + turn * x, k=0.005)
    return step(inside, 0.01)


def mark(grey: np.ndarray, letter: str, rng: np.random.Generator) -> np.ndarray:
    """A bright letter in the upper corner of the side it names (the patient's left is on the right)."""
    size, pixel = len(grey), max(1, round(len(grey) / 90))
    glyph = np.array(list(GLYPHS[letter]), dtype=np.float32).reshape(4, 3).repeat(pixel, 0).repeat(pixel, 1)
    row, margin = int(size * rng.uniform(0.03, 0.08)), int(size * rng.uniform(0.06, 0.12))
    column = size - margin - 3 * pixel if letter == "L" else margin
    grey = grey.copy()
    patch = grey[row : row + 4 * pixel, column : column + 3 * pixel]
    np.maximum(patch, glyph, out=patch)
    return grey
