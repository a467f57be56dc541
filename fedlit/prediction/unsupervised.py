"""What can be said of predictions without labels: how unsure, unsteady, ragged and far from others' they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlit.losses import is_softmax, precise, probabilities
from fedlit.prediction.base import Model


def entropy(logits: Tensor, num_classes: int) -> Tensor:
    """How unsure each pixel's prediction is [B, H, W]: from 0 (sure) to 1 (all classes alike).

    Shannon's entropy over K + 1 classes of a softmax, divided by log(K + 1); of sigmoids the mean over the K classes of
    Bernoulli's entropy, divided by log(2).

    Args:
        logits: [B, K, H, W] (sigmoid) or [B, K + 1, H, W] (softmax); computed in at least float32.
    """
    logits, softmax = precise(logits), is_softmax(logits, num_classes)
    if not softmax:
        size = logits.abs()
        # equals log(1 + e^z) - z sigmoid(z), without cancellation for large |z|
        return (F.softplus(-size) + size * torch.sigmoid(-size)).mean(1) / math.log(2)
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1) / math.log(logits.shape[1])


class View(NamedTuple):
    """A picture as it would look turned or mirrored, and grainier; `back` undoes the turn.

    Args:
        quarters: counter-clockwise quarter turns.
        mirrored: left and right exchanged, after the turn.
    """

    quarters: int
    mirrored: bool

    @classmethod
    def drawn(cls, shape: Sequence[int], generator: torch.Generator) -> View:
        """Any but the picture as it is; half turns alone where height and width [..., H, W] differ."""
        turns = [0, 1, 2, 3] if shape[-1] == shape[-2] else [0, 2]
        views = [cls(quarters, mirrored) for quarters in turns for mirrored in (False, True)][1:]
        return views[int(torch.randint(len(views), (), generator=generator))]

    def of(self, images: Tensor) -> Tensor:
        turned = images.rot90(self.quarters, (-2, -1))
        return turned.flip(-1) if self.mirrored else turned

    def back(self, planes: Tensor) -> Tensor:
        return (planes.flip(-1) if self.mirrored else planes).rot90(-self.quarters, (-2, -1))


def logits_of_a_view(model: Model, images: Tensor, seed: int, noise: float) -> Tensor:
    """What the model says of a view of pictures [B, C, H, W], one for all, with a grain of that standard deviation;
    turned back."""
    generator = torch.Generator().manual_seed(seed)
    view = View.drawn(images.shape, generator)
    grain = noise * torch.randn(images.shape, generator=generator).to(images)
    return view.back(model(view.of(images + grain)))


@dataclass(frozen=True)
class Tones:
    """A picture in [0, 1] as another device could have given it: x^gamma, then c (x - 1/2) + 1/2 + b, then a grain.

    Values are cut to [0, 1] before the power and before the grain. Every picture of a batch has tones of its own.
    Nothing moves: what is where stays the same, so that a network that knows pictures by their places, such as of
    upright chests, is asked nothing that it never met.

    Args:
        gamma: from its inverse to itself, evenly by logarithm.
        contrast: c is from 1 - contrast to 1 + contrast.
        brightness: b is from -brightness to brightness.
        noise: standard deviation of the grain.
    """

    gamma: float = 1.5
    contrast: float = 0.2
    brightness: float = 0.1
    noise: float = 0.1

    def __post_init__(self) -> None:
        limits = {"gamma": (1, math.inf), "contrast": (0, 1), "brightness": (0, 1), "noise": (0, math.inf)}
        for name, (least, end) in limits.items():
            value = getattr(self, name)
            if not least <= value < end:
                raise ValueError(f"{name}={value!r} is not allowed; use a number from {least}, below {end}")

    def of(self, images: Tensor, seed: int) -> Tensor:
        """images [B, C, H, W]"""
        generator = torch.Generator().manual_seed(seed)
        gamma, contrast, brightness = (2 * torch.rand(3, len(images), 1, 1, 1, generator=generator) - 1).to(images)
        toned = images.clamp(0, 1) ** self.gamma**gamma
        toned = (toned - 0.5) * (1 + self.contrast * contrast) + 0.5 + self.brightness * brightness
        return toned.clamp(0, 1) + self.noise * torch.randn(images.shape, generator=generator).to(images)


def activated(logits: Tensor, num_classes: int) -> Tensor:
    """Probabilities of all channels, in at least float32."""
    softmax = is_softmax(logits, num_classes)
    return precise(logits).softmax(1) if softmax else precise(logits).sigmoid()


def inconsistency(logits: Tensor, others: Tensor, num_classes: int) -> Tensor:
    """Mean squared difference of the probabilities of two views of the same pixels."""
    return F.mse_loss(activated(logits, num_classes), activated(others, num_classes))


def roughness(logits: Tensor, num_classes: int, side: int = 21) -> Tensor:
    """Morphological gradient of the foreground's probability [B, K, H, W]: its largest minus its smallest value in a
    square of `side` pixels around each, from 0 to 1."""
    foreground = probabilities(logits, num_classes)
    return _largest(foreground, side) + _largest(-foreground, side)


def _largest(planes: Tensor, side: int) -> Tensor:
    by_row = F.max_pool2d(planes, (side, 1), stride=1, padding=(side // 2, 0))
    return F.max_pool2d(by_row, (1, side), stride=1, padding=(0, side // 2))


def entropy_as_released(logits: Tensor, num_classes: int) -> Tensor:
    """Entropy as IOP-FL's code has it: summed over the batch where classes were meant, so it grows with the batch.

    Its two channels are background and foreground, of which a sigmoid says the second alone.
    """
    return entropy(logits, num_classes).mean() * (len(logits) / (num_classes + 1))


def roughness_as_released(logits: Tensor, num_classes: int) -> Tensor:
    """The norm of `roughness` over all pixels, weighed as IOP-FL's code has it: so little that it does nothing."""
    return 1e-6 * torch.linalg.vector_norm(roughness(logits, num_classes))


