"""What can be added to a SAM block and trained instead of it: Medical SAM Adapters, and LoRA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Block, window_partition, window_unpartition
from torch import Tensor, nn


class Adapter(nn.Module):
    """Linear(D, ratio * D), GELU, Linear(ratio * D, D). Houlsby et al., ICML 2019.

    The second layer starts at zero, so that a new adapter adds nothing. FedMSA's start random.
    """

    def __init__(self, width: int, ratio: float):
        super().__init__()
        self.down = nn.Linear(width, max(1, round(width * ratio)))
        self.up = nn.Linear(self.down.out_features, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(x)))


class AdaptedBlock(nn.Module):
    """A SAM block with two adapters, x = x + a + Space(a), a = attention(norm1(x)); x = x + mlp(n) + scale * MLP(n),
    n = norm2(x). Wu et al., Medical SAM Adapter, 2023, in 2D (no depth adapter), as FedMSA of FedFMS has it.

    Args:
        block: whose parts it takes over, under their names.
        ratio: width inside an adapter, as a share of the block's.
        scale: of the adapter beside the MLP.
        pad_first: fill up the windows before norm1 instead of after it, as FedFMS's released code does: what was padded
            is then norm1's bias instead of zero.
    """

    def __init__(self, block: Block, *, ratio: float = 0.25, scale: float = 0.5, pad_first: bool = False):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.window_size, self.scale, self.pad_first = block.window_size, scale, pad_first
        width = block.norm1.normalized_shape[0]
        self.space_adapter = Adapter(width, ratio)
        self.mlp_adapter = Adapter(width, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H, W, D] -> [B, H, W, D]."""
        attended = self.attend(x)
        x = x + attended + self.space_adapter(attended)
        normal = self.norm2(x)
        return x + self.mlp(normal) + self.scale * self.mlp_adapter(normal)

    def attend(self, x: Tensor) -> Tensor:
        """attention(norm1(x)), within windows where the block has them."""
        if not self.window_size:
            return self.attn(self.norm1(x))
        size = x.shape[1:3]
        windows, padded = window_partition(x if self.pad_first else self.norm1(x), self.window_size)
        found = self.attn(self.norm1(windows) if self.pad_first else windows)
        return window_unpartition(found, self.window_size, padded, size)


class LowRank(nn.Module):
    """What LoRA adds to q and v of an attention: alpha / rank * B A x each. Hu et al., ICLR 2022; on SAM as in SAMed,
    Zhang and Liu, 2023.

    B starts at zero, so that nothing is added at first.
    """

    def __init__(self, width: int, rank: int, alpha: float):
        super().__init__()
        self.scale = alpha / rank
        self.q_down, self.v_down = (nn.Linear(width, rank, bias=False) for _ in "qv")
        self.q_up, self.v_up = (nn.Linear(rank, width, bias=False) for _ in "qv")
        for down, up in ((self.q_down, self.q_up), (self.v_down, self.v_up)):
            nn.init.kaiming_uniform_(down.weight, a=5**0.5)
            nn.init.zeros_(up.weight)

    def forward(self, x: Tensor, qkv: Tensor) -> Tensor:
        """x [..., D] and its q, k, v [..., 3 D] -> [..., 3 D]."""
        q, k, v = qkv.chunk(3, dim=-1)
        q = q + self.scale * self.q_up(self.q_down(x))
        v = v + self.scale * self.v_up(self.v_down(x))
        return torch.cat([q, k, v], dim=-1)
