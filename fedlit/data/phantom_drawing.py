"""Draws one chest X-ray phantom: anatomy as smooth implicit functions, X-ray absorption as their sum, then the film.

Lengths are in half picture widths of a standard view: x grows to the right of the picture (the patient's left), y
downwards, and `u` is the distance from the midline towards the side of one lung. Numbers were set by eye; no patient's
picture went into them. Scalars stay Python floats: numpy's would turn the float32 pictures into float64.
"""

from __future__ import annotations

from math import cos, sin
from typing import NamedTuple

import numpy as np

from fedlit.data.phantom_film import expose
from fedlit.data.phantom_hospitals import Hospital
from fedlit.data.phantom_shapes import clouds, join, meet, ridge, step, superellipse

RIGHT_LUNG, LEFT_LUNG, HEART = 1, 2, 3
CODES = {RIGHT_LUNG: "right lung", LEFT_LUNG: "left lung", HEART: "heart"}


class Body(NamedTuple):
    """One patient in one picture: coordinates [size, size] and signed functions of the organs."""

    x: np.ndarray
    y: np.ndarray
    outline: np.ndarray
    cage: np.ndarray
    heart: np.ndarray
    lungs: tuple[np.ndarray, np.ndarray]  # right, left
    domes: tuple[np.ndarray, np.ndarray]  # y of the diaphragm
    floor: np.ndarray  # both domes in one


def place(hospital: Hospital, patient: np.random.Generator, picture: np.random.Generator, size: int) -> Body:
    """The patient's organs in the picture: `patient` decides the shape, `picture` the pose and the depth of breath."""
    vary = patient.standard_normal(16).clip(-2.2, 2.2).tolist()
    pose = picture.standard_normal(8).clip(-2.2, 2.2).tolist()
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angle, zoom = hospital.spread * 0.8 * pose[0], hospital.zoom * (1 + hospital.spread * (vary[0] + 0.5 * pose[1]))
    x, y = x - hospital.spread * pose[2], y - 0.05 - hospital.spread * pose[3]
    x, y = (cos(angle) * x + sin(angle) * y) / zoom, (cos(angle) * y - sin(angle) * x) / zoom
    x = x + 0.022 * clouds(patient, 4, size) + 0.006 * clouds(patient, 14, size)
    y = y + 0.022 * clouds(patient, 4, size) + 0.006 * clouds(patient, 14, size)
    child, breath = hospital.child, hospital.inspiration + 0.5 * vary[1] + 0.3 * pose[4]
    y = y * (1 + 0.22 * child)

    wide = 1 + 0.05 * vary[2]
    side = np.abs(x)
    trunk = 0.98 + 0.03 * vary[3] - 0.04 * step(y - 0.1, 0.4)
    arm = 0.15 - np.abs(side - 1.13 - 0.12 * y)
    shoulder = y + 0.97 - 0.28 * side**2 - 0.03 * vary[4]
    outline = join(meet(join(trunk - side, arm, k=0.02), shoulder, k=0.08), 0.31 + 0.02 * vary[5] - side, k=0.08)
    bend = 0.025 * vary[6] * np.sin(2.2 * y + vary[7])
    mid = x - bend

    big = 1 + 0.11 * vary[8] + 0.22 * child - 0.07 * breath
    hx, hy = mid - 0.11 - 0.03 * vary[9], y - 0.2 + 0.05 * breath - 0.05 * breath * (breath > 0)
    tilt = 0.5 + 0.12 * vary[10] + 0.1 * breath
    hx, hy = cos(tilt) * hx + sin(tilt) * hy, cos(tilt) * hy - sin(tilt) * hx
    heart = superellipse(hx, hy, 0.36 * big, 0.275 * big, 2.3)
    knob = superellipse(mid - 0.13, y + 0.36 + 0.03 * vary[11], 0.11, 0.13)

    lungs, domes, cages = [], [], []
    for sign, code in ((-1, RIGHT_LUNG), (1, LEFT_LUNG)):
        u = sign * mid
        left = code == LEFT_LUNG
        high = 0.30 + 0.06 * left + 0.1 * breath + 0.045 * vary[12 + left]
        deep = 0.24 + 0.03 * vary[14] + 0.03 * pose[5 + left]
        dome = high + deep * (np.abs(u - 0.3) / 0.47) ** 2.3
        outer = superellipse(u - 0.355 - 0.1 * y, y - 0.1 - 0.03 * breath, 0.41 * wide, 0.96 + 0.03 * breath, 2.25)
        medial = 0.11 + 0.06 * child * step(-0.1 - y, 0.15) + 0.05 * ridge(y + 0.02, 0.2) + 0.03 * step(-0.6 - y, 0.1)
        lungs.append(meet(outer, u - medial, dome - y, -heart, -knob, k=0.018))
        domes.append(dome)
        cages.append(outer)
    floor = domes[0] + (domes[1] - domes[0]) * step(mid, 0.1)
    heart = meet(heart, floor + 0.04 - y, k=0.02)
    return Body(mid, y, outline, join(*cages) + 0.05, heart, (lungs[0], lungs[1]), (domes[0], domes[1]), floor)


