"""SAM with prompts: what lies in a box or at a point, for teaching and for prediction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedlit.networks.sam import SAM


class Prompted(NamedTuple):
    """For B pictures with P prompts each: logits [B, P, 4, H, W], and SAM's estimate of each mask's IoU [B, P, 4].

    The first mask is meant for several prompts of one object, the others for a single one."""

    logits: Tensor
    quality: Tensor


def prompted(
    sam: SAM,
    image: Tensor,
    *,
    boxes: Tensor | None = None,
    points: Tensor | None = None,
    labels: Tensor | None = None,
) -> Prompted:
    """The masks of P prompts in each picture; all pictures and prompts in one pass.

    Args:
        image: [B, 3 or 1, H, W] in [0, 1].
        boxes: [B, P, 4], left, top, right, bottom in pixels.
        points: [B, P, N, 2], (x, y) in pixels.
        labels: [B, P, N], of the points: 1 inside the object, 0 outside, -1 no point.

    Raises:
        ValueError: neither boxes nor points, or points without labels.
    """
    given = points if boxes is None else boxes
    if given is None or (points is None) != (labels is None):
        raise ValueError("a prompt is a box, or points with their labels, or both")
    num = given.shape[1]
    where = None
    if points is not None and labels is not None:
        where = native(sam, image, points.flatten(0, 1)), labels.flatten(0, 1)
    corners = None if boxes is None else native(sam, image, boxes.reshape(-1, 2, 2)).flatten(1)
    with torch.autocast(image.device.type, enabled=False):  # see SAM.places
        tokens, _ = sam.prompt_encoder(points=where, boxes=corners, masks=None)
    no_mask = sam.prompt_encoder.no_mask_embed.weight[..., None, None]
    masks, quality = sam.decode(sam.encode(image).repeat_interleave(num, 0) + no_mask, tokens)
    logits = sam.as_large_as(image, masks)
    return Prompted(logits.unflatten(0, (-1, num)), quality.unflatten(0, (-1, num)))


def native(sam: SAM, image: Tensor, coordinates: Tensor) -> Tensor:
    """Places (x, y) of pixels [N, M, 2] as SAM's prompt encoder counts them, in pixels of the size it was made for."""
    height, width = (side + -side % sam.patch_size for side in image.shape[-2:])
    full_height, full_width = sam.prompt_encoder.input_image_size
    scale = coordinates.new_tensor([full_width / width, full_height / height])
    return (coordinates + 0.5) * scale - 0.5
