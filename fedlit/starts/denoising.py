"""Denoising: the first model has learnt to restore the server's pictures. Vincent et al., ICML 2008.

No label is used; patches are left out as in He et al., CVPR 2022."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedlit.client import Client
from fedlit.data.site import Site
from fedlit.starts.base import Start, Study
from fedlit.training import Batch


@dataclass(frozen=True)
class Denoising(Start):
    """mean (sigmoid(f(corrupted)) - grey)^2 over the pixels, with each output channel.

    Args:
        noise: deviation of the Gaussian noise, in units of [0, 1].
        masked: share of the patches that are left out.
        patch: side of a patch in pixels.
    """

    noise: float = 0.1
    masked: float = 0.5
    patch: int = 16

    def study(self, site: Site, classes: tuple[str, ...], device: torch.device, seed: int) -> Study:
        return Study(site, {"pictures": len(site.train)})

    def objective(self, client: Client, network: nn.Module, batch: Batch) -> Tensor:
        image = batch["image"].to(client.device, memory_format=client.memory_format)
        restored = network(self.corrupted(image)).float().sigmoid()
        return F.mse_loss(restored, image.mean(1, keepdim=True).expand_as(restored))

    def corrupted(self, image: Tensor) -> Tensor:
        """The picture [B, C, H, W] with noise and without some of its patches, drawn from torch's seeds of the step."""
        height, width = (-(-side // self.patch) for side in image.shape[-2:])
        kept = torch.rand(len(image), 1, height, width, device=image.device) >= self.masked
        kept = F.interpolate(kept.float(), scale_factor=self.patch)[..., : image.shape[-2], : image.shape[-1]]
        return (image + self.noise * torch.randn_like(image)) * kept
