"""What one step of pretraining sees: drawn pictures, what is asked for in each, and by which prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fedlit.micro_sam.drawing import SIZE, Random
from fedlit.micro_sam.prompts import box_of, jittered, points_of
from fedlit.micro_sam.scenes import Scene, scene
from fedlit.seeding import address

WEIGHTS = {"right lung": 4.0, "left lung": 4.0, "lungs": 1.0, "heart": 1.2, "body": 0.3}  # others 1
LUNG_BOXES = {"right lung": (0.10, 0.12, 0.47, 0.86), "left lung": (0.53, 0.12, 0.90, 0.86)}
"""Left, top, right, bottom as shares of the picture: where lungs lie by anatomy, loosely."""
WAYS = {"boxes": 0.75, "points": 0.1, "both": 0.15}


class Batch(NamedTuple):
    """B pictures [B, 1, H, W] with P prompts each; `masks` [B, P, 2, H, W] are the wanted one and the other convention.

    Where there is one convention both are the same. `boxes` [B, P, 4]; `points` [B, P, N, 2], `labels` [B, P, N].
    """

    image: Tensor
    masks: Tensor
    boxes: Tensor | None
    points: Tensor | None
    labels: Tensor | None


@dataclass(frozen=True)
class Batches(Dataset[Batch]):
    """The batch of each step, drawn by the step's number."""

    seed: int
    batch_size: int
    num_prompts: int

    def __getitem__(self, step: int) -> Batch:
        random = np.random.Generator(np.random.SFC64(address(self.seed, "prompts", step)))
        way = random.choice(list(WAYS), p=list(WAYS.values()))
        scenes = [scene(self.seed, step * self.batch_size + number) for number in range(self.batch_size)]
        asked = [[asking(random, each, way) for _ in range(self.num_prompts)] for each in scenes]
        masks, boxes, points, labels = (
            torch.from_numpy(np.stack([[one[part] for one in row] for row in asked])) for part in range(4)
        )
        return Batch(
            image=torch.from_numpy(np.stack([each.picture for each in scenes])[:, None]),
            masks=masks,
            boxes=None if way == "points" else boxes,
            points=None if way == "boxes" else points,
            labels=None if way == "boxes" else labels,
        )


def asking(random: Random, drawn: Scene, way: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One object's masks [2, H, W], the wanted convention first, a box, points and their labels."""
    names = list(drawn.objects)
    weights = np.array([WEIGHTS.get(name, 1.0) for name in names])
    name = names[random.choice(len(names), p=weights / weights.sum())]
    masks = drawn.objects[name]
    masks = masks[random.permutation(len(masks))][[0, -1]]
    box = jittered(random, box_of(masks[0]), random.uniform(0, 0.15), masks.shape[1:])
    if name in LUNG_BOXES and random.random() < 0.2:
        usual = np.array(LUNG_BOXES[name]) * SIZE - 0.5
        box = jittered(random, usual, random.uniform(0, 0.08), masks.shape[1:])
    return masks, box, *points_of(random, masks[0], least=0 if way == "both" else 1)
