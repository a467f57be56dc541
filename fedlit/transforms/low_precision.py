"""Low precision: changes are sent in two bytes or one each. Dettmers, ICLR 2016; Seide et al., Interspeech 2014."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from fedlit.errors import ClientFailed
from fedlit.transforms.base import Compression
from fedlit.weights import Weights

Precision = Literal["bf16", "fp16", "int8"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
SCALE = "/scale"
LEVELS = 127  # of int8 on either side of 0


@dataclass(frozen=True)
class LowPrecision(Compression):
    """Every number in `precision`; for int8 each tensor is divided by its largest magnitude, which is sent too."""

    stage: ClassVar[str] = "precision"

    precision: Precision = "int8"

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(
                f"precision={self.precision!r} is not allowed; use one of {', '.join(get_args(Precision))}"
            )

    def encode(self, changes: Weights, seed: int) -> dict[str, Tensor]:
        sent = {}
        for name, value in changes.items():
            if not value.is_floating_point():
                sent[name] = value
            elif self.precision == "int8":
                sent[name], sent[name + SCALE] = levels(value)
            else:
                sent[name] = self._cast(value)
        return sent

    def _cast(self, value: Tensor) -> Tensor:
        """Raises ClientFailed where fp16 has no number so large."""
        low = value.to(DTYPES[self.precision])
        if not low.is_meta and not low.isfinite().all():
            raise ClientFailed(f"a change of {value.abs().max():.3g} is too large for fp16; use precision=bf16 or int8")
        return low

    def decode(self, sent: Weights, like: Weights) -> dict[str, Tensor]:
        return {
            name: sent[name].to(value.dtype) * (sent[name + SCALE] / LEVELS).to(value.dtype)
            if name + SCALE in sent
            else sent[name].to(value.dtype)
            for name, value in like.items()
        }


def levels(value: Tensor) -> tuple[Tensor, Tensor]:
    """The tensor in int8, rounded to the nearest level, and its largest magnitude (float32; 1 where all are 0)."""
    largest = value.abs().amax().float() if value.numel() else value.new_zeros((), dtype=torch.float32)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    scaled = value.double() * (LEVELS / largest.double())
    return scaled.round().clamp(-LEVELS, LEVELS).to(torch.int8), largest.reshape(1)
