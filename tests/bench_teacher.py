"""How well the embedded teacher finds real lungs it was never trained on: python -m tests.bench_teacher [FILE]

All chest X-rays of cxr_lungs, grey, at 128 px; a box for each lung, every edge moved by a normal of 10 % of the box.
The pictures serve to measure alone, and controls show what the prompt gives away without a picture.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedlit.micro_sam import embedded_teacher
from fedlit.micro_sam.drawing import SIZE
from fedlit.micro_sam.prompts import box_of, jittered
from fedlit.micro_sam.scenes import scene
from fedlit.networks.prompting import prompted
from fedlit.networks.sam import SAM
from fedlit.teachers.priors import LEFT_LUNG, RIGHT_LUNG
from tests.conftest import REAL_DATA

DATA = REAL_DATA / "cxr_lungs"
LUNGS = ("right lung", "left lung")
MOVED, SEED = 0.10, 0


@dataclass(frozen=True)
class Cases:
    """N pictures [N, 1, H, W] in [0, 1], their lungs [N, 2, H, W] (right, left), boxes [N, 2, 4], and where from.

    `conventions` [N, 2, 2, H, W], of drawn ones: the lungs with what the heart hides and without it.
    """

    images: Tensor
    lungs: Tensor
    boxes: Tensor
    is_covid: Tensor
    conventions: Tensor | None = None

    @classmethod
    def real(cls, root: Path = DATA) -> Cases:
        with open(root / "sites.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        pictures = [Image.open(root / row["image"]).convert("L").reduce(2) for row in rows]
        labels = [np.asarray(Image.open(root / row["image"].replace("images/", "labels/"))) for row in rows]
        lungs = np.stack([[shrunk(label == value) for value in (1, 2)] for label in labels])
        return cls.of(
            np.stack([np.asarray(picture, dtype=np.float32)[None] / 255 for picture in pictures]),
            lungs,
            torch.tensor([row["site"] != "jsrt" for row in rows]),
        )

    @classmethod
    def of(cls, images: np.ndarray, lungs: np.ndarray, is_covid: Tensor) -> Cases:
        random = np.random.default_rng(SEED)
        boxes = [[jittered(random, box_of(lung), MOVED, lung.shape) for lung in pair] for pair in lungs]
        return cls(torch.from_numpy(images), torch.from_numpy(lungs), torch.from_numpy(np.array(boxes)), is_covid)

    @classmethod
    def drawn(cls, num: int, seed: int = 2**31) -> Cases:
        """Chests drawn from a seed that no training uses; every other one without what the heart hides."""
        scenes = [scene(seed, number, "chest") for number in range(num)]
        scenes = [each for each in scenes if set(LUNGS) <= each.objects.keys()]
        images = np.stack([each.picture[None] for each in scenes])
        both = np.stack([[each.objects[name] for name in LUNGS] for each in scenes])
        lungs = np.stack([pair[:, number % 2] for number, pair in enumerate(both)])
        cases = cls.of(images, lungs, torch.zeros(len(scenes), dtype=torch.bool))
        return replace(cases, conventions=torch.from_numpy(both))


def shrunk(mask: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).reduce(2)) >= 128


def dice(found: Tensor, wanted: Tensor) -> Tensor:
    """[..., H, W] -> [...]."""
    both = (found & wanted).sum((-2, -1))
    return 2 * both / (found.sum((-2, -1)) + wanted.sum((-2, -1))).clamp(min=1)


@torch.inference_mode()
def four_masks(sam: SAM, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Masks [N, 2, 4, H, W] and their estimated quality [N, 2, 4]."""
    found = [prompted(sam, *pair[:1], boxes=pair[1]) for pair in zip(images.split(32), boxes.split(32), strict=True)]
    return torch.cat([each.logits > 0 for each in found]), torch.cat([each.quality for each in found])


def chosen(sam: SAM, images: Tensor, boxes: Tensor) -> Tensor:
    """The best of the three masks by SAM's own estimate [N, 2, H, W]."""
    masks, quality = four_masks(sam, images, boxes)
    best = 1 + quality[..., 1:].argmax(-1)
    return torch.take_along_dim(masks, best[..., None, None, None], dim=2)[:, :, 0]


