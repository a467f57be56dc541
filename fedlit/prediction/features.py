"""Statistics of what goes into a network's layers: how a site's pictures look to it, and how far sites are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedlit.data.pictures import Unlabelled
from fedlit.networks.feature_cache import FeatureCache
from fedlit.prediction.base import Learnt, Model
from fedlit.prediction.learner import batches, pictures_of
from fedlit.weights import Weights


@dataclass
class Moments:
    """Mean and sum of squared deviations per channel, of all that was added, in float64 on the CPU."""

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    squares: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, values: Tensor, axis: int) -> None:
        """Add values whose channels lie along an axis. Chan et al., COMPSTAT 1982."""
        values = values.detach().to(torch.promote_types(values.dtype, torch.float32))
        variance, mean = torch.var_mean(values.movedim(axis, 0).flatten(1), dim=1, correction=0)
        variance, mean = variance.cpu().double(), mean.cpu().double()
        count = values.numel() // values.shape[axis]
        total = self.count + count
        shift = mean - self.mean
        self.squares = self.squares + variance * count + shift**2 * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    def variance(self, correction: int = 0) -> Tensor:
        return self.squares / max(1, self.count - correction)


def norm_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that normalise, by name: torch's, and those of others that are called so (SAM's `LayerNorm2d`)."""
    return {
        name: module
        for name, module in network.named_modules()
        if "Norm" in type(module).__name__ and hasattr(module, "weight") and not [*module.children()]
    }


def observed_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that normalise; of a network without such, its convolutions and linear layers."""
    return norm_layers(network) or {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }


@contextmanager
def hooked(layers: Mapping[str, nn.Module], see: Callable[[str, nn.Module, Tensor], None]) -> Iterator[None]:
    """While this lasts, (name, layer, input) of each call of a layer is seen."""
    handles = [
        layer.register_forward_pre_hook(
            lambda layer, given, named, name=name: see(name, layer, (*given, *named.values())[0]), with_kwargs=True
        )
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def observed(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Moments]]:
    """What goes into the layers, while this lasts, as moments per channel."""
    found: dict[str, Moments] = {}

    def add(name: str, layer: nn.Module, values: Tensor) -> None:
        found.setdefault(name, Moments()).add(values, channel_axis(layer))

    with hooked(layers, add):
        yield found


def channel_axis(layer: nn.Module) -> int:
    """Last for Linear and LayerNorm; the second for convolutions and all others, also a `LayerNorm2d`."""
    is_last = isinstance(layer, nn.Linear) or hasattr(layer, "normalized_shape")
    return -1 if is_last and not type(layer).__name__.endswith("2d") else 1


def site_statistics(learnt: Learnt, images: Unlabelled | None) -> dict[str, Tensor]:
    """What the server's model sees in a site's pictures; the same model at all sites, also where each keeps entries."""
    images = pictures_of(learnt, images)
    network = learnt.copy(learnt.server.weights)
    model, device = learnt.lend(network), next(network.parameters()).device
    parts = (images.images(batch).to(device) for batch in batches(images, learnt.batch_size))
    return feature_statistics(network, model, parts)


def feature_statistics(network: nn.Module, model: Model, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """`LAYER.mean` and `LAYER.std` [C], float32, over pictures and places, of the inputs of all normalising layers.

    Of a network without such layers, those of its convolutions and linear layers. How the pictures are put into batches
    and in which order they come changes nothing but rounding.

    Args:
        network: in evaluation mode.
        model: the same network as it is called.
        batches: pictures [B, C, H, W] on the network's device, at least one.
    """
    with uncached(network), observed(observed_layers(network)) as found, torch.no_grad():
        for images in batches:
            model(images)
    means = {f"{name}.mean": moments.mean.float() for name, moments in found.items()}
    return means | {f"{name}.std": moments.variance().sqrt().float() for name, moments in found.items()}


@contextmanager
def uncached(network: nn.Module) -> Iterator[None]:
    """While this lasts, a network computes also what it remembers of a picture: every layer is called."""
    modules: list[Any] = [
        module for module in network.modules() if isinstance(getattr(module, "cache", None), FeatureCache)
    ]
    caches = [module.cache for module in modules]
    try:
        for module in modules:
            module.cache = None
        yield
    finally:
        for module, cache in zip(modules, caches, strict=True):
            module.cache = cache


def distance(one: Weights, other: Weights, scale: Weights) -> float:
    """Squared 2-Wasserstein distance of Gaussians with independent channels, as FedAP compares sites with.

    Per channel (mean_1 - mean_2)^2 + (std_1 - std_2)^2, here in units of the variance `scale[LAYER.std]^2`, so that no
    layer counts more for its larger numbers; the mean over channels, then over layers. Lu et al., Personalized
    Federated Learning with Adaptive Batchnorm for Healthcare, IEEE Transactions on Big Data 2022.

    Args:
        one, other, scale: what `feature_statistics` returns, of one network.
    """
    layers = [name.removesuffix(".mean") for name in sorted(scale) if name.endswith(".mean")]
    total = 0.0
    for layer in layers:
        squared = sum(
            (one[f"{layer}.{part}"].double() - other[f"{layer}.{part}"].double()) ** 2 for part in ("mean", "std")
        )
        # a channel that never varies tells sites apart by its mean alone, in units of 1
        variance = scale[f"{layer}.std"].double() ** 2
        total += float((squared / torch.where(variance > 0, variance, 1)).mean())
    return total / len(layers)
