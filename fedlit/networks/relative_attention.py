"""SAM's attention on torch's fused kernels: the same parameters and results, without a matrix of tokens x tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn


def folded(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Positions as more channels: those of q are its scores by row and column, those of k a one at its own.

    Then q . k holds their sum, and nothing of tokens x tokens is ever in memory. v gets the same width, as the fused
    kernel of the CPU and flash attention want it.
    """
    channels, scale = q.shape[-1], q.shape[-1] ** -0.5
    width = by_column.shape[-1]
    places = torch.arange(q.shape[2], device=q.device)
    ones = [F.one_hot(places // width, by_row.shape[-1]), F.one_hot(places % width, width)]
    k = torch.cat([k, *(one.to(k.dtype).expand(*k.shape[:2], -1, -1) for one in ones)], dim=-1)
    q = torch.cat([q * scale, by_row.to(q.dtype), by_column.to(q.dtype)], dim=-1)
    v = F.pad(v, (0, q.shape[-1] - channels))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :channels]


def biased(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Positions as a bias of tokens x tokens for the fused kernel."""
    bias = (by_row[..., :, None] + by_column[..., None, :]).flatten(3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))


def flexed(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Positions added to each score within a kernel compiled for it (flex attention); on a CPU it is slow."""
    from torch.nn.attention.flex_attention import flex_attention

    width = by_column.shape[-1]

    def positioned(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + by_row[batch, head, query, key // width] + by_column[batch, head, query, key % width]

    attend = torch.compile(flex_attention, dynamic=False) if q.is_cuda else flex_attention
    return attend(q, k, v, score_mod=positioned)


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "folded": folded,
    "biased": biased,
    "flexed": flexed,
}
"""(q, k, v [B, heads, H * W, C], by_row [B, heads, H * W, H], by_column [B, heads, H * W, W]) -> [B, heads, H * W, C].

All are softmax(q k^T / sqrt(C) + by_row + by_column) v, where a key in row h and column w takes by_row[..., h] and
by_column[..., w] (Li et al., MViTv2, CVPR 2022, eq. 4)."""


class RelativeAttention(nn.Module):
    """The attention of a SAM block, with the parameters of `segment_anything`'s `Attention` and their names.

    Its position tables are resampled to the size of the picture, as the original does (linearly).

    Args:
        stock: whose parameters it takes over, not copies.
        way: one of WAYS.
    """

    def __init__(self, stock: Attention, way: str = "folded"):
        super().__init__()
        if way not in WAYS:
            raise ValueError(f"attention={way!r} is not allowed; use one of {', '.join(WAYS)}")
        self.num_heads, self.way = stock.num_heads, way
        self.qkv, self.proj = stock.qkv, stock.proj
        self.rel_pos_h, self.rel_pos_w = stock.rel_pos_h, stock.rel_pos_w
        self.lora: nn.Module | None = None  # tokens -> what to add to q, k and v

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H, W, D] -> [B, H, W, D]."""
        height, width = x.shape[1:3]
        qkv = self.qkv(x) if self.lora is None else self.lora(x, self.qkv(x))
        q, k, v = qkv.flatten(1, 2).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        grid = q.unflatten(2, (height, width))
        by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, get_rel_pos(height, height, self.rel_pos_h)).flatten(2, 3)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, get_rel_pos(width, width, self.rel_pos_w)).flatten(2, 3)
        found = WAYS[self.way](q, k, v, by_row, by_column)
        return self.proj(found.transpose(1, 2).flatten(2).unflatten(1, (height, width)))