@dataclass(frozen=True)
class Unsupervised:
    """agreement + entropy + consistency + shape, each with its weight; all but the first of Jiang et al., TMI 2023.

    IOP-FL's weights are 10, 0.1 and, in the released code, next to nothing for shape. On phantoms, sites left out in
    turn, entropy alone made the predictions of some sites worse, and beside consistency neither it nor shape brought
    anything. A network that is only asked to agree with itself has nothing that tells it who is right; asked to say of
    the picture in another tone what a teacher says of it as it is, it has.

    Args:
        agreement: weight of how far the prediction of the picture in another tone is from what a teacher, such as the
            global model, says of the picture as it is.
        entropy: of how unsure the prediction is, averaged over pixels.
        consistency: of how far the prediction of a turned, mirrored, grainier view is from that of the picture, which
            is the target: no gradient goes through it.
        shape: of the root mean square of `roughness`: long, ragged and blurred outlines cost.
        noise: standard deviation of the grain of views; pixels are in [0, 1].
        tones: of the pictures for agreement.
        as_released: the entropy and shape terms with the slips of the released code, and gradients through both views.
    """

    agreement: float = 0.0
    entropy: float = 0.0
    consistency: float = 1.0
    shape: float = 0.0
    noise: float = 0.05
    tones: Tones = field(default_factory=Tones)
    as_released: bool = False

    def __post_init__(self) -> None:
        for name in ("agreement", "entropy", "consistency", "shape", "noise"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value!r} is not allowed; use 0 or more")
        if not (self.agreement or self.entropy or self.consistency or self.shape):
            raise ValueError("agreement, entropy, consistency and shape are all 0: nothing to adapt by; weigh one")

    def __call__(
        self, model: Model, images: Tensor, seed: int, num_classes: int, *, teacher: Model | None = None
    ) -> Tensor:
        """The objective on a batch [B, C, H, W]; tones and the view, one for the batch, are drawn from `seed`.

        Args:
            teacher: whom to agree with; needed for agreement alone.
        """
        terms = []
        if self.entropy or self.shape or self.consistency:
            is_only_target = not (self.entropy or self.shape or self.as_released)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not is_only_target):
                logits = model(images)
        if self.entropy:
            unsure = entropy_as_released if self.as_released else entropy
            terms.append(self.entropy * unsure(logits, num_classes).mean())
        if self.shape:
            terms.append(self.shape * self._roughness(logits, num_classes))
        if self.consistency:
            target = logits if self.as_released else logits.detach()
            others = logits_of_a_view(model, images, seed, self.noise)
            terms.append(self.consistency * inconsistency(others, target, num_classes))
        if self.agreement:
            assert teacher is not None, "agreement with nobody: give a teacher"
            toned = model(self.tones.of(images, seed))
            terms.append(self.agreement * inconsistency(toned, teacher(images).detach(), num_classes))
        return torch.stack(terms).sum()

    def _roughness(self, logits: Tensor, num_classes: int) -> Tensor:
        if self.as_released:
            return roughness_as_released(logits, num_classes)
        rough = roughness(logits, num_classes)
        # a norm, whose gradient at 0 is 0; a square root's would be NaN where all is background
        return torch.linalg.vector_norm(rough) / rough.numel() ** 0.5
