"""What lies over the lungs of a drawn chest: bones, vessels, opacities, and what was laid on or put in."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, sin

import numpy as np

from fedlit.micro_sam.drawing import Places, Plane, Random, blur, clouds, curve, fill, ring, smooth, strokes

Placed = Callable[[Places], Places]  # places of the chest -> places of the picture
Place = tuple[float, float]
SIDES = (-1, 1)


def bones(random: Random, pose: Placed, body: Plane) -> Plane:
    """Ribs behind and in front, collarbones, shoulder blades, spine and windpipe."""
    gap, width = random.uniform(0.085, 0.12), random.uniform(0.022, 0.036)
    slope, bulge = random.uniform(0.02, 0.22), random.uniform(0.05, 0.14)
    start = (-0.04 + gap * np.arange(int(1.25 / gap)))[:, None]
    reach = np.minimum(1.06, 0.55 + 1.1 * (start + 0.04 + 0.4 * gap))
    share = np.linspace(0.1, 1, 7)
    rise = start - bulge * np.sin(np.pi * share) + slope * share**2
    fall = start[::2] + 0.12 + 0.28 * (1.02 - share * reach[::2]) * (0.6 + slope)
    back = [pose(np.stack([side * share * reach, rise + random.normal(0, 0.004)], axis=-1)) for side in SIDES]
    front = [pose(np.stack([side * (0.35 + 0.68 * share * reach[::2]), fall], axis=-1)) for side in SIDES]
    behind = [(line, width) for lines in back for line in lines]
    rims = [(line + np.array((0, width * 0.9)), 0.007) for line, _ in behind]
    before = [(line, width * 1.2) for lines in front for line in lines]
    plane = random.uniform(0.01, 0.1) * blur(strokes(behind), random.uniform(0.5, 1.0))
    plane = plane + random.uniform(0, 0.06) * blur(strokes(rims), 0.5)
    plane = plane + random.uniform(0, 0.05) * blur(strokes(before), random.uniform(0.6, 1.2))
    plane = plane + random.uniform(0.02, 0.14) * blur(_collarbones(random, pose), 0.7)
    plane = plane + random.uniform(0, 0.12) * blur(_blades(random, pose), random.uniform(0.6, 1.4))
    return (plane + _spine(random, pose)) * body


def _collarbones(random: Random, pose: Placed) -> Plane:
    level, steep = random.normal(0.1, 0.05), random.uniform(0.0, 0.22)
    width, lines = random.uniform(0.018, 0.034), []
    for side in SIDES:
        up = steep + random.normal(0, 0.03)
        points = [(0.08, level), (0.35, level - 0.15 * up), (0.7, level - 0.6 * up), (1.15, level - up)]
        lines.append((pose(curve(np.asarray(points) * (side, 1), closed=False)), width))
    return strokes(lines)


def _blades(random: Random, pose: Placed) -> Plane:
    inward, low = random.uniform(0.62, 1.05), random.uniform(0.3, 0.55)
    shape = np.asarray([(inward, 0.1), (inward + 0.05, low), (inward + 0.18, low + 0.02), (1.2, 0.15), (1.25, 0.02)])
    return fill(*(pose(curve((shape + random.normal(0, 0.02, shape.shape)) * (side, 1))) for side in SIDES))


def _spine(random: Random, pose: Placed) -> Plane:
    half = random.uniform(0.07, 0.12)
    column = fill(pose(np.asarray([(-half, -0.5), (half, -0.5), (half * 1.3, 1.5), (-half * 1.3, 1.5)])))
    gaps = [
        (pose(np.asarray([(-half, y), (half, y)])), 0.012) for y in np.arange(-0.5, 1.4, random.uniform(0.075, 0.1))
    ]
    plane = random.uniform(0, 0.12) * blur(column - 0.4 * strokes(gaps), 1.0)
    shift, wide = random.normal(-0.01, 0.03), random.uniform(0.035, 0.06)
    end = random.uniform(0.25, 0.42)
    pipe = strokes([(pose(curve([(0, -0.5), (shift, -0.1), (shift, end)], closed=False)), wide)])
    return plane - random.uniform(0.02, 0.18) * blur(pipe, 1.0)


def vessels(random: Random, pose: Placed, air: Plane) -> Plane:
    """Branching lines from the root of each lung, fading outwards, seen against air."""
    lines = []
    roots = []
    for side in SIDES:
        root = (side * random.uniform(0.2, 0.3), random.normal(0.44, 0.03))
        roots.append(
            pose(ring(root, (random.uniform(0.05, 0.14), random.uniform(0.05, 0.12)), wobble=random.normal(0, 0.1, 4)))
        )
        for angle in np.linspace(-1.35, 1.35, random.integers(6, 12)) + random.normal(0, 0.1):
            lines += _branch(random, root, side, angle, random.uniform(0.25, 0.55), 0.02, 3)
    placed = pose(np.asarray([line for line, _ in lines]))
    plane = strokes(zip(placed, (width for _, width in lines), strict=True))
    return random.uniform(0.03, 0.38) * blur(plane, random.uniform(0.3, 0.7)) * air + random.uniform(0.1, 0.6) * blur(
        fill(*roots), random.uniform(1.5, 3)
    ) * np.clip(1.5 * air, 0, 1)


def _branch(
    random: Random, start: Place, side: int, angle: float, length: float, width: float, depth: int
) -> list[tuple[tuple[Place, Place, Place], float]]:
    bend, (x, y) = angle + random.normal(0, 0.25), start
    mid = (x + 0.5 * length * side * cos(angle), y + 0.5 * length * sin(angle))
    end = (mid[0] + 0.5 * length * side * cos(bend), mid[1] + 0.5 * length * sin(bend))
    found = [((start, mid, end), width)]
    if depth > 1:
        for turn in (-0.45, 0.4):
            found += _branch(
                random, end, side, bend + turn * random.uniform(0.5, 1.5), 0.6 * length, 0.6 * width, depth - 1
            )
    return found


def opacities(random: Random, lung: Plane, middle: Plane) -> Plane:
    """How much of a lung's darkness is taken away, 0 to 1: patches, haze, fluid that stands at its foot."""
    lost = np.zeros_like(lung)
    if random.random() < 0.45:
        return lost
    rows, columns = np.nonzero(lung > 0.5)
    if not len(rows):
        return lost
    for _ in range(random.integers(0, 6)):
        at = random.integers(len(rows))
        center = (columns[at] / 64 - 1, rows[at] / 64 - 1)
        patch = fill(ring(center, random.uniform(0.04, 0.32, 2), random.uniform(0, 3.1), random.normal(0, 0.15, 4)))
        patch = blur(patch, random.uniform(1, 5)) * np.clip(0.8 + 0.35 * clouds(random, random.integers(8, 20)), 0, 1)
        lost = np.maximum(lost, random.uniform(0.1, 0.95) * patch)
    if random.random() < 0.3:
        lost = np.maximum(lost, random.uniform(0.1, 0.7) * smooth(clouds(random, random.integers(4, 12)), -0.3, 1.5))
    if random.random() < 0.35:
        top, foot = rows.min(), rows.max()
        level = foot - (foot - top) * random.uniform(0.03, 0.55)
        height = (np.arange(lung.shape[0], dtype=np.float32)[:, None] - level) + 3 * clouds(random, 3)
        lost = np.maximum(lost, random.uniform(0.4, 1) * smooth(height, *sorted(random.uniform((-14, -10), (10, 14)))))
    return np.clip(lost, 0, 1)


