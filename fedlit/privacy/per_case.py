"""The gradient of every picture of a batch by itself, by hooks of the package opacus."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedlit.errors import BadInput

if TYPE_CHECKING:
    from fedlit.resident import Resident

KINDS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
    *(nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""Layers whose gradient can be told apart by picture; each was compared with pictures one by one."""

TRACES = ("activations", "max_batch_len", "ft_compute_sample_grad")


def not_told_apart(resident: Resident) -> Iterator[str]:
    """Why the gradients of a network's pictures cannot be told apart, or are not all that follows the pictures."""
    network, named = resident.network, dict(resident.network.named_modules())
    mixing = [name for name, module in named.items() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    trained = resident.trained()
    strangers = [
        f"{name or 'itself'} ({type(module).__name__})"
        for name, module in named.items()
        if type(module) not in KINDS and any(id(value) in trained for value in module.parameters(recurse=False))
    ]
    if mixing:
        yield (
            f"privacy: batch normalisation ({some(mixing)}) mixes the cases of a batch, so that none has a gradient of "
            "its own; use network.norm=group"
        )
    elif strangers:
        kinds = ", ".join(kind.__name__ for kind in KINDS if not kind.__name__.endswith(("1d", "3d")))
        yield (
            f"privacy: {type(network).__name__} trains {some(strangers)}, and gradients are told apart by case in "
            f"{kinds} alone; use network=unet, or freeze these"
        )
    elif resident.buffers:
        yield (
            f"privacy: {type(network).__name__} remembers {some([*resident.buffers])} of the pictures it sees, without "
            "noise; use a network without such a layer"
        )


def some(names: Sequence[str]) -> str:
    """The first few, and how many there are."""
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


@contextmanager
def told_apart(network: nn.Module) -> Iterator[None]:
    """While this lasts, a backward pass of a mean over pictures leaves `grad_sample` [B, ...] at every parameter.

    All by functorch: opacus' own way for convolutions (1.6.0) reads channels-last activations in the wrong order, which
    one channel in is enough for, and is no faster (measured).
    """
    from opacus.grad_sample import GradSampleModule

    hooked = GradSampleModule(network, batch_first=True, loss_reduction="mean", force_functorch=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # pictures need no gradient
            yield
    finally:
        hooked.to_standard_module()
        for module in network.modules():
            for name in TRACES:
                if name in vars(module):
                    delattr(module, name)


def taken(parameters: Mapping[str, nn.Parameter], num_pictures: int) -> dict[str, Tensor]:
    """The gradients of the last backward pass by picture, [B, ...]; they are taken away from the parameters.

    Raises:
        BadInput: one does not belong to a picture.
    """
    found = {}
    for name, parameter in parameters.items():
        sample = getattr(parameter, "grad_sample", None)
        parameter.grad_sample = None  # type: ignore[attr-defined]
        if sample is None:
            if parameter.grad is not None:
                raise BadInput(f"privacy: the gradient of {name} cannot be told apart by case; freeze it")
            sample = parameter.new_zeros(num_pictures, *parameter.shape)
        if not isinstance(sample, Tensor) or len(sample) != num_pictures:
            raise BadInput(
                f"privacy: the layer of {name} is passed more than once by a batch, or not picture by picture, so that "
                "the cases cannot be told apart; choose another network or algorithm"
            )
        found[name] = sample
    return found


def clipped_sum(gradients: Mapping[str, Tensor], clip: float) -> dict[str, Tensor]:
    """sum_i min(1, C / |g_i|) g_i, |g_i| over all entries as one vector."""
    norms = torch.stack([value.flatten(1).norm(dim=1) for value in gradients.values()]).norm(dim=0)
    scales = torch.where(norms > clip, clip / norms, torch.ones_like(norms))
    return {name: torch.einsum("b,b...->...", scales.to(value.dtype), value) for name, value in gradients.items()}
