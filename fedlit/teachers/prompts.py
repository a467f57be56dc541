"""Where a teacher is told to look for each class: by anatomy, or by the server's own masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from fedlit.micro_sam.prompts import box_of
from fedlit.teachers.priors import ANATOMIES

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class Prompt(NamedTuple):
    """What is asked for one object: a box in pixels, or points (x, y) in pixels with labels (1 inside, 0 outside)."""

    box: Box | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()


Answer = tuple[Tensor, Tensor]
"""A soft mask [H, W] and how sure of it the teacher is [], both from 0 to 1."""


class Prompts(ABC):
    """For a picture, the objects of each class; several objects of a class are joined (two lungs)."""

    needs_masks: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, size: tuple[int, int], masks: np.ndarray | None, seed: int) -> list[list[Prompt]]:
        """The prompts of each class, for a picture of size (H, W) with masks bool [K, H, W] where they are needed."""

    def for_classes(self, classes: Sequence[str]) -> Prompts:
        """The prompts for these classes, in their order.

        Raises:
            ValueError: there are none for a class.
        """
        return self

    def choose(self, number: int, found: Sequence[Answer]) -> Sequence[Answer]:
        """Of the answers to the prompts of class `number`, the objects of the class."""
        return found


@dataclass(frozen=True)
class PriorBoxes(Prompts):
    """Boxes by anatomy, the same in every picture.

    Args:
        boxes: class -> boxes, each left, top, right, bottom as shares of the picture; or the name of a shipped anatomy
            (`priors.ANATOMIES`), which knows the usual classes.
        classes: in the order of the masks; filled in by the run.
    """

    boxes: str | Mapping[str, Sequence[Sequence[float]]] = "chest_xray"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.boxes, str):
            if self.boxes not in ANATOMIES:
                raise ValueError(f"boxes={self.boxes!r}: no such anatomy is shipped; use {', '.join(ANATOMIES)}")
            return
        for name, boxes in self.boxes.items():
            for box in boxes:
                if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
                    raise ValueError(
                        f"boxes.{name}: {list(box)} is outside of the picture; use left, top, right, bottom, 0 to 1"
                    )

    @property
    def known(self) -> Mapping[str, Sequence[Sequence[float]]]:
        return ANATOMIES[self.boxes] if isinstance(self.boxes, str) else self.boxes

    def for_classes(self, classes: Sequence[str]) -> Prompts:
        for name in classes:
            if not self.known.get(name):
                raise ValueError(f"boxes: there is none for the class {name}; known are {', '.join(self.known)}")
        return PriorBoxes(self.boxes, tuple(classes))

    def __call__(self, size: tuple[int, int], masks: np.ndarray | None, seed: int) -> list[list[Prompt]]:
        height, width = size

        def prompt(box: Sequence[float]) -> Prompt:
            left, top, right, bottom = box
            return Prompt((left * width, top * height, right * width, bottom * height))

        return [[prompt(box) for box in self.known[name]] for name in self.classes]


@dataclass(frozen=True)
class MaskBoxes(Prompts):
    """Boxes around the objects of the server's own masks, their edges moved at random.

    Args:
        jitter: deviation of an edge, as a share of the box's side.
        least: objects smaller than this share of the picture are left out.
    """

    needs_masks: ClassVar[bool] = True
    jitter: float = 0.1
    least: float = 0.002

    def __call__(self, size: tuple[int, int], masks: np.ndarray | None, seed: int) -> list[list[Prompt]]:
        assert masks is not None
        random = np.random.default_rng(seed)
        return [[Prompt(self._moved(box, size, random)) for box in object_boxes(mask, self.least)] for mask in masks]

    def _moved(self, box: Box, size: tuple[int, int], random: np.random.Generator) -> Box:
        left, top, right, bottom = box
        by = self.jitter * random.normal(size=4)
        wide, high = right - left, bottom - top
        x = np.sort(np.clip([left + by[0] * wide, right + by[2] * wide], 0, size[1]))
        y = np.sort(np.clip([top + by[1] * high, bottom + by[3] * high], 0, size[0]))
        return float(x[0]), float(y[0]), float(max(x[1], x[0] + 1)), float(max(y[1], y[0] + 1))


@dataclass(frozen=True)
class MaskPoints(Prompts):
    """Points inside the objects of the server's own masks, drawn at random among those far from the edge.

    Args:
        number: of points in each object.
        least: objects smaller than this share of the picture are left out.
    """

    needs_masks: ClassVar[bool] = True
    number: int = 1
    least: float = 0.002

    def __call__(self, size: tuple[int, int], masks: np.ndarray | None, seed: int) -> list[list[Prompt]]:
        assert masks is not None
        random = np.random.default_rng(seed)
        return [[self._inside(part, random) for part in objects(mask, self.least)] for mask in masks]

    def _inside(self, part: np.ndarray, random: np.random.Generator) -> Prompt:
        from scipy.ndimage import distance_transform_edt

        depth = distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
        rows, columns = np.nonzero(depth >= depth.max() / 2)
        chosen = random.integers(len(rows), size=self.number)
        points = tuple((float(columns[place]), float(rows[place])) for place in chosen)
        return Prompt(None, points, (1,) * self.number)


def objects(mask: np.ndarray, least: float) -> list[np.ndarray]:
    """The connected parts of a mask bool [H, W] that are at least this share of the picture, each as a mask."""
    from scipy.ndimage import label

    parts, count = label(mask)
    found = [parts == number for number in range(1, count + 1)]
    return [part for part in found if np.count_nonzero(part) >= least * mask.size]


def object_boxes(mask: np.ndarray, least: float) -> list[Box]:
    """Boxes in pixels around the parts of a mask; see `objects`."""
    boxes: list[Box] = []
    for part in objects(mask, least):
        left, top, right, bottom = box_of(part).tolist()
        boxes.append((left, top, right + 1, bottom + 1))
    return boxes
