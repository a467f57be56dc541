"""Segment Anything as a network from pictures to logits. Kirillov et al., ICCV 2023."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from fedlit.networks.feature_cache import FeatureCache
from fedlit.networks.relative_attention import RelativeAttention
from fedlit.networks.sam_architecture import SIZES, build_sam
from fedlit.networks.sam_checkpoint import EMBEDDED, describe, read_checkpoint
from fedlit.networks.trained import load_trained
from fedlit.networks.tuning import Full, Tuning

Stage = Callable[[Tensor], Tensor]


class SAM(nn.Module):
    """image [B, 3 or 1, H, W] in [0, 1] -> logits [B, out_channels, H, W], for any H and W, without a prompt.

    As in FedFMS (Liu et al., MICCAI 2024) the decoder sees its own tokens only, no prompt; one class is the mask of its
    first token, several are a 1x1 convolution over the masks of all four. A grey picture is taken for three equal
    channels. Position tables are resampled to the picture's size (the absolute one bicubically, as in ViTDet, the
    relative ones linearly, as SAM does it), and sides that are no multiple of the patch size filled up with zeros.
    Entries have the names and shapes of `segment_anything` at every picture size; what `tuning` adds comes beside them.

    Args:
        size: `vit_b`, `vit_l`, `vit_h`, or `micro` for tests and CPUs.
        tuning: what is trained: Full, Adapters, LoRA or DecoderOnly. What is frozen is never sent.
        checkpoint: an official file of that size, such as sam_vit_b_01ec64.pth or medsam_vit_b.pth, or its
            safetensors; `embedded` for the micro SAM that ships with fedlit. None for random weights.
        trained: a file of what was trained of such a network alone (`fedlit export --trained-only`), to begin from.
        normalize: bring pixels to SAM's mean and deviation; else they stay in [0, 1], as in FedFMS.
        attention: how the attention of the blocks is computed, see `relative_attention.WAYS`; `stock` leaves the
            original.
        recompute: keep no activations of the blocks for the backward pass but compute them again: less memory, about
            a third more time.
        cache: `fp32` or `bf16`: what the frozen first stages make of a picture is computed once and kept on disk so.

    Raises:
        ValueError: an argument is not allowed.
        BadInput: a file cannot be used.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        size: str = "vit_b",
        tuning: Tuning | None = None,
        checkpoint: str | None = None,
        trained: str | None = None,
        normalize: bool = True,
        attention: Literal["auto", "headwise", "folded", "biased", "flexed", "stock"] = "auto",
        recompute: bool = False,
        cache: Literal["fp32", "bf16"] | None = None,
    ):
        super().__init__()
        if in_channels not in (1, 3):
            raise ValueError(
                f"SAM sees 3 channels, or 1 for grey, and the data have {in_channels}; set data.channels=3"
            )
        if size not in SIZES:
            raise ValueError(f"size={size!r} is not allowed; use one of {', '.join(SIZES)}")
        self.normalize, self.recompute = normalize, recompute
        stock = build_sam(SIZES[size])
        make_constants(stock.prompt_encoder)
        is_blank = next(stock.parameters()).is_meta
        self.origin = f"SAM {size} with random weights"
        if checkpoint is not None and not is_blank:
            checkpoint = str(EMBEDDED) if checkpoint == "embedded" else checkpoint
            self.origin = f"SAM {size} from {describe(checkpoint)}"
            stock.load_state_dict(read_checkpoint(checkpoint, stock.state_dict(), size=size))
        self.image_encoder = stock.image_encoder.requires_grad_(False)
        self.prompt_encoder = stock.prompt_encoder.requires_grad_(False)
        self.mask_decoder = stock.mask_decoder
        self.mask_decoder.iou_prediction_head.requires_grad_(False)
        self.head = nn.Conv2d(self.mask_decoder.num_mask_tokens, out_channels, 1) if out_channels > 1 else None
        self.register_buffer("mean", stock.pixel_mean / 255, persistent=False)
        self.register_buffer("std", stock.pixel_std / 255, persistent=False)
        if attention != "stock":
            for block in self.image_encoder.blocks:
                block.attn = RelativeAttention(block.attn, attention)
        self.num_frozen = (tuning or Full())(self)
        if trained is not None and not is_blank:
            load_trained(trained, self)
        self.cache = FeatureCache(cache, self._frozen_state) if cache is not None and not is_blank else None
        if cache is not None and self.num_frozen < 2:
            raise ValueError(
                f"cache={cache!r}: {tuning or Full()} trains from the first block on, nothing of a picture stays the "
                "same; use cache=null, or tune the decoder alone or the last blocks"
            )

    @property
    def num_stages(self) -> int:
        """Of the image encoder: the patches, each block, the neck."""
        return len(self.image_encoder.blocks) + 2

    @property
    def representation(self) -> nn.Module:
        """The layer whose output says most about a whole picture: the end of the image encoder."""
        return self.image_encoder.neck

    @property
    def classifier(self) -> nn.Module:
        """What makes logits of features: the layers that turn the mask tokens into weights, or the layer after them."""
        return self.head or self.mask_decoder.output_hypernetworks_mlps

    def forward(self, image: Tensor) -> Tensor:
        masks, _ = self.decode(self.encode(image))
        return self.as_large_as(image, masks[:, :1] if self.head is None else self.head(masks))

    def encode(self, image: Tensor) -> Tensor:
        """The embedding [B, D, h, w] of pictures, h = H / patch_size rounded up."""
        stages = self._stages()
        if self.cache is None or type(image) is not Tensor:  # a plan's pictures have no content
            return self._through(stages, image)
        frozen, trained = stages[: self.num_frozen], stages[self.num_frozen :]
        return self._through(trained, self.cache(partial(self._through, frozen), image))

    def decode(self, embedding: Tensor, prompts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Masks [B, 4, 4 h, 4 w] and how good SAM takes each to be [B, 4], of embeddings [B, D, h, w].

        `prompts` [B, N, D] are tokens beside the decoder's own. All pictures go through the decoder at once.
        """
        decoder, size = self.mask_decoder, embedding.shape[-2:]
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(embedding), -1, -1)
        if prompts is not None:
            tokens = torch.cat([tokens, prompts], dim=1)
        found, keys = decoder.transformer(embedding, self.places(*size), tokens)
        upscaled = decoder.output_upscaling(keys.transpose(1, 2).unflatten(2, size))
        weights = [mlp(found[:, 1 + number]) for number, mlp in enumerate(decoder.output_hypernetworks_mlps)]
        masks = torch.einsum("bmc,bchw->bmhw", torch.stack(weights, dim=1), upscaled)
        return masks, decoder.iou_prediction_head(found[:, 0])

    def places(self, height: int, width: int) -> Tensor:
        """SAM's random Fourier features of a grid [1, D, height, width], never in bf16: it cannot tell them apart."""
        frequencies = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        y, x = (
            2 * ((torch.arange(side, device=frequencies.device, dtype=frequencies.dtype) + 0.5) / side) - 1
            for side in (height, width)
        )
        with torch.autocast(frequencies.device.type, enabled=False):
            turns = 2 * torch.pi * (torch.cartesian_prod(y, x).flip(1) @ frequencies)
        return torch.cat([turns.sin(), turns.cos()], dim=1).T.unflatten(1, (height, width))[None]

    def as_large_as(self, image: Tensor, masks: Tensor) -> Tensor:
        """Masks of the filled-up picture as logits of the picture's own size."""
        height, width = image.shape[-2:]
        size = [side + -side % self.patch_size for side in (height, width)]
        return F.interpolate(masks, size, mode="bilinear", align_corners=False)[..., :height, :width]

    @property
    def patch_size(self) -> int:
        return self.image_encoder.patch_embed.proj.stride[0]

    def _stages(self) -> list[Stage]:
        return [self._patches, *self.image_encoder.blocks, self._neck]

    def _patches(self, image: Tensor) -> Tensor:
        """image [B, C, H, W] -> tokens with their places [B, h, w, D]."""
        image = image.expand(-1, 3, -1, -1)
        if self.normalize:
            image = (image - self.mean) / self.std
        bottom, right = (-side % self.patch_size for side in image.shape[-2:])
        tokens = self.image_encoder.patch_embed(F.pad(image, (0, right, 0, bottom)))
        places, size = self.image_encoder.pos_embed, tokens.shape[1:3]
        if places.shape[1:3] != size:
            places = F.interpolate(places.permute(0, 3, 1, 2), size, mode="bicubic", align_corners=False)
            places = places.permute(0, 2, 3, 1)
        return tokens + places

    def _neck(self, tokens: Tensor) -> Tensor:
        return self.image_encoder.neck(tokens.permute(0, 3, 1, 2))

    def _through(self, stages: Iterable[Stage], x: Tensor) -> Tensor:
        for stage in stages:
            keeps_less = self.recompute and isinstance(stage, nn.Module) and torch.is_grad_enabled()
            x = recomputed(stage, x, use_reentrant=False) if keeps_less else stage(x)
        return x

    def _frozen_state(self) -> dict[str, Tensor]:
        """All that the frozen stages depend on."""
        names = ("patch_embed", "pos_embed", *(f"blocks.{number}." for number in range(self.num_frozen - 1)))
        if self.num_frozen == self.num_stages:
            names = ("",)
        state = {name: value for name, value in self.image_encoder.state_dict().items() if name.startswith(names)}
        return state if not self.normalize else {**state, "mean": self.mean, "std": self.std}


def make_constants(prompts: PromptEncoder) -> None:
    """The frequencies of SAM's places, a buffer, become a frozen parameter: what is frozen is not sent or averaged."""
    frequencies = prompts.pe_layer.positional_encoding_gaussian_matrix
    del prompts.pe_layer.positional_encoding_gaussian_matrix
    prompts.pe_layer.positional_encoding_gaussian_matrix = nn.Parameter(frequencies, requires_grad=False)
