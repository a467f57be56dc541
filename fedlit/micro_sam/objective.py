"""The loss that a promptable SAM is pretrained with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlit.networks.prompting import Prompted

SINGLE, SEVERAL = slice(0, 1), slice(1, None)
"""Of SAM's four masks: the one that answers with what is most likely, and those that share the possibilities."""


def objective(found: Prompted, masks: Tensor) -> Tensor:
    """Dice and BCE of the first mask, of the best of the three others, and the error of the estimated IoU.

    The other convention of the object (`masks[:, :, 1]`) must be among the three as well. Kirillov et al., ICCV 2023,
    train the best of three; BCE is divided by the object's area, so that small ones count.

    Args:
        found: for B pictures with P prompts each.
        masks: bool [B, P, 2, H, W], the wanted convention first.
    """
    logits = found.logits.float().flatten(0, 1).flatten(2)  # [N, 4, H * W]
    wanted = masks.flatten(0, 1).flatten(2).to(logits)  # [N, 2, H * W]
    losses = _losses(logits, wanted)
    with torch.no_grad():
        overlap = _iou(logits > 0, wanted)
    differs = (wanted[:, 0] != wanted[:, 1]).any(1)
    several = losses[:, SEVERAL]
    best = several[:, :, 0].amin(1) + 0.5 * differs * several[:, :, 1].amin(1) + 0.05 * several[:, :, 0].mean(1)
    quality = F.mse_loss(found.quality.float().flatten(0, 1), overlap)
    return losses[:, SINGLE, 0].mean() + best.mean() + quality


def _losses(logits: Tensor, wanted: Tensor) -> Tensor:
    """Dice + BCE [N, 4, 2] of each mask with each convention."""
    area, pixels = wanted.sum(2)[:, None], logits.shape[2]
    chance = logits.sigmoid()
    both = chance @ wanted.mT
    dice = 1 - (2 * both + 1) / (chance.sum(2)[..., None] + area + 1)
    bce = F.softplus(logits).sum(2)[..., None] - logits @ wanted.mT
    return dice + bce / (area + 0.05 * pixels)


def _iou(found: Tensor, wanted: Tensor) -> Tensor:
    """IoU [N, 4] of each mask with the wanted convention."""
    found, wanted = found.to(wanted), wanted[:, :1]
    both = (found * wanted).sum(2)
    return both / (found.sum(2) + wanted.sum(2) - both).clamp(min=1)
