"""Who teaches: makes soft masks and a confidence of each picture at the server; clients have no part in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from fedlit.errors import BadInput
from fedlit.networks.prompting import Prompted, prompted
from fedlit.networks.sam import SAM
from fedlit.networks.tuning import DecoderOnly
from fedlit.teachers.prompts import PriorBoxes, Prompt, Prompts


class Teaching(ABC):
    """A teacher at work, with its weights in memory."""

    @abstractmethod
    def masks(self, image: Tensor, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """What lies at each of P prompts in a picture [1, C, H, W]: soft masks [P, H, W] and confidence [P], 0 to 1."""

    def state(self) -> Mapping[str, Tensor]:
        """The weights that this depends on."""
        return {}


@dataclass(frozen=True)
class Teacher(ABC):
    """Tells, with prompts, what in a picture belongs to each class. Its fields are all that its answers depend on,
    beside the weights.

    Args:
        prompts: where to look.
    """

    prompts: Prompts = field(default_factory=PriorBoxes)

    @abstractmethod
    def open(self, device: torch.device) -> Teaching:
        """The teacher with its weights in memory.

        Raises:
            BadInput: they cannot be had.
        """


@dataclass(frozen=True)
class SAMTeacher(Teacher):
    """Segment Anything with prompts: of the three masks for one prompt the one that it takes to be best.

    Args:
        size: `micro`, or `vit_b`, `vit_l`, `vit_h` with a checkpoint of that size.
        checkpoint: an official file; None for the micro SAM that fedlit ships, which has seen drawn pictures only.
        normalize: see `SAM`.
        flips: also ask about the picture turned left to right, and take the mean.
    """

    size: str = "micro"
    checkpoint: str | None = None
    normalize: bool = True
    flips: bool = False

    def open(self, device: torch.device) -> Teaching:
        return Asked(self.load(device), self.flips)

    def load(self, device: torch.device) -> SAM:
        """The network with its weights, all frozen.

        Raises:
            BadInput: they cannot be had.
        """
        checkpoint = self.checkpoint
        if checkpoint is None:
            if self.size != "micro":
                raise BadInput(f"a teacher of size {self.size} needs its checkpoint; `fedlit weights` lists the files")
            checkpoint = "embedded"
        sam = SAM(size=self.size, tuning=DecoderOnly(), checkpoint=checkpoint, normalize=self.normalize)
        return sam.requires_grad_(False).eval().to(device)


@dataclass(frozen=True)
class Asked(Teaching):
    """A SAM that answers prompts."""

    sam: SAM
    flips: bool = False

    @torch.no_grad()
    def masks(self, image: Tensor, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        found, quality = self._best(image, prompts)
        if not self.flips:
            return found, quality
        turned, also = self._best(image.flip(-1), [mirrored(prompt, image.shape[-1]) for prompt in prompts])
        return (found + turned.flip(-1)) / 2, (quality + also) / 2

    def state(self) -> Mapping[str, Tensor]:
        return self.sam.state_dict()

    def _best(self, image: Tensor, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Of the masks 1 to 3 of each prompt the best by SAM's own estimate; of several points or both kinds mask 0."""
        found = [self._ask(image, alike) for alike in runs_of_a_kind(prompts)]
        logits, quality = torch.cat([each.logits[0] for each in found]), torch.cat([each.quality[0] for each in found])
        is_single = torch.tensor([len(prompt.points) + (prompt.box is not None) == 1 for prompt in prompts])
        best = torch.where(is_single.to(quality.device), quality[:, 1:].argmax(1) + 1, 0)
        places = torch.arange(len(best), device=best.device)
        return logits[places, best].float().sigmoid(), quality[places, best].float().clamp(0, 1)

    def _ask(self, image: Tensor, prompts: Sequence[Prompt]) -> Prompted:
        def numbers(values: list) -> Tensor:
            return torch.tensor([values], dtype=image.dtype, device=image.device)

        has_box, has_points = prompts[0].box is not None, bool(prompts[0].points)
        return prompted(
            self.sam,
            image,
            boxes=numbers([prompt.box for prompt in prompts]) if has_box else None,
            points=numbers([prompt.points for prompt in prompts]) if has_points else None,
            labels=numbers([prompt.labels for prompt in prompts]) if has_points else None,
        )


def runs_of_a_kind(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Prompts that can be asked at once: each with a box or none, and as many points."""
    kinds = groupby(prompts, key=lambda prompt: (prompt.box is not None, len(prompt.points)))
    return [list(alike) for _, alike in kinds]


def mirrored(prompt: Prompt, width: int) -> Prompt:
    """The prompt in a picture that is turned left to right."""
    box = prompt.box and (width - prompt.box[2], prompt.box[1], width - prompt.box[0], prompt.box[3])
    return Prompt(box, tuple((width - 1 - x, y) for x, y in prompt.points), prompt.labels)
