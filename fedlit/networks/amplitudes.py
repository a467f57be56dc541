"""Low-frequency amplitudes of pictures, and a layer that makes them alike: HarmoFL. Jiang, Wang and Dou, AAAI 2022."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedlit.errors import BadInput


class AmplitudeNorm(nn.Module):
    """Gives all pictures the same low-frequency amplitudes: a running mean over those met in training. Phases stay.

    The mean is a float buffer: what a federation averages becomes that of all sites, and an unseen site is normalised
    by it. As long as it is empty, pictures pass as they are. HarmoFL's weight perturbation is `algorithm=harmofl`. In
    its released code all amplitudes are made alike, which takes pictures of one size; here those that carry the tone.

    Args:
        channels: of a picture [B, C, H, W] in [0, 1].
        num_frequencies: of each axis and sign, from 0.
        momentum: share of the newest batch.
    """

    amplitudes: Tensor
    averages_batches = True
    """A batch that is shared out to several processes has another mean in each."""

    def __init__(self, channels: int, num_frequencies: int, momentum: float = 0.1):
        super().__init__()
        side = 2 * num_frequencies + 1
        self.register_buffer("amplitudes", torch.zeros(channels, side, side))
        self.num_frequencies, self.momentum = num_frequencies, momentum

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        own = amplitudes_of(image, self.num_frequencies)
        if self.training:
            mean = own.mean(0).to(self.amplitudes.dtype)
            self.amplitudes.copy_(torch.where(self.amplitudes > 0, self.amplitudes.lerp(mean, self.momentum), mean))
        wanted = torch.where(self.amplitudes > 0, self.amplitudes, own)
        return mixed(image, wanted, torch.ones(len(image)))


def check_frequencies(size: Sequence[int], count: int, key: str = "num_frequencies") -> None:
    """Raises BadInput, naming `key`, where pictures of this (H, W) do not have the frequencies -count ... count."""
    side, least = min(size), 2 * count + 1
    if side < least:
        raise BadInput(
            f"{key}={count} needs pictures of {least} pixels or more on each side, and there is one of {tuple(size)}; "
            f"use {(side - 1) // 2} or less"
        )


def amplitudes_of(images: Tensor, count: int) -> Tensor:
    """The amplitudes [B, C, n, n] of the frequencies -count ... count, independent of the pictures' size.

    Pictures of fewer frequencies tell some of them twice; see `check_frequencies`.
    """
    transform = torch.fft.fft2(images.float(), norm="forward")
    return transform[(..., *low_frequencies(images, count))].abs()


def low_frequencies(images: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where the frequencies -count ... count are in the transform of pictures, along rows and columns."""
    indices = torch.arange(-count, count + 1, device=images.device)
    return (indices % images.shape[-2])[:, None], indices % images.shape[-1]


def mixed(images: Tensor, spectra: Tensor, shares: Tensor) -> Tensor:
    """Pictures [B, C, H, W] in [0, 1], with amplitudes (1 - share) * own + share * spectrum; those of share 0 as given.

    Args:
        spectra: [B, C, n, n], amplitudes of the n lowest frequencies, independent of the pictures' size.
        shares: [B], from 0 to 1.

    Raises:
        BadInput: the pictures have fewer frequencies.
    """
    check_frequencies(images.shape[-2:], spectra.shape[-1] // 2)
    place = (..., *low_frequencies(images, spectra.shape[-1] // 2))
    spectra, each = spectra.to(images.device, torch.float32), of_all(shares.to(images.device, torch.float32))
    transform = torch.fft.fft2(images.float(), norm="forward")
    low = transform[place]
    amplitudes = low.abs()
    transform[place] = torch.polar(torch.lerp(amplitudes, spectra, each.expand_as(spectra)), low.angle())
    found = torch.fft.ifft2(transform, norm="forward").real.clamp(0, 1).to(images.dtype)
    return torch.where(each == 0, images, found)


def of_all(values: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return values[:, None, None, None]
