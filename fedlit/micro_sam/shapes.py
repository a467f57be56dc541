"""Draws general scenes: textured blobs, boxes and bars that touch, overlap or nest; discs; crowds of small things."""

from __future__ import annotations

import numpy as np

from fedlit.micro_sam.drawing import Places, Plane, Random, blur, clouds, curve, fill, ring, strokes

Objects = dict[str, tuple[Plane, ...]]


def blob(random: Random, center: Places, size: float) -> Places:
    """A closed outline: an ellipse, a wavy one, a polygon or a bent bar."""
    kind, angle = random.random(), random.uniform(0, np.pi)
    radii = size * np.exp(random.normal(0, 0.3, 2))
    if kind < 0.35:
        return ring(center, radii, angle)
    if kind < 0.7:
        return ring(center, radii, angle, random.normal(0, 0.12, 6))
    turns = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 9)))
    corners = center + size * np.stack([np.cos(turns), np.sin(turns)], axis=1) * random.uniform(0.6, 1.3)
    return corners.astype(np.float32) if kind < 0.85 else curve(corners)


def general(random: Random) -> tuple[Plane, Objects]:
    """Things on a ground, later ones over earlier ones; some hold a smaller one, some touch a neighbour."""
    plane, masks = _ground(random), list[Plane]()
    for _ in range(random.integers(1, 7)):
        center, size = random.uniform(-0.85, 0.85, 2), np.exp(random.uniform(np.log(0.08), np.log(0.7)))
        outline = blob(random, center, size)
        plane, masks = _laid(random, plane, masks, fill(outline))
        if random.random() < 0.3:
            inner = center + random.uniform(-0.2, 0.2, 2) * size
            core = fill(blob(random, inner, size * random.uniform(0.3, 0.6))) * masks[-1]
            plane = _painted(random, plane, core)
            masks.append(core)  # the outer one keeps its inside
        elif random.random() < 0.3:
            angle = random.uniform(0, 2 * np.pi)
            beside = center + 1.8 * size * np.array([np.cos(angle), np.sin(angle)])
            plane, masks = _laid(random, plane, masks, fill(blob(random, beside, size)))
    return _crossed(random, plane), {f"thing {number}": (mask,) for number, mask in enumerate(masks)}


def disc(random: Random) -> tuple[Plane, Objects]:
    """A bright or dark disc with a cup in it on a round field crossed by branching lines; or a gland with its zones."""
    field = (
        fill(ring(random.normal(0, 0.05, 2), random.uniform(0.75, 1.3, 2))) if random.random() < 0.7 else np.float32(1)
    )
    plane = random.uniform(0.3, 0.6) + 0.06 * clouds(random, 3) + 0.03 * clouds(random, 12)
    center = random.uniform(-0.5, 0.5, 2)
    size = np.exp(random.uniform(np.log(0.12), np.log(0.6)))
    outer = ring(center, size * np.exp(random.normal(0, 0.12, 2)), random.uniform(0, 3), random.normal(0, 0.04, 4))
    shift = random.normal(0, 0.12, 2) * size
    inner = ring(
        center + shift,
        size * random.uniform(0.3, 0.75) * np.exp(random.normal(0, 0.12, 2)),
        0,
        random.normal(0, 0.05, 4),
    )
    whole = fill(outer)
    core = fill(inner) * whole
    sign = random.choice([-1, 1], p=[0.3, 0.7])
    plane = plane + sign * random.uniform(0.06, 0.35) * blur(whole, random.uniform(0.4, 2.5))
    plane = plane + sign * random.uniform(0.04, 0.3) * blur(core, random.uniform(0.4, 2)) * random.choice(
        [-1, 1], p=[0.2, 0.8]
    )
    lines = []
    for angle in random.uniform(0, 2 * np.pi, random.integers(0, 9)):
        bends = angle + np.cumsum(random.normal(0, 0.35, 5))
        steps = np.cumsum(np.stack([np.cos(bends), np.sin(bends)], axis=1) * 0.3, axis=0)
        lines.append((curve(np.concatenate([[center], center + steps]), closed=False), random.uniform(0.008, 0.03)))
    plane = plane - random.uniform(0.05, 0.25) * blur(strokes(lines), 0.5)
    return plane * field, {"disc": (whole,), "cup": (core,), "rim": (whole - core,)}


def crowd(random: Random) -> tuple[Plane, Objects]:
    """Many small things of one kind on a textured ground, touching here and there."""
    plane, masks = _ground(random), list[Plane]()
    size, ratio = random.uniform(0.07, 0.22), random.uniform(0.6, 1)
    step, grain = random.uniform(0.1, 0.4) * random.choice([-1, 1]), random.integers(10, 30)
    for _ in range(random.integers(6, 22)):
        center = random.uniform(-0.95, 0.95, 2)
        radii = size * np.exp(random.normal(0, 0.15, 2)) * (1, ratio)
        mask = fill(ring(center, radii, random.uniform(0, 3.1), random.normal(0, 0.06, 4)))
        if any((mask * other).sum() > 0.15 * mask.sum() for other in masks):
            continue
        masks = [other * (1 - mask) for other in masks] + [mask]
    soft = blur(np.clip(sum(masks), 0, 1), random.uniform(0.3, 1.2))
    plane = plane + soft * (step + 0.06 * clouds(random, grain))
    return plane, {f"cell {number}": (mask,) for number, mask in enumerate(masks)}


def _ground(random: Random) -> Plane:
    plane = random.uniform(0.2, 0.8) + random.uniform(0, 0.12) * clouds(random, random.integers(2, 5))
    return plane + random.uniform(0, 0.1) * clouds(random, random.integers(6, 40))


def _laid(random: Random, plane: Plane, masks: list[Plane], mask: Plane) -> tuple[Plane, list[Plane]]:
    """The picture with one more thing over the others, and what is seen of each."""
    return _painted(random, plane, mask), [other * (1 - mask) for other in masks] + [mask]


def _painted(random: Random, plane: Plane, mask: Plane) -> Plane:
    """A thing of its own brightness and texture, perhaps see-through, shaded at the rim, or soft."""
    soft = blur(mask, np.exp(random.uniform(np.log(0.3), np.log(2.5))))
    if random.random() < 0.3:
        soft = soft * (0.5 + 0.5 * blur(mask, random.uniform(3, 8)))
    texture = random.uniform(0, 0.12) * clouds(random, random.integers(2, 40))
    if random.random() < 0.5:
        return plane + soft * (random.uniform(0.08, 0.5) * random.choice([-1, 1]) + texture)
    return plane * (1 - soft) + soft * (random.uniform(0, 1) + texture)


def _crossed(random: Random, plane: Plane) -> Plane:
    if random.random() < 0.75:
        return plane
    lines = [(curve(random.uniform(-1, 1, (4, 2)), closed=False), random.uniform(0.008, 0.03)) for _ in range(4)]
    return plane + random.uniform(-0.4, 0.4) * strokes(lines)
