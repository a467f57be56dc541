"""Segmentation losses: logits and 0/1 planes to one number, a mean over pictures.

Every loss maps logits [B, C, H, W] and a target [B, K, H, W] of 0/1 floats, K foreground classes, to a scalar, in at
least float32 (also under bf16 autocast). The channels say which activation is meant: C == K is a sigmoid per class,
whose planes may overlap; C == K + 1 is a softmax, background first, whose planes may not; else it is a ValueError.
Each is a mean over pictures, so the losses of the parts of a batch, weighted by their shares, add up to the loss of the
batch: splitting it over processes changes nothing. `SoftDice` is the one exception and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


def probabilities(logits: Tensor, num_classes: int) -> Tensor:
    """Foreground probabilities [B, K, H, W] of logits [B, C, H, W]; C is K (sigmoid) or K + 1 (softmax)."""
    softmax = is_softmax(logits, num_classes)
    return precise(logits).softmax(1)[:, 1:] if softmax else precise(logits).sigmoid()


def masks(logits: Tensor, num_classes: int) -> Tensor:
    """Foreground masks, bool [B, K, H, W]: probability above 0.5 (sigmoid), or the most probable class (softmax; a tie
    goes to the lower channel, background first)."""
    if not is_softmax(logits, num_classes):
        return logits > 0
    classes = torch.arange(1, num_classes + 1, device=logits.device).view(1, -1, 1, 1)
    return logits.argmax(1, keepdim=True) == classes


def overlaps(logits: Tensor, target: Tensor) -> Tensor:
    """Numbers of pixels [B, K, 2], 2 |A and B| and |A| + |B|, whose ratio is Dice, also of their sums over slices.

    Args:
        logits: as `masks` takes them.
        target: planes of 0 and 1 [B, K, H, W].
    """
    found, target = masks(logits, target.shape[1]), target.bool()
    return torch.stack([2 * (found & target).sum((2, 3)), found.sum((2, 3)) + target.sum((2, 3))], dim=2)


def is_softmax(logits: Tensor, num_classes: int) -> bool:
    """Whether logits [B, C, H, W] of K foreground classes are softmax ones, C = K + 1, and not sigmoid ones, C = K.

    Raises:
        ValueError: they are neither.
    """
    channels = logits.shape[1]
    if channels not in (num_classes, num_classes + 1):
        raise ValueError(
            f"{channels} logits for {num_classes} foreground classes: use {num_classes} (sigmoid) or {num_classes + 1} "
            "(softmax, background first)"
        )
    return channels == num_classes + 1


def precise(logits: Tensor) -> Tensor:
    """In float32, or in float64 where the logits have it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Loss:
    """What the losses share: hyper-parameters that are not negative, and whether the value is a mean over pictures."""

    is_mean_over_pictures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value < float("inf")):
                raise ValueError(f"{type(self).__name__}: {field.name}={value!r} is not allowed; use 0 or more")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class DiceLoss(Loss):
    """1 - (2 sum pt + smooth) / (sum p + sum t + smooth) per picture and class; their mean. Milletari et al., 3DV 2016.

    `smooth` is in pixels; it makes an empty prediction of an empty class perfect. `include_background` counts the
    background as a class and needs softmax logits.
    """

    smooth: float = 1.0
    include_background: bool = False

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        probability, plane = _planes(logits, target, self.include_background)
        return _dice(probability, plane, self.smooth, over=(2, 3)).mean()


@dataclass(frozen=True)
class SoftDice(Loss):
    """Soft Dice over background and foreground as IOP-FL uses it, sums over the whole batch. Jiang et al., TMI 2023.

    Needs softmax logits. NOT a mean over pictures (`is_mean_over_pictures` is false): a batch divided over processes
    gives other gradients than the whole one. `DiceLoss(smooth=1e-5, include_background=True)` is the same without that.
    """

    is_mean_over_pictures: ClassVar[bool] = False
    smooth: float = 1e-5

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        probability, plane = _planes(logits, target, include_background=True)
        return _dice(probability, plane, self.smooth, over=(0, 2, 3)).mean()


@dataclass(frozen=True)
class BCE(Loss):
    """Binary cross-entropy of sigmoid logits, mean over pixels and classes; `pos_weight` multiplies foreground."""

    pos_weight: float = 1.0

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        if _takes_softmax(logits, target):
            raise ValueError(f"BCE needs one logit per class, {_shapes(logits, target)}; use CrossEntropy or DiceCE")
        logits = precise(logits)
        pos_weight = None if self.pos_weight == 1 else logits.new_tensor(self.pos_weight)
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), pos_weight=pos_weight)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of softmax logits over background and classes, mean over pixels; targets may be probabilities."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        if not _takes_softmax(logits, target):
            raise ValueError(f"CrossEntropy needs a background logit, {_shapes(logits, target)}; use BCE or DiceBCE")
        logits = precise(logits)
        return F.cross_entropy(logits, _with_background(target).to(logits.dtype))


