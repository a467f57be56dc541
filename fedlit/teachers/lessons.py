"""A teacher's answers for the pictures of a site, as what a client trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedlit.data.augmentation import Augmentation
from fedlit.data.pictures import Pictures
from fedlit.data.request import Request, channels_first
from fedlit.networks.feature_cache import FeatureCache
from fedlit.seeding import address
from fedlit.teachers.prompts import Prompt
from fedlit.teachers.teacher import Teacher, Teaching
from fedlit.weights import load


@dataclass(frozen=True, eq=False)
class Lessons:
    """Pictures with a teacher's answers, in the place of `Pictures` where a client trains.

    Args:
        pictures: all of the site's; what is not in `indices` is left out.
        files: of every picture, with the answers [K, H * W + 1] in bf16, soft masks and confidence; see `answers`.
        weights: how much each of `indices` counts, their mean 1.
        augmentation: of a picture and what is taught of it together.
    """

    pictures: Pictures
    files: Sequence[Path]
    indices: Sequence[int]
    weights: Sequence[float]
    augmentation: Augmentation | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def request(self, indices: Sequence[int] | np.ndarray, seeds: Sequence[int] | None = None) -> LessonRequest:
        """What is read for a batch; see `Pictures.request`."""
        places = [self.indices[index] for index in indices]
        seeds = None if seeds is None or self.augmentation is None else tuple(seeds)
        return LessonRequest(
            self.pictures.request(places),
            tuple(self.files[place] for place in places),
            tuple(self.weights[index] for index in indices),
            self.augmentation,
            seeds,
        )

    def batch(self, indices: Sequence[int] | np.ndarray, seeds: Sequence[int] | None = None) -> dict[str, Tensor]:
        """image [B, C, H, W] and target [B, K, H, W], both from 0 to 1, and weight [B]."""
        return self.request(indices, seeds)()


@dataclass(frozen=True, eq=False)
class LessonRequest:
    """A batch of lessons still to be read, small enough to be sent to a worker, which calls it."""

    pictures: Request
    files: tuple[Path, ...]
    weights: tuple[float, ...]
    augmentation: Augmentation | None
    seeds: tuple[int, ...] | None

    def __call__(self) -> dict[str, Tensor]:
        image = self.pictures()["image"]
        target = torch.stack([answers(file, image.shape[-2:])[0] for file in self.files])
        if self.augmentation is not None and self.seeds is not None:
            changed = [
                self.augmentation(each.permute(1, 2, 0).numpy(), taught.permute(1, 2, 0).numpy(), seed)
                for each, taught, seed in zip(image, target, self.seeds, strict=True)
            ]
            image, target = (channels_first(np.stack(part)) for part in zip(*changed, strict=True))
        return {"image": image, "target": target, "weight": torch.tensor(self.weights)}

    def portable(self) -> LessonRequest:
        return replace(self, pictures=self.pictures.portable())


def answers(file: Path, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(soft masks [K, H, W], confidence [K]) of one picture, float32 from 0 to 1."""
    found = load(file)[0]["features"].float()
    return found[:, :-1].unflatten(1, tuple(size)), found[:, -1]


def confidence(file: Path) -> Tensor:
    """How sure the teacher is of each class [K], from 0 to 1."""
    return load(file)[0]["features"][:, -1].float()


def taught(
    teacher: Teacher,
    pictures: Pictures,
    *,
    device: torch.device,
    seed: int,
    labelled: Sequence[int] = (),
    root: Path | None = None,
) -> list[Path]:
    """The files of a teacher's answers for every picture, made now where they are not yet there.

    Args:
        labelled: pictures whose own masks are taught instead.
        seed: of what is drawn at random for prompts, such as jitter.
        root: instead of the cache that pictures are kept in.

    Raises:
        BadInput: the teacher's weights cannot be had, or the cache cannot be written.
    """
    teaching = teacher.open(device)
    cache = FeatureCache("bf16", teaching.state, most_bytes=float("inf"), root=root)
    own, files = set(labelled), []
    for index in range(len(pictures)):
        is_labelled = index in own
        image = pictures.images([index])[0].to(device)
        masks = own_masks(pictures, index) if is_labelled or teacher.prompts.needs_masks else None
        size = (image.shape[-2], image.shape[-1])
        prompts = None if is_labelled else teacher.prompts(size, masks, address(seed, "prompts", index))
        planes = masks if is_labelled else None
        text = f"{teacher!r} {prompts!r} {None if planes is None else np.packbits(planes).tobytes().hex()}"
        answer = partial(_answer, teacher, teaching, prompts, planes)
        files.append(cache.file(answer, image, text))
    return files


def own_masks(pictures: Pictures, index: int) -> np.ndarray:
    return pictures.batch([index])["target"][0].numpy().astype(bool)


def _answer(
    teacher: Teacher,
    teaching: Teaching,
    prompts: list[list[Prompt]] | None,
    masks: np.ndarray | None,
    image: Tensor,
) -> Tensor:
    """image [1, C, H, W] -> [1, K, H * W + 1]; several objects of a class are joined, no object is an empty mask."""
    if prompts is None:
        assert masks is not None
        return torch.cat([torch.from_numpy(masks).float().flatten(1), torch.ones(len(masks), 1)], dim=1)[None]
    asked = [prompt for of_class in prompts for prompt in of_class]
    found = iter(zip(*teaching.masks(image, asked), strict=True)) if asked else iter(())
    rows = []
    for number, of_class in enumerate(prompts):
        objects = teacher.prompts.choose(number, [next(found) for _ in of_class])
        empty = torch.zeros(image.shape[-2:], device=image.device)
        joined = torch.stack([empty, *(each for each, _ in objects)]).amax(0)
        sure = torch.stack([each for _, each in objects]).mean() if objects else torch.ones((), device=image.device)
        rows.append(torch.cat([joined.flatten(), sure[None]]))
    return torch.stack(rows)[None]
