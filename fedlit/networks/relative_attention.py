"""SAM's attention with the same parameters and results, without a matrix of tokens x tokens for each head in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn

MOST_SCORES = 1 << 24
"""Numbers of tokens x tokens that `headwise` has in memory at a time, three times over: 64 MB each in fp32."""


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


class _Headwise(torch.autograd.Function):
    """Some heads at a time; their scores are computed again in the backward pass instead of being kept."""

    @staticmethod
    def forward(context: Any, *inputs: Tensor) -> Tensor:
        v = inputs[2]
        found = torch.empty_like(v)
        for part in _parts(*v.shape[:2]):
            torch.bmm(_shares(*(each[part] for each in inputs)), v[part], out=found[part])
        context.save_for_backward(*inputs, found)
        return found

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        *inputs, found = context.saved_tensors
        of_inputs = tuple(torch.empty_like(each) for each in inputs)
        (gradient,) = gradients
        for part in _parts(*found.shape[:2]):
            shares = _shares(*(each[part] for each in inputs))
            q, k, v, by_row, by_column = (each[part] for each in inputs)
            of_q, of_k, of_v, of_row, of_column = (each[part] for each in of_inputs)
            torch.bmm(shares.mT, gradient[part], out=of_v)
            of_scores = torch.bmm(gradient[part], v.mT)
            of_scores -= (gradient[part] * found[part]).sum(-1, keepdim=True)
            of_scores *= shares
            torch.bmm(of_scores, k, out=of_q)
            torch.bmm(of_scores.mT, q, out=of_k)
            grid = of_scores.unflatten(2, (by_row.shape[-1], by_column.shape[-1]))
            of_row.copy_(grid.sum(3))
            of_column.copy_(grid.sum(2))
        return of_inputs


def _parts(num_heads: int, num_tokens: int) -> list[slice]:
    """Heads whose scores fit together into MOST_SCORES."""
    step = max(1, MOST_SCORES // num_tokens**2)
    return [slice(start, start + step) for start in range(0, num_heads, step)]


def _shares(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """What each token takes of each other one [heads, tokens, tokens]; q is scaled."""
    scores = torch.bmm(q, k.mT).unflatten(2, (by_row.shape[-1], by_column.shape[-1]))
    scores += by_row[..., :, None]
    scores += by_column[..., None, :]
    return scores.flatten(2).softmax(-1)


def headwise(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Positions added to the scores of a few heads at a time, which are never kept.

    On a CPU with bf16 instructions three times as fast as the fused kernel, which has none for them.
    """
    scaled = q * q.shape[-1] ** -0.5
    with torch.autocast(q.device.type, enabled=False):
        inputs = (each.to(q.dtype).flatten(0, 1).contiguous() for each in (scaled, k, v, by_row, by_column))
        return _Headwise.apply(*inputs).unflatten(0, q.shape[:2])


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "headwise": headwise,
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
        way: one of WAYS, or `auto`: headwise on a CPU, folded elsewhere (measured by `tests.bench sam_ways`).
    """

    def __init__(self, stock: Attention, way: str = "auto"):
        super().__init__()
        if way != "auto" and way not in WAYS:
            raise ValueError(f"attention={way!r} is not allowed; use auto, {', '.join(WAYS)}, or stock")
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
        way = self.way if self.way != "auto" else "headwise" if x.device.type == "cpu" else "folded"
        found = WAYS[way](q, k, v, by_row, by_column)
        return self.proj(found.transpose(1, 2).flatten(2).unflatten(1, (height, width)))