def bones(body: Body, rng: np.random.Generator) -> np.ndarray:
    """Absorption of spine, ribs, clavicles, scapulae and humeri."""
    y, side = body.y, np.abs(body.x)
    pitch, phase, slant = 0.145 + 0.008 * rng.standard_normal(), rng.uniform(0, 1), rng.uniform(0.32, 0.5)
    cage = step(body.cage, 0.03) * (1 - 0.75 * step(y - 0.4, 0.2))

    def ribs(turn: np.ndarray, thick: float) -> np.ndarray:
        wave = np.cos(2 * np.pi * (turn + phase)) - thick
        return step(wave, 0.25) * 0.6 + ridge(wave, 0.3) * 0.4

    back = ribs((y - 0.10 * side - 0.28 * (side - 0.15).clip(0) ** 2.2) / pitch, 0.25)
    front = ribs((y + slant * side + 0.2 * side**2) / (pitch * 1.25) + 0.4, 0.35) * step(side - 0.42, 0.12)
    vertebrae = 0.75 + 0.25 * np.cos(2 * np.pi * (y / pitch + phase))
    spine = step(0.085 - side, 0.02) * vertebrae + 0.5 * ridge(side - 0.085, 0.02)
    line = -0.6 - 0.22 * (side - 0.1) + 0.07 * np.sin(5.5 * side + phase)
    clavicle = step(0.036 - np.abs(y - line), 0.012) * step(side - 0.07, 0.02) * step(0.92 - side, 0.02)
    blade = meet(side - 0.60 - 0.10 * (y + 0.7), 1.0 - side - 0.4 * (y + 0.7), y + 0.8, 0.0 - y, k=0.02)
    scapula = 0.5 * step(blade, 0.02) + 0.5 * ridge(blade, 0.02)
    humerus = step(join(superellipse(side - 1.0, y + 0.72, 0.13, 0.13), 0.07 - np.abs(side - 1.12 - 0.12 * y)), 0.02)
    humerus = humerus * step(y + 0.85, 0.02)
    return 0.12 * spine + cage * (0.12 * back + 0.055 * front) + 0.13 * clavicle + 0.07 * scapula + 0.2 * humerus


def opacity(body: Body, hospital: Hospital, rng: np.random.Generator) -> np.ndarray:
    """How much of the air in the lungs is replaced by disease, [size, size] in 0 .. 1: the mask keeps these regions."""
    size, u = len(body.x), np.abs(body.x)
    haze = hospital.haze * rng.uniform(0, 1.3) * step(clouds(rng, 5, size) - 0.4, 0.8)
    for sign in (-1, 1):
        here = sign * body.x > 0
        if rng.random() < hospital.consolidation:
            for _ in range(rng.integers(1, 4)):
                cy, cu, r = rng.uniform(-0.5, 0.35), rng.uniform(0.2, 0.65), rng.uniform(0.1, 0.26)
                edge = 0.08 * clouds(rng, 9, size) + 0.03 * clouds(rng, 24, size)
                spot = step(r - np.hypot(u - cu, (body.y - cy) * 0.8) + edge, 0.09)
                haze = np.maximum(haze, here * spot * rng.uniform(0.5, 1.0))
        if rng.random() < hospital.effusion:
            level = rng.uniform(-0.05, 0.3) - 0.5 * (u - 0.3).clip(0) ** 2 - 0.1 * ridge(u - 0.8, 0.15)
            haze = np.maximum(haze, here * step(body.y - level, 0.05) * rng.uniform(0.85, 1.0))
    return haze.clip(0, 1)


def vessels(body: Body, rng: np.random.Generator) -> np.ndarray:
    """Branching texture that leaves each hilum: noise in polar coordinates, finer and fainter outwards."""
    from scipy.ndimage import map_coordinates

    u = np.abs(body.x) - 0.16
    radius = np.hypot(u, body.y + 0.03) + 0.03
    angle = np.arctan2(body.y + 0.03, u) + 0.25 * clouds(rng, 9, len(u))
    total = np.zeros_like(u)
    for fineness in (5.0, 9.0):
        grid = rng.standard_normal((2, 64, 16)).astype(np.float32)
        where = np.stack([32 + fineness * angle, 2 + 2.0 * np.log2(radius / 0.03)])
        streaks = [map_coordinates(g, where, order=1, mode="nearest") for g in grid]
        total += np.where(body.x < 0, *streaks)
    return 1.5 * total.clip(0) * ridge(radius, 0.45) + 2.0 * ridge(radius, 0.12) * (1 + 0.4 * total)


