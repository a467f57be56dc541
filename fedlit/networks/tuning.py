"""What of SAM is trained, and so sent: all of it, adapters, LoRA, or the decoder alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fedlit.networks.sam_adapter import AdaptedBlock, LowRank

if TYPE_CHECKING:
    from fedlit.networks.sam import SAM


class Tuning(Protocol):
    """Adds to the image encoder of a frozen network what is to be trained there.

    Returns the number of its first stages (the patches, each block, the neck) that stay a pure function of the picture.
    The mask decoder is trained besides, all but its head for the quality of masks, which no loss reaches.
    """

    def __call__(self, sam: SAM) -> int: ...


@dataclass(frozen=True)
class Full:
    """All of it. FedSAM of FedFMS, Liu et al., MICCAI 2024."""

    def __call__(self, sam: SAM) -> int:
        sam.image_encoder.requires_grad_(True)
        return 0


@dataclass(frozen=True)
class DecoderOnly:
    """The mask decoder alone."""

    def __call__(self, sam: SAM) -> int:
        return sam.num_stages


@dataclass(frozen=True)
class Adapters:
    """Medical SAM Adapters in the blocks. FedMSA of FedFMS, Liu et al., MICCAI 2024; see `AdaptedBlock`.

    Args:
        last: only in so many last blocks; None for all.
        as_released: fill up the windows before the first norm, as FedFMS's released code does; SAM does so after it.
    """

    ratio: float = 0.25
    scale: float = 0.5
    last: int | None = None
    as_released: bool = False

    def __post_init__(self) -> None:
        if not self.ratio > 0:
            raise ValueError(f"ratio={self.ratio!r} is not allowed; use a share above 0")

    def __call__(self, sam: SAM) -> int:
        blocks = sam.image_encoder.blocks
        chosen = last_blocks(len(blocks), self.last)
        for number in chosen:
            blocks[number] = AdaptedBlock(
                blocks[number], ratio=self.ratio, scale=self.scale, pad_first=self.as_released
            )
        return 1 + chosen[0]


@dataclass(frozen=True)
class LoRA:
    """Low-rank additions to q and v. Hu et al., ICLR 2022; rank and alpha as in SAMed, Zhang and Liu, 2023.

    Args:
        blocks: numbers of the blocks, from 0; None for all.
    """

    rank: int = 4
    alpha: float = 4.0
    blocks: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank!r} is not allowed; use a whole number of at least 1")

    def __call__(self, sam: SAM) -> int:
        blocks = sam.image_encoder.blocks
        chosen = sorted(set(range(len(blocks)) if self.blocks is None else self.blocks))
        if not chosen or chosen[0] < 0 or chosen[-1] >= len(blocks):
            raise ValueError(f"blocks={list(chosen)} is not allowed; use numbers from 0 to {len(blocks) - 1}")
        for number in chosen:
            if not hasattr(blocks[number].attn, "lora"):
                raise ValueError("attention='stock' has no place for LoRA, which would learn nothing; use auto")
            width = blocks[number].norm1.normalized_shape[0]
            blocks[number].attn.lora = LowRank(width, self.rank, self.alpha)
        return 1 + chosen[0]


def last_blocks(num_blocks: int, last: int | None) -> range:
    """The numbers of so many last blocks.

    Raises:
        ValueError: there are none or fewer.
    """
    last = num_blocks if last is None else last
    if not 1 <= last <= num_blocks:
        raise ValueError(f"last={last!r} is not allowed; use 1 to {num_blocks} blocks, or null for all")
    return range(num_blocks - last, num_blocks)
