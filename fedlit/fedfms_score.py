"""FedFMS's score as released: Dice and IoU of raw logits cut at five values, per slice. Liu et al., MICCAI 2024.

It is no Dice: the cuts are meant for probabilities and made on logits, so a pixel counts from a probability of 0.52,
0.57, 0.62, 0.67 and 0.71 on, and a slice without foreground is perfect where nothing is found. It is here to be
compared with the paper's numbers, and always stands beside the Dice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FEDFMS = ("dice_fedfms_thresholds", "iou_fedfms_thresholds")
FORMERLY = {"fedfms_dice": FEDFMS[0], "fedfms_iou": FEDFMS[1]}
"""Names that configs may still have."""

CUTS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the logits
DICE_SMOOTHING, IOU_SMOOTHING = 1e-4, 1e-6  # pixels


def levels(logits: Tensor, num_classes: int) -> Tensor:
    """How many of 0 and `CUTS` each logit is above: uint8 [B, K, H, W], from 0 to 6, in the memory of a mask.

    `levels > 0` is the mask at probability 0.5, `levels > n` that at the n-th cut.

    Raises:
        ValueError: the logits [B, C, H, W] are not one a class.
    """
    if logits.shape[1] != num_classes:
        raise ValueError(
            f"{logits.shape[1]} logits for {num_classes} classes: {' and '.join(FEDFMS)} cut the one raw logit of a "
            "class; use activation=sigmoid"
        )
    found = (logits > 0).byte()
    precise = logits.float()  # bfloat16 would round the cuts
    for cut in CUTS:
        found += (precise > cut).byte()
    return found


def fedfms_scores(levels: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """The two scores of a class, by name: the mean over the cuts and the slices of a case.

    levels: uint8 [H, W] or [D, H, W], as `levels` makes them; target: bool of that shape. What is empty in both counts
    as 1. The smoothing is the released one, found from values it gave.
    """
    in_slice = (-2, -1)
    reference, dice, iou = target.sum(in_slice), 0.0, 0.0
    for number in range(1, len(CUTS) + 1):
        mask = levels > number
        overlap, both = (mask & target).sum(in_slice), mask.sum(in_slice) + reference
        dice += ((2 * overlap + DICE_SMOOTHING) / (both + DICE_SMOOTHING)).mean()
        iou += ((overlap + IOU_SMOOTHING) / (both - overlap + IOU_SMOOTHING)).mean()
    return dict(zip(FEDFMS, (float(dice / len(CUTS)), float(iou / len(CUTS))), strict=True))
