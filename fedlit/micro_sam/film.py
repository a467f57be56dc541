"""What happens to a drawn picture on its way to the eye: tone, blur, noise, borders."""

from __future__ import annotations

import numpy as np

from fedlit.micro_sam.drawing import SIZE, Plane, Random, blur, clouds


def expose(random: Random, plane: Plane) -> Plane:
    """Brightness of any range -> a picture in [0, 1] as one of many devices would show it."""
    low, high = np.percentile(plane, [random.uniform(0, 6), random.uniform(94, 100)])
    picture = np.clip((plane - low) / max(high - low, 0.05), 0, 1)
    if random.random() < 0.3:
        picture = _local_contrast(picture, random.uniform(6, 16), random.uniform(0.2, 0.8))
    picture = picture ** np.exp(random.normal(0, 0.35))
    if random.random() < 0.5:
        picture = blur(picture, random.uniform(0.3, 1.3))
    noise: Plane = random.standard_normal(plane.shape).astype(np.float32)
    if random.random() < 0.5:
        noise = 1.7 * blur(noise, random.uniform(0.4, 0.9))
    picture = picture + random.choice([0.004, 0.01, 0.02, 0.04, 0.08], p=[0.25, 0.3, 0.25, 0.15, 0.05]) * noise
    bottom, top = random.uniform(0, 0.2) * (random.random() < 0.4), 1 - random.uniform(0, 0.3) * (random.random() < 0.4)
    picture = bottom + (top - bottom) * np.clip(picture, 0, 1)
    if random.random() < 0.2:
        picture = picture * (1 + 0.1 * clouds(random, 2))
    if random.random() < 0.12:
        picture = _bordered(random, picture)
    return np.clip(picture, 0, 1).astype(np.float32)


def _local_contrast(picture: Plane, sigma: float, share: float) -> Plane:
    """Part of the slow changes of brightness taken away, as displays with adaptive histograms do."""
    slow = blur(picture, sigma)
    return np.clip(picture - share * (slow - slow.mean()), 0, 1.2)


def _bordered(random: Random, picture: Plane) -> Plane:
    """Plain margins on some sides."""
    picture, value = picture.copy(), random.choice([0.0, 0.0, 1.0])
    for turned in (picture, picture[::-1], picture.T, picture.T[::-1]):
        if random.random() < 0.5:
            turned[: random.integers(1, SIZE // 12)] = value
    return picture