def in_boxes(boxes: Tensor, shape: Callable[[int, Tensor, Tensor], Tensor]) -> Tensor:
    """A shape given over the unit square (lung number, x, y -> bool) put into each box."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    left, top, right, bottom = (boxes[..., edge, None, None] for edge in range(4))
    u, v = (x - left + 0.5) / (right - left + 1), (y - top + 0.5) / (bottom - top + 1)
    inside = (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
    found = torch.stack([shape(number, u[:, number], v[:, number]) for number in range(2)], dim=1)
    return found & inside


def ellipse(number: int, u: Tensor, v: Tensor) -> Tensor:
    return (2 * u - 1) ** 2 + (2 * v - 1) ** 2 < 1


def mean_lung(num: int = 200) -> Callable[[int, Tensor, Tensor], Tensor]:
    """The mean of drawn lungs, each stretched to its box."""
    cases = Cases.drawn(num, seed=2**31 + 1)
    means = []
    for number in range(2):
        cut = []
        for lung in cases.lungs[:, number].numpy():
            left, top, right, bottom = box_of(lung).astype(int)
            crop = Image.fromarray(lung[top : bottom + 1, left : right + 1].astype(np.uint8) * 255)
            cut.append(np.asarray(crop.resize((64, 64), Image.Resampling.BILINEAR), dtype=np.float32) / 255)
        means.append(torch.from_numpy(np.mean(cut, axis=0)) > 0.5)

    def shape(number: int, u: Tensor, v: Tensor) -> Tensor:
        return means[number][(64 * v).long().clamp(0, 63), (64 * u).long().clamp(0, 63)]

    return shape


def rows(sam: SAM, cases: Cases) -> dict[str, Tensor]:
    """What was tried, and the Dice of each lung [N, 2]."""
    images, lungs, boxes = cases.images, cases.lungs, cases.boxes
    usual = torch.tensor([RIGHT_LUNG, LEFT_LUNG]).mul(SIZE).sub(0.5).expand(len(images), -1, -1)
    masks, _ = four_masks(sam, images, boxes)
    others = images.roll(len(images) // 2, 0)
    return {
        "teacher, a box for each lung": dice(chosen(sam, images, boxes), lungs),
        "teacher, one prior box for all": dice(chosen(sam, images, usual), lungs),
        "teacher, its first mask alone": dice(masks[:, :, 0], lungs),
        "teacher, best of three by the truth": dice(masks[:, :, 1:], lungs[:, :, None]).amax(-1),
        "control: ellipse in the box": dice(in_boxes(boxes, ellipse), lungs),
        "control: mean drawn lung in the box": dice(in_boxes(boxes, mean_lung()), lungs),
        "control: another patient's picture": dice(chosen(sam, others, boxes), lungs),
        "control: a blank picture": dice(chosen(sam, torch.full_like(images, 0.5), boxes), lungs),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=None, help="weights; by default the embedded ones")
    parser.add_argument("--drawn", type=int, metavar="N", help="on N drawn chests that no training sees, instead")
    words = parser.parse_args(arguments)
    if words.drawn is None and not DATA.is_dir():
        print(f"skipped: {DATA} is not there; FEDLIT_TEST_DATA names the folder that holds cxr_lungs")
        return
    sam = SAM(1, 1, size="micro", checkpoint=str(words.file or embedded_teacher())).eval()
    cases = Cases.real() if words.drawn is None else Cases.drawn(words.drawn)
    where = "all, jsrt, covid sites" if words.drawn is None else "all"
    print(f"{len(cases.images)} pictures, mean Dice of a lung: {where}")
    for name, scores in rows(sam, cases).items():
        parts = [scores] if words.drawn is not None else [scores, scores[~cases.is_covid], scores[cases.is_covid]]
        print(f"{name:38}" + "".join(f"  {part.mean():.3f}" for part in parts))


if __name__ == "__main__":
    main()
