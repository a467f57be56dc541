"""The pictures that the micro SAM learns from: drawn by their number, none of them real."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlit.micro_sam.chest import chest
from fedlit.micro_sam.film import expose
from fedlit.micro_sam.shapes import crowd, disc, general
from fedlit.seeding import address

KINDS = {"chest": (chest, 0.8), "general": (general, 0.1), "disc": (disc, 0.06), "crowd": (crowd, 0.04)}
"""How each kind of scene is drawn, and its share."""
SMALLEST = 24  # pixels of an object that is asked for


@dataclass(frozen=True)
class Scene:
    """A picture float32 [H, W] in [0, 1], and by name the masks of its objects, bool [1 or 2, H, W].

    Two masks are two conventions for one object: the whole lung, and the lung without what heart and vessels hide.
    """

    kind: str
    picture: np.ndarray
    objects: dict[str, np.ndarray]


def scene(seed: int, number: int, kind: str | None = None) -> Scene:
    """The scene of a number, always the same; `kind` is one of KINDS, by default as the number decides."""
    random = np.random.Generator(np.random.SFC64(address(seed, "scene", number)))
    by_number = random.choice(list(KINDS), p=[share for _, share in KINDS.values()])
    kind = kind or str(by_number)
    while True:
        plane, found = KINDS[kind][0](random)
        masks = {name: np.stack(planes) >= 0.5 for name, planes in found.items()}
        objects = {name: mask for name, mask in masks.items() if mask.sum((1, 2)).min() >= SMALLEST}
        if objects:
            break
    picture = expose(random, plane)
    if random.random() < 0.04:
        picture = 1 - picture
    if random.random() < 0.06:  # seen in a mirror
        picture = picture[:, ::-1]
        objects = {name: mask[..., ::-1] for name, mask in objects.items()}
    return Scene(kind, np.ascontiguousarray(picture), {name: np.ascontiguousarray(m) for name, m in objects.items()})
