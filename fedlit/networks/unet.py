"""U-Net: a contracting path, an expanding path and skips between them. Ronneberger et al., MICCAI 2015."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedlit.networks.amplitudes import AmplitudeNorm, check_frequencies


def _group_norm(channels: int) -> nn.GroupNorm:
    """Groups of 16 channels (Wu and He, ECCV 2018), or of the next width that divides the channels, or all if fewer.
    Narrower ones are slow: channels_last bf16 on CPU, backward, takes 47 ms for groups of 2, 13 of 8, 2 of 16."""
    width = next(width for width in range(min(16, channels), channels + 1) if channels % width == 0)
    return nn.GroupNorm(channels // width, channels)


# group and instance see one picture at a time: neither the batch nor its split over processes changes them
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group": _group_norm,
    "batch": nn.BatchNorm2d,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
}


class DoubleConv(nn.Module):
    """(3x3 convolution, normalisation, ReLU) twice; sizes are kept by zero padding."""

    def __init__(self, in_channels: int, out_channels: int, norm: str):
        super().__init__()
        # no bias: the normalisation that follows would cancel or repeat it
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = NORMS[norm](out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = NORMS[norm](out_channels)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # section 3: Gaussian, std sqrt(2 / N)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)))


class UNet(nn.Module):
    """image [B, in_channels, H, W] -> logits [B, out_channels, H, W], for any H and W.

    `base_channels` are doubled at each of the `depth` poolings. 32 and 4 make 7,762,465 parameters with one channel in
    and out, and 7,763,074 with 3 in and 2 out (about the 7.77 M that IOP-FL reports). Differences from the paper: zero
    padding, so that sizes are kept; a normalisation after each 3x3 convolution (`norm`: group, batch or instance).
    `dropout` acts at the end of the contracting path, as in the paper. `amplitude_norm` is the number of frequencies
    whose amplitudes a first layer makes alike in all pictures (HarmoFL); None: no such layer.
    Raises ValueError on an argument that is not allowed.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        base_channels: int = 32,
        depth: int = 4,
        norm: str = "group",
        dropout: float = 0.0,
        amplitude_norm: int | None = None,
    ):
        super().__init__()
        sizes = dict(in_channels=in_channels, out_channels=out_channels, base_channels=base_channels, depth=depth)
        for key, value in sizes.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"UNet: {key}={value!r} is not allowed; use a whole number of at least 1")
        if norm not in NORMS:
            raise ValueError(f"UNet: norm={norm!r} is not allowed; use one of {', '.join(NORMS)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"UNet: dropout={dropout!r} is not allowed; use a share of at least 0 and below 1")
        if amplitude_norm is not None and amplitude_norm < 0:
            raise ValueError(f"UNet: amplitude_norm={amplitude_norm!r} is not allowed; use 0 or more, or null")
        self.amplitude_norm = None if amplitude_norm is None else AmplitudeNorm(in_channels, amplitude_norm)
        widths = [base_channels * 2**level for level in range(depth + 1)]
        steps = list(pairwise(widths))  # (32, 64), (64, 128), ...
        self.stride = 2**depth
        self.encoders = nn.ModuleList(DoubleConv(*pair, norm) for pair in [(in_channels, widths[0]), *steps])
        self.dropout = nn.Dropout(dropout)
        self.upsamplings = nn.ModuleList(nn.ConvTranspose2d(wide, slim, 2, stride=2) for slim, wide in reversed(steps))
        self.decoders = nn.ModuleList(DoubleConv(2 * slim, slim, norm) for slim, _ in reversed(steps))
        self.head = nn.Conv2d(base_channels, out_channels, 1)

    @property
    def representation(self) -> nn.Module:
        """The layer whose output says most about a whole picture: the end of the contracting path."""
        return self.encoders[-1]

    @property
    def classifier(self) -> nn.Module:
        """The layer that makes logits of features."""
        return self.head

    def check_size(self, size: Sequence[int]) -> None:
        """Raises BadInput where pictures of this (H, W) are too small."""
        if self.amplitude_norm is not None:
            check_frequencies(size, self.amplitude_norm.num_frequencies, "network.amplitude_norm")

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        self.check_size((height, width))
        x = _pad(image if self.amplitude_norm is None else self.amplitude_norm(image), self.stride)
        skips: list[Tensor] = []
        for encoder in self.encoders:
            x = encoder(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        x = self.dropout(skips.pop())
        for upsampling, decoder in zip(self.upsamplings, self.decoders, strict=True):
            x = decoder(torch.cat([skips.pop(), upsampling(x)], dim=1))
        return self.head(x)[..., :height, :width]


def _pad(image: Tensor, stride: int) -> Tensor:
    """Sides grown, at the bottom and right, to multiples of `stride` by repeating the last row and column: a black
    margin would be an edge that no picture has, and would shift the statistics of every norm layer."""
    bottom, right = (-side % stride for side in image.shape[-2:])
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image
