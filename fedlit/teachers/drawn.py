"""Teachers that have learnt nothing, to tell what a real one adds: ellipses in the boxes, and the true masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlit.teachers.prompts import Prompt
from fedlit.teachers.teacher import Teacher, Teaching


class Drawing(Teaching):
    """Draws a shape into each box, whatever the picture shows."""

    def __init__(self, shape: Tensor):
        self.shape = shape

    def masks(self, image: Tensor, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5
        planes = []
        for prompt in prompts:
            assert prompt.box is not None, "a shape is drawn into a box"
            left, top, right, bottom = prompt.box
            grid = torch.stack(
                torch.broadcast_tensors(
                    (2 * (x - left) / (right - left) - 1)[None], (2 * (y - top) / (bottom - top) - 1)[:, None]
                ),
                -1,
            )
            planes.append(
                torch.nn.functional.grid_sample(self.shape[None, None], grid[None], align_corners=False)[0, 0]
            )
        return torch.stack(planes).to(image.device), torch.ones(len(prompts), device=image.device)


@dataclass(frozen=True)
class Ellipses(Teacher):
    """The ellipse in each box."""

    def open(self, device: torch.device) -> Teaching:
        y, x = torch.meshgrid(torch.linspace(-1, 1, 256), torch.linspace(-1, 1, 256), indexing="ij")
        return Drawing((x**2 + y**2 < 1).float())
