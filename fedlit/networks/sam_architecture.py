"""The sizes of Segment Anything, and its modules with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""Of the pixels (0 to 255; red, green, blue) that SAM was trained on."""


@dataclass(frozen=True)
class Architecture:
    """The sizes of a SAM. `image_size` is the one its position tables are made for; `global_blocks` have no windows."""

    width: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    image_size: int = 1024
    patch_size: int = 16
    window_size: int = 14
    decoder_width: int = 256
    decoder_mlp: int = 2048
    decoder_heads: int = 8


SIZES = {
    "vit_b": Architecture(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": Architecture(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": Architecture(1280, 32, 16, (7, 15, 23, 31)),
    # for tests and for CPUs: 0.9 M parameters
    "micro": Architecture(96, 4, 3, (0, 1, 2, 3), 128, 8, decoder_width=96, decoder_mlp=192, decoder_heads=4),
}


def build_sam(size: Architecture) -> Sam:
    """The modules of `segment_anything` with random weights; for the official sizes the same as its own builders'."""
    grid = (size.image_size // size.patch_size,) * 2
    encoder = ImageEncoderViT(
        img_size=size.image_size,
        patch_size=size.patch_size,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.num_heads,
        out_chans=size.decoder_width,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=size.window_size,
        global_attn_indexes=size.global_blocks,
    )
    prompts = PromptEncoder(
        embed_dim=size.decoder_width,
        image_embedding_size=grid,
        input_image_size=(size.image_size,) * 2,
        mask_in_chans=16,
    )
    transformer = TwoWayTransformer(
        depth=2, embedding_dim=size.decoder_width, mlp_dim=size.decoder_mlp, num_heads=size.decoder_heads
    )
    decoder = MaskDecoder(
        transformer_dim=size.decoder_width, transformer=transformer, iou_head_hidden_dim=size.decoder_width
    )
    return Sam(encoder, prompts, decoder, list(MEAN), list(STD))
