"""What a drawn picture is made of: smooth outlines, filled areas, strokes, clouds, blur.

Places (x, y) run from -1 to 1 over the picture, y downwards; planes are float32 [SIZE, SIZE].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

SIZE = 128
"""Pixels of a side: what the micro SAM was made for."""
FINE = 2  # drawn this much larger, then averaged

Random = np.random.Generator
Plane = np.ndarray
Places = np.ndarray
Numbers = Sequence[float] | np.ndarray


def curve(points: Sequence[Numbers] | Places, *, closed: bool = True, steps: int = 6) -> Places:
    """A smooth line through points [N, 2], `steps` places a piece (Catmull-Rom)."""
    points = np.asarray(points, dtype=np.float32)
    around = np.concatenate([points[-1:], points, points[:2]] if closed else [points[:1], points, points[-1:]])
    num = len(points) if closed else len(points) - 1
    a, b, c, d = (around[offset : offset + num, None] for offset in range(4))
    t = np.linspace(0, 1, steps, endpoint=False, dtype=np.float32)[None, :, None]
    line = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return line.reshape(-1, 2) if closed else np.concatenate([line.reshape(-1, 2), points[-1:]])


def ring(center: Numbers, radii: Numbers, angle: float = 0.0, wobble: Numbers = ()) -> Places:
    """An ellipse [48, 2]; `wobble` holds sine and cosine of the 2nd, 3rd, ... harmonic as shares of the radius."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False, dtype=np.float32)
    radius = np.ones_like(turn)
    for number, share in enumerate(wobble):
        radius += share * (np.sin if number % 2 else np.cos)((number // 2 + 2) * turn)
    x, y = radii[0] * radius * np.cos(turn), radii[1] * radius * np.sin(turn)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([center[0] + cos * x - sin * y, center[1] + sin * x + cos * y], axis=1).astype(np.float32)


def fill(*outlines: Places) -> Plane:
    """The share of each pixel that lies in one of the outlines."""
    canvas, pen = _canvas()
    for outline in outlines:
        pen.polygon(_pixels(outline), fill=255)
    return _plane(canvas)


def strokes(lines: Iterable[tuple[Places, float]]) -> Plane:
    """Lines of a width in picture sides; the share of each pixel that they cover."""
    canvas, pen = _canvas()
    for line, width in lines:
        pen.line(_pixels(line), fill=255, width=max(1, round(width * SIZE * FINE)))
    return _plane(canvas)


def blur(plane: Plane, sigma: float) -> Plane:
    """Gaussian, `sigma` in pixels; a wide one is computed on fewer pixels, for speed."""
    if sigma < 2.5:
        return gaussian_filter(plane, sigma, truncate=2.5, mode="nearest")
    shrink = 2 if sigma < 6 else 4
    coarse = np.asarray(Image.fromarray(plane).reduce(shrink))
    soft = Image.fromarray(gaussian_filter(coarse, sigma / shrink, truncate=2.5, mode="nearest"))
    return np.asarray(soft.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def clouds(random: Random, cells: int | np.integer) -> Plane:
    """Smooth noise of `cells` bumps a side, deviation about 1."""
    coarse = Image.fromarray(random.standard_normal((cells + 2, cells + 2)).astype(np.float32))
    edge = 1 + random.random() * 0.5
    return 1.3 * np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (edge, edge, cells + 1, cells + 1)))


def smooth(plane: Plane, low: float, high: float) -> Plane:
    """0 below `low`, 1 above `high`, a cubic between."""
    share = np.clip((plane - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("L", (SIZE * FINE, SIZE * FINE))
    return canvas, ImageDraw.Draw(canvas)


def _pixels(places: Places) -> list[float]:
    return ((places + 1) * (SIZE * FINE / 2) - 0.5).ravel().tolist()


def _plane(canvas: Image.Image) -> Plane:
    return np.asarray(canvas.reduce(FINE), dtype=np.float32) * np.float32(1 / 255)
