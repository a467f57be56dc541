"""Teachers that do not look at the picture, to tell what a real one adds: shapes drawn into the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlit.micro_sam.prompts import box_of
from fedlit.micro_sam.scenes import scene
from fedlit.teachers.prompts import Box, Prompt
from fedlit.teachers.teacher import Teacher, Teaching

NUM_CHESTS, SEED = 200, 2**31 + 1


class Drawing(Teaching):
    """Draws a shape [h, w] into each box, whatever the picture shows: `left` where the box lies left of the middle."""

    def __init__(self, left: Tensor, right: Tensor):
        self.left, self.right = left, right

    def masks(self, image: Tensor, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        size = (image.shape[-2], image.shape[-1])
        planes = []
        for prompt in prompts:
            assert prompt.box is not None, "a shape is drawn into a box"
            is_left = prompt.box[0] + prompt.box[2] < size[1]
            planes.append(stretched(self.left if is_left else self.right, prompt.box, size))
        return torch.stack(planes).to(image.device), torch.ones(len(prompts), device=image.device)


def stretched(shape: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """A shape [h, w] that fills a box of a picture of size (H, W), zero outside."""
    left, top, right, bottom = box
    y, x = (torch.arange(side) + 0.5 for side in size)
    places = torch.broadcast_tensors(
        (2 * (x - left) / (right - left) - 1)[None, :], (2 * (y - top) / (bottom - top) - 1)[:, None]
    )
    return F.grid_sample(shape[None, None], torch.stack(places, -1)[None], align_corners=False)[0, 0]


@dataclass(frozen=True)
class Ellipses(Teacher):
    """The ellipse in each box."""

    def open(self, device: torch.device) -> Teaching:
        y, x = torch.meshgrid(torch.linspace(-1, 1, 256), torch.linspace(-1, 1, 256), indexing="ij")
        disc = (x**2 + y**2 < 1).float()
        return Drawing(disc, disc)


@dataclass(frozen=True)
class MeanLungs(Teacher):
    """The mean of drawn lungs, each stretched to its box: the patient's right one left of the picture's middle."""

    def open(self, device: torch.device) -> Teaching:
        return Drawing(*mean_lungs())


@cache
def mean_lungs(side: int = 64) -> tuple[Tensor, Tensor]:
    """The means [side, side], from 0 to 1, of the masks of the right and of the left lung cut out of drawn chests."""
    chests = [scene(SEED, number, "chest").objects for number in range(NUM_CHESTS)]

    def mean(name: str) -> Tensor:
        cut = []
        for number, objects in enumerate(chests):
            if name not in objects:
                continue
            mask = objects[name][number % len(objects[name])]
            left, top, right, bottom = box_of(mask).astype(int)
            part = torch.from_numpy(mask[top : bottom + 1, left : right + 1]).float()
            cut.append(F.interpolate(part[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0])
        return torch.stack(cut).mean(0)

    return mean("right lung"), mean("left lung")