def hardware(body: Body, hospital: Hospital, rng: np.random.Generator) -> np.ndarray:
    """Absorption of tubes, leads, electrodes and pacemakers."""
    x, y = body.x, body.y
    total = np.zeros_like(x)
    if rng.random() >= hospital.devices:
        return total
    for _ in range(rng.integers(1, 4)):  # leads hang across the chest
        a, b, c, d = rng.uniform(-0.7, 0.7), rng.uniform(0.1, 0.5), rng.uniform(1.5, 4.5), rng.uniform(0, 6)
        path, along = (x - a - b * np.sin(c * y + d), y) if rng.random() < 0.6 else (y - a - b * np.sin(c * x + d), x)
        total += ridge(path, 0.014) * step(along - rng.uniform(-1.2, -0.2), 0.01)
        total += step(0.045 - np.hypot(x - rng.uniform(-0.8, 0.8), y - rng.uniform(-0.7, 0.5)), 0.012)
    if rng.random() < 0.6:  # tracheal tube, and a feeding tube down to the stomach
        total += ridge(x - 0.015 - 0.02 * np.sin(3 * y), 0.02) * step(rng.uniform(-0.5, -0.3) - y, 0.01)
        total += 0.8 * ridge(x + 0.02 - 0.3 * (y - 0.3).clip(0) ** 1.5, 0.014)
    if rng.random() < 0.35:  # pacemaker
        total += 2.5 * step(superellipse(x - 0.55, y + 0.55, 0.12, 0.1, 3), 0.015)
        total += ridge(np.hypot(x - 0.3, y + 0.05) - 0.42, 0.014) * step(x - 0.1 - 0.5 * y, 0.02)
    return 0.16 * total


def absorption(
    body: Body, hospital: Hospital, patient: np.random.Generator, picture: np.random.Generator
) -> np.ndarray:
    """The thickness of everything on the way of the ray, [size, size]: 0 in air, about 1 behind the heart."""
    x, y, u = body.x, body.y, np.abs(body.x)
    size = len(x)
    flesh = step(body.outline, 0.012) * (1 - np.exp(-body.outline.clip(0) / 0.13))
    below = step(y - body.floor, 0.02)
    fat = patient.uniform(0.0, 0.12)
    breast = 0.13 * int(patient.integers(0, 2)) * (1 - hospital.child)
    breast = breast * step(superellipse(u - 0.47, y - 0.32, 0.36, 0.34), 0.05) * (1 - below)
    middle = step(0.14 + 0.04 * hospital.child - u + 0.03 * ridge(y + 0.3, 0.2), 0.03)
    trachea = step(0.055 - np.abs(x - 0.01), 0.015) * step(-0.32 - y, 0.04)
    total = flesh * (0.70 + fat) + flesh * 0.22 * below + breast
    total += flesh * (0.17 * middle - 0.15 * trachea + 0.13 * step(body.heart, 0.04)) + bones(body, patient) * flesh
    gas = clouds(patient, 10, size)
    stomach = step(superellipse(x - 0.33, y - 0.58, 0.16, 0.09) + 0.02 * gas, 0.02)
    total -= 0.16 * stomach * int(patient.integers(0, 2))
    total -= 0.10 * step(gas - 1.9, 0.5) * step(y - 0.62, 0.05) * flesh
    shadow = 1 - opacity(body, hospital, picture)
    texture = 0.07 * vessels(body, patient) + 0.012 * clouds(patient, 40, size)
    for lung in body.lungs:
        air = step(lung, 0.014) * (0.42 + 0.58 * (1 - np.exp(-lung.clip(0) / 0.1)))
        total -= air * shadow * (0.46 + 0.3 * fat - texture)
    return total + 0.02 * clouds(patient, 6, size) * flesh + hardware(body, hospital, picture)


def draw(hospital: Hospital, patient_seed: int, picture_seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One picture and its mask, both uint8 [size, size]; mask codes RIGHT_LUNG, LEFT_LUNG, HEART, 0 elsewhere."""
    patient, picture = np.random.default_rng(patient_seed), np.random.default_rng(picture_seed)
    body = place(hospital, patient, picture, size)
    grey, exposed = expose(absorption(body, hospital, patient, picture), hospital, picture)
    mask = np.zeros((size, size), np.uint8)
    for code, shape in ((RIGHT_LUNG, body.lungs[0]), (LEFT_LUNG, body.lungs[1]), (HEART, body.heart)):
        mask[(shape > 0) & (mask == 0) & exposed] = code
    return (grey.clip(0, 1) * 255).round().astype(np.uint8), mask
