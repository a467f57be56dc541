"""Top-k: only the largest changes are sent. Aji and Heafield, EMNLP 2017; Stich et al., NeurIPS 2018."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlit.transforms.base import Compression
from fedlit.weights import Weights, flattened, shaped

VALUES, PLACES = "top_k/values", "top_k/places"


@dataclass(frozen=True)
class TopK(Compression):
    """The `share` of all numbers that changed the most: their values, and their places as int32.

    Args:
        share: of all numbers of an update, above 0, at most 1; at least one number is sent.
    """

    stage: ClassVar[str] = "compression"

    share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share!r} is not allowed; use one above 0, at most 1")

    def encode(self, changes: Weights, seed: int) -> dict[str, Tensor]:
        flat = flattened(changes)
        if not flat.numel():
            return {}
        count = max(1, math.ceil(self.share * flat.numel() - 1e-9))
        places = flat.abs().topk(count, sorted=False).indices.sort().values
        return {VALUES: flat[places], PLACES: places.to(torch.int32)}

    def decode(self, sent: Weights, like: Weights) -> dict[str, Tensor]:
        if not sent:
            return {}
        values, places = sent[VALUES], sent[PLACES]
        flat = values.new_zeros(sum(value.numel() for value in like.values()))
        flat[places.long()] = values
        return shaped(flat, like)
