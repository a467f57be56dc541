"""Automatic masks: a point everywhere, then a rule for each class. Kirillov et al., ICCV 2023, section 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fedlit.teachers.prompts import Answer, Prompt, Prompts

SAME = 0.7
"""Masks that overlap more, by IoU, are one object."""


@dataclass(frozen=True)
class Rule:
    """Which of the objects found belong to a class.

    Args:
        area: least and most, as shares of the picture.
        centre: left, top, right, bottom of where the middle of the object lies, as shares of the picture.
        count: the most objects of the class; those of which the teacher is surest are kept.
    """

    area: tuple[float, float] = (0.005, 0.5)
    centre: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    count: int = 1

    def holds(self, mask: Tensor) -> bool:
        """Whether a mask bool [H, W] may be of the class."""
        share = mask.float().mean().item()
        if not self.area[0] <= share <= self.area[1]:
            return False
        rows, columns = torch.nonzero(mask, as_tuple=True)
        x, y = (columns.float().mean() + 0.5) / mask.shape[1], (rows.float().mean() + 0.5) / mask.shape[0]
        left, top, right, bottom = self.centre
        return bool(left <= x <= right and top <= y <= bottom)


@dataclass(frozen=True)
class Everywhere(Prompts):
    """Points on a grid; of all that the teacher finds there, what the rule of each class lets pass.

    Args:
        rules: by class.
        grid: points along each side.
        classes: in the order of the masks; filled in by the run.
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    grid: int = 8
    classes: tuple[str, ...] = ()

    def for_classes(self, classes: Sequence[str]) -> Prompts:
        for name in classes:
            if name not in self.rules:
                raise ValueError(
                    f"rules: there is none for the class {name}; known are {', '.join(self.rules) or 'none'}"
                )
        return Everywhere(self.rules, self.grid, tuple(classes))

    def __call__(self, size: tuple[int, int], masks: np.ndarray | None, seed: int) -> list[list[Prompt]]:
        height, width = size
        shares = (np.arange(self.grid) + 0.5) / self.grid
        points = [Prompt(None, ((float(x * width), float(y * height)),), (1,)) for y in shares for x in shares]
        return [points for _ in self.classes]

    def choose(self, number: int, found: Sequence[Answer]) -> Sequence[Answer]:
        rule = self.rules[self.classes[number]]
        kept: list[Answer] = []
        for answer in sorted(found, key=lambda answer: -float(answer[1])):
            mask = answer[0] > 0.5
            if rule.holds(mask) and all(iou(mask, other[0] > 0.5) <= SAME for other in kept):
                kept.append(answer)
            if len(kept) == rule.count:
                break
        return kept


def iou(left: Tensor, right: Tensor) -> float:
    return ((left & right).sum() / (left | right).sum().clamp(min=1)).item()