def things(random: Random, plane: Plane, pose: Placed) -> Plane:
    """Wires, pads, tubes, a box with a battery, letters at the edge."""
    if random.random() < 0.35:
        lines = []
        for _ in range(random.integers(1, 5)):
            points = np.cumsum(random.normal(0, 0.35, (5, 2)), axis=0) + random.uniform(-0.8, 0.8, 2)
            lines.append((curve(points, closed=False), random.uniform(0.006, 0.014)))
        if random.random() < 0.4:
            shift = random.normal(0, 0.03)
            lines.append((pose(curve([(shift, -0.5), (shift, 0.0), (shift, 0.9)], closed=False)), 0.01))
        plane = plane + random.uniform(0.05, 0.5) * strokes(lines)
    if random.random() < 0.15:
        spots = [
            ring(random.uniform(-0.8, 0.8, 2), np.full(2, random.uniform(0.02, 0.07)))
            for _ in range(random.integers(1, 5))
        ]
        plane = plane + random.uniform(0.1, 0.4) * fill(*spots)
    if random.random() < 0.05:
        side = random.choice(SIDES)
        plane = plane + random.uniform(0.2, 0.6) * fill(
            pose(ring((side * 0.6, 0.15), (0.14, 0.09), random.uniform(0, 3)))
        )
    if random.random() < 0.4:
        for _ in range(random.integers(1, 4)):
            corner = np.where(random.random(2) < 0.5, -0.95, 0.8) + random.uniform(0, 0.15, 2)
            size = random.uniform(0.02, 0.05)
            word = [
                (corner + random.uniform(0, 2, (2, 2)) * size + (number * 2 * size, 0), 0.01)
                for number in range(random.integers(1, 7))
            ]
            plane = np.maximum(plane, random.uniform(0.7, 1.3) * strokes(word))
    return plane
