"""Draws chest-like scenes: outlines through a few movable points, brightness as layers laid over one another.

Anatomy is placed in units of the chest: x from the midline to the side wall (1), positive on the patient's left, y from
the top of the lungs (0) to their lowest corner (1). Numbers were set by eye from what textbooks show; no real picture
went into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedlit.micro_sam.chest_parts import bones, opacities, things, vessels
from fedlit.micro_sam.drawing import SIZE, Numbers, Places, Plane, Random, blur, clouds, curve, fill, smooth


@dataclass(frozen=True)
class Pose:
    """Where the chest lies in the picture: its centre, half width and height, a turn, a lean, and a slow warp."""

    center: tuple[float, float]
    size: tuple[float, float]
    turn: float
    lean: float
    warp: np.ndarray  # [2, 3]: amount, frequency, phase

    @classmethod
    def drawn(cls, random: Random) -> Pose:
        width = np.clip(random.normal(0.76, 0.075), 0.5, 0.98)
        height = np.clip(random.normal(1.4, 0.17), 0.8, 1.8)
        return cls(
            center=(random.normal(0, 0.055), random.normal(-0.04, 0.09)),
            size=(width, height),
            turn=random.normal(0, 0.055),
            lean=random.normal(0, 0.05),
            warp=np.stack([random.normal(0, 0.018, 2), random.uniform(2, 5, 2), random.uniform(0, 6.3, 2)], axis=1),
        )

    def __call__(self, anatomy: Places | Sequence[Numbers]) -> Places:
        """Places of the chest as places of the picture."""
        x, y = np.moveaxis(np.asarray(anatomy, dtype=np.float32), -1, 0)
        x, y = x * self.size[0], (y - 0.5) * self.size[1]
        (wide, often, start), (high, frequent, begin) = self.warp
        x, y = x + self.lean * y + wide * np.sin(often * y + start), y + high * np.sin(frequent * x + begin)
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return np.stack([self.center[0] + cos * x - sin * y, self.center[1] + sin * x + cos * y], axis=-1).astype(
            np.float32
        )


@dataclass(frozen=True)
class Chest:
    """The outlines of one chest, in its own units; lungs are (right, left), whole, with what the heart hides."""

    lungs: tuple[Places, Places]
    domes: tuple[Places, Places]
    heart: Places
    center: Places
    body: Places

    @classmethod
    def drawn(cls, random: Random) -> Chest:
        lift = random.normal(0.03, 0.025)  # the right dome lies higher
        common = random.normal(0, 1, 8)
        right, left = (_lung(random, common, -0.5 * lift), _lung(random, common, 0.5 * lift))
        mirror = np.array([-1, 1], dtype=np.float32)
        return cls(
            lungs=(curve(right * mirror), curve(left)),
            domes=(right[8:13] * mirror, left[8:13]),
            heart=_heart(random),
            center=_center(random),
            body=_body(random),
        )


def _lung(random: Random, common: np.ndarray, lowered: float) -> Places:
    """Outline [19, 2] of a lung on the side of positive x, whole; `common` is shared by both sides."""
    own = 0.75 * common + 0.5 * random.normal(0, 1, 8)
    medial, apex = 0.165 + 0.04 * own[0], 0.42 + 0.05 * own[1]
    dome = 0.795 + 0.045 * own[2] + lowered
    corner = 0.965 + 0.04 * own[3] + lowered
    inner = dome + 0.065 + 0.03 * own[4]
    wide = 1 + 0.035 * own[5]
    slope = 0.04 * own[6]
    points = [
        (apex, 0.0), (apex - 0.14, 0.035), (apex - 0.22, 0.12), (medial + 0.02, 0.24), (medial, 0.36),
        (medial - 0.01, 0.48), (medial, 0.62), (medial + 0.01, 0.76), (medial + 0.05, inner),
        (0.38, dome + 0.012), (0.56, dome), (0.75, dome + 0.05), (0.87, 0.45 * dome + 0.55 * corner),
        (0.955, corner), (0.995, corner - 0.09), (0.985 + slope / 3, 0.72),
        (0.935 + slope, 0.5), (0.83 + 1.5 * slope, 0.28), (0.66 + slope, 0.1),
    ]  # fmt: skip
    return np.asarray(points, dtype=np.float32) * (wide, 1) + random.normal(0, 0.011, (len(points), 2))


def _heart(random: Random) -> Places:
    big = np.exp(random.normal(0.04, 0.2))
    top, base = 0.40 + random.normal(0, 0.03), 0.90 + random.normal(0, 0.025)
    left, right = 0.55 * big + random.normal(0, 0.05), -(0.27 + random.normal(0, 0.035)) * big**0.7
    tip = base - abs(random.normal(0.06, 0.03))
    points = [
        (0.02, top), (0.2, top + 0.04), (0.36 * left + 0.13, top + 0.16), (0.8 * left + 0.04, tip - 0.16),
        (left, tip - 0.03), (0.86 * left, tip + 0.045), (0.4 * left, base), (0.3 * right, base),
        (0.9 * right, base - 0.06), (right, base - 0.2), (0.8 * right, top + 0.16), (-0.13, top + 0.04),
    ]  # fmt: skip
    return curve(np.asarray(points) + random.normal(0, 0.01, (len(points), 2)))


def _center(random: Random) -> Places:
    """What stands between the lungs above the heart and under it: neck, great vessels, spine."""
    half = np.clip(random.normal(0.175, 0.035), 0.1, 0.3)
    knob = abs(random.normal(0.09, 0.04))
    level = random.normal(0.27, 0.03)
    points = [
        (-1.2 * half, -0.5), (1.2 * half, -0.5), (half, -0.1), (half, level - 0.1), (half + knob, level),
        (half + 0.3 * knob, level + 0.09), (half + 0.05, 0.46), (half, 0.7), (0.8 * half, 1.9), (-0.8 * half, 1.9),
        (-half, 0.7), (-half - 0.06, 0.47), (-half - random.uniform(0, 0.05), 0.3), (-half, 0.05), (-half, -0.1),
    ]  # fmt: skip
    return curve(points)


def _body(random: Random) -> Places:
    """Neck, shoulders and trunk; arms hang beside it or leave a gap."""
    neck, side = random.uniform(0.25, 0.6), 1.08 + abs(random.normal(0, 0.3))
    shoulder, drop = random.uniform(-0.22, 0.06), random.uniform(0.02, 0.2)
    reach = side + random.uniform(0.0, 0.9)
    half = [
        (neck, -0.7), (neck, shoulder - 0.12), (neck + 0.2, shoulder), (0.9, shoulder + drop),
        (reach, shoulder + 2 * drop + 0.05), (reach + 0.1, 0.35),
        (side + 0.02, 0.42), (side, 0.7), (side, 1.0), (side + 0.05, 1.6),
    ]  # fmt: skip
    right = [(-x + random.normal(0, 0.03), y + random.normal(0, 0.02)) for x, y in reversed(half)]
    return curve([*half, *right])


def chest(random: Random) -> tuple[Plane, dict[str, tuple[Plane, ...]]]:
    """Brightness before the film, and by name the masks of an object: one, or one for each convention.

    `right lung`, `left lung` and `lungs` have two: with what lies behind heart and vessels, and without it.
    """
    pose, made = Pose.drawn(random), Chest.drawn(random)
    lungs = [fill(pose(outline)) for outline in made.lungs]
    heart, center, body = (fill(pose(outline)) for outline in (made.heart, made.center, made.body))
    middle = np.maximum(heart, center)
    plane = _tissue(random, pose, made, body)
    hidden = blur(np.maximum(heart * random.uniform(0.8, 1), center), random.uniform(0.5, 1.3))
    air = sum(_air(random, lung) for lung in lungs)
    shadows = [opacities(random, lung, middle) for lung in lungs]
    air = air * (1 - random.uniform(0.8, 1.0) * hidden) * (1 - np.maximum(*shadows))
    depth = random.uniform(0.3, 0.6)
    plane = plane - depth * air * (1 + 0.08 * clouds(random, 3))
    below = smooth((np.arange(SIZE, dtype=np.float32) / SIZE)[:, None], *(pose(((0, 0.85), (0, 1.0)))[:, 1] + 1) / 2)
    plane = plane + random.uniform(0.05, 0.3) * hidden * body * (1 - random.uniform(0.4, 1) * below)
    plane = plane + vessels(random, pose, np.clip(air, 0, 1)) * depth + bones(random, pose, body)
    plane = things(random, plane, pose)
    seen = [np.clip(lung - middle, 0, 1) for lung in lungs]
    (right, left), (right_seen, left_seen) = lungs, seen
    both, both_seen = np.maximum(right, left), np.maximum(right_seen, left_seen)
    found = {
        "right lung": (right, right_seen), "left lung": (left, left_seen), "lungs": (both, both_seen),
        "heart": (heart,), "body": (body,),
    }  # fmt: skip
    return plane, found


def _air(random: Random, lung: Plane) -> Plane:
    """How dark a lung is: less and less towards its rim, where there is little of it in the way of the rays."""
    soft, edge = blur(lung, random.uniform(1.2, 3.5)), random.uniform(0.3, 0.6)
    rim = smooth(soft, edge, random.uniform(edge + 0.25, 1.05))
    slow = blur(lung, random.uniform(6, 11))
    share = random.uniform(0, 0.6)
    return rim * ((1 - share) + share * np.clip(1.4 * slow - 0.25, 0, 1))


def _tissue(random: Random, pose: Pose, made: Chest, body: Plane) -> Plane:
    """The body without its lungs: thicker below the domes, with gas there, thinner at the shoulders."""
    right, left = made.domes
    floor = np.concatenate(
        [[(-2.5, 1.6), (-2.5, 1.0), (-1.05, 1.0)], right[::-1], left, [(1.05, 1.0), (2.5, 1.0), (2.5, 1.6)]]
    )
    belly = blur(fill(pose(floor)), random.uniform(0.6, 1.8))
    gas = np.zeros_like(body)
    if random.random() < 0.5:
        at = (random.normal(0.45, 0.1), random.uniform(0.9, 1.02))
        gas = blur(
            fill(
                pose(
                    curve(
                        [
                            (at[0] + dx * random.uniform(0.6, 1.4), at[1] + dy)
                            for dx, dy in [(-0.18, 0.0), (0, -0.05), (0.2, 0.0), (0.15, 0.08), (-0.12, 0.08)]
                        ]
                    )
                )
            ),
            1.2,
        )
    if random.random() < 0.3:
        gas = np.maximum(gas, 0.7 * smooth(clouds(random, 7), 0.6, 1.4) * blur(belly, 3))
    tissue = random.uniform(0.5, 0.7) + 0.06 * clouds(random, 3) + 0.02 * clouds(random, 9)
    tissue = tissue + belly * (random.uniform(0.02, 0.3) - random.uniform(0.1, 0.35) * gas)
    if random.random() < 0.35:  # folds and breasts
        for side in (-1, 1):
            low = curve(
                [
                    (side * (0.6 + dx), random.uniform(0.6, 0.95) + dy)
                    for dx, dy in [(-0.4, -0.2), (0, -0.35), (0.4, -0.2), (0.35, 0.05), (0, 0.14), (-0.35, 0.05)]
                ]
            )
            tissue = tissue + random.uniform(0.02, 0.1) * blur(fill(pose(low)), 1.5)
    soft = blur(body, random.uniform(0.5, 2.5))
    return tissue * soft * (0.75 + 0.25 * np.clip(blur(body, 9) * 1.6 - 0.6, 0, 1))