@dataclass(frozen=True)
class DiceBCE(Loss):
    """dice_weight * DiceLoss + bce_weight * BCE, for sigmoid logits."""

    dice_weight: float = 1.0
    bce_weight: float = 1.0
    smooth: float = 1.0
    pos_weight: float = 1.0

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        dice, bce = DiceLoss(smooth=self.smooth), BCE(pos_weight=self.pos_weight)
        return self.dice_weight * dice(logits, target) + self.bce_weight * bce(logits, target)


@dataclass(frozen=True)
class DiceCE(Loss):
    """dice_weight * DiceLoss + ce_weight * CrossEntropy, for softmax logits."""

    dice_weight: float = 1.0
    ce_weight: float = 1.0
    smooth: float = 1.0
    include_background: bool = False

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        dice = DiceLoss(smooth=self.smooth, include_background=self.include_background)
        return self.dice_weight * dice(logits, target) + self.ce_weight * CrossEntropy()(logits, target)


@dataclass(frozen=True)
class Focal(Loss):
    """Cross-entropy times (1 - p)^gamma, p the probability of the truth: easy pixels count less. Lin et al., ICCV 2017.

    `alpha` in [0, 1] weighs foreground, 1 - alpha background; None weighs both 1. The mean is over pixels (and classes
    for sigmoid), where the paper divides by the number of positives, which would not be a mean over pictures.
    """

    alpha: float | None = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha is not None and self.alpha > 1:
            raise ValueError(f"Focal: alpha={self.alpha!r} is not allowed; use a share from 0 to 1, or null")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        is_softmax, logits = _takes_softmax(logits, target), precise(logits)
        if is_softmax:
            truth = _with_background(target).to(logits.dtype)
            foreground = 1 - truth[:, 0]
            entropy = F.cross_entropy(logits, truth, reduction="none")
        else:
            foreground = target.to(logits.dtype)
            entropy = F.binary_cross_entropy_with_logits(logits, foreground, reduction="none")
        # the floor keeps the derivative of x^gamma finite at x = 0 for gamma < 1
        loss = (-torch.expm1(-entropy)).clamp_min(1e-7) ** self.gamma * entropy
        if self.alpha is not None:
            loss = loss * (self.alpha * foreground + (1 - self.alpha) * (1 - foreground))
        return loss.mean()


def _dice(probability: Tensor, plane: Tensor, smooth: float, over: tuple[int, ...]) -> Tensor:
    overlap = (probability * plane).sum(over)
    return 1 - (2 * overlap + smooth) / (probability.sum(over) + plane.sum(over) + smooth)


def _planes(logits: Tensor, target: Tensor, include_background: bool) -> tuple[Tensor, Tensor]:
    """Probabilities and 0/1 planes of the classes to score, both [B, K or K + 1, H, W]."""
    softmax = _takes_softmax(logits, target)
    if not include_background:
        return probabilities(logits, target.shape[1]), target.to(precise(logits[:0]).dtype)
    if not softmax:
        raise ValueError(f"a Dice over the background needs a background logit, {_shapes(logits, target)}")
    return precise(logits).softmax(1), _with_background(target).to(precise(logits[:0]).dtype)


def _with_background(target: Tensor) -> Tensor:
    """Planes [B, K + 1, H, W] with the background first."""
    background = 1 - target.sum(1, keepdim=True)
    # On a GPU this check would wait for the device at every step; there the label map of the data must be trusted.
    if target.device.type == "cpu" and background.min() < 0:
        raise ValueError("softmax logits need classes that do not overlap; use one logit per class (sigmoid) instead")
    return torch.cat([background, target], dim=1)


def _takes_softmax(logits: Tensor, target: Tensor) -> bool:
    """Whether the logits are softmax ones, after a check that logits and target belong to the same pictures."""
    sizes = [(len(shape), shape[0], *shape[2:]) for shape in (logits.shape, target.shape)]
    if logits.ndim != 4 or sizes[0] != sizes[1]:
        raise ValueError(f"logits [B, C, H, W] and target [B, K, H, W] do not fit, {_shapes(logits, target)}")
    return is_softmax(logits, target.shape[1])


def _shapes(logits: Tensor, target: Tensor) -> str:
    return f"got logits {list(logits.shape)} and target {list(target.shape)}"
