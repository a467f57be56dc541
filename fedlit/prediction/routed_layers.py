"""Convolutions and linear layers whose kernel is a mixture of the members' kernels, another for each picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedlit.prediction.gates import Form, Gate, mixed, stacked

LARGE = 1 << 17
"""Input elements a picture from which a CPU convolves picture by picture; else, and on a GPU, all are one grouped
convolution. Forward and backward, 8 pictures, one thread, bf16 channels_last, ms picture by picture | grouped: 32
channels of 256 px 576 | 939, 128 of 64 px 244 | 291, 512 of 16 px 641 | 634; 16 pictures, 16 of 128 px 73 | 70, 128 of
16 px 46 | 39, 8 of 32 px 9 | 6. A weighted sum of the outputs of 6 experts and the global layer takes 2990, 1491, 970,
546, 100 and 8."""


class Pictures:
    """How many pictures the batch at work has; its routed layers ask, since rows may be windows of pictures."""

    def __init__(self) -> None:
        self.count = 1

    def __call__(self, network: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Hook before the forward pass of a network."""
        self.count = len(arguments[0])


class RoutedLayer(nn.Module):
    """A layer whose kernel and bias are mixed from frozen experts by a gate for each picture.

    What the network reads of the layer it stands for, such as its stride, is that layer's.

    Args:
        layer: the global one, which goes on holding what is not the experts'.
        weights, biases: the members' (the latter None where the layer has none or it is frozen).
        pictures: how many there are in the batch.
        seed: of the gate's first values.

    Attributes:
        gates: of the last batch [B, E], or [1, E] where the input is the same for all pictures; None before.
    """

    stack: Tensor
    bias_stack: Tensor | None
    layer: Any
    num_channels: Callable[[Any], int]
    convolves = True

    def __init__(
        self,
        layer: Any,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor] | None,
        *,
        form: Form,
        pictures: Pictures,
        seed: int,
    ):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.form, self.pictures = form, pictures
        self.register_buffer("stack", stacked(self.layer.weight, weights, form), persistent=False)
        routed_bias = None if biases is None else stacked(self.layer.bias, biases, form)
        self.register_buffer("bias_stack", routed_bias, persistent=False)
        self.gate = Gate(type(self).num_channels(layer), len(self.stack), form, seed=seed)
        self.gates: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("weight", "bias"):
                raise AttributeError(
                    f"a routed layer has a {name} for each picture; a network that reads it past the layer's forward "
                    "pass cannot be routed"
                ) from None
            return getattr(super().__getattr__("layer"), name)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        single = x.ndim == (3 if self.convolves else 1)
        rows = x[None] if single else x
        with torch.autocast(x.device.type, enabled=False):
            gates = self.gate(self._pooled(rows))
            kernels, biases = self._mixed(gates)
        self.gates = gates
        found = self._run(rows, kernels, biases, output_size)
        return found[0] if single else found

    def _pooled(self, x: Tensor) -> Tensor:
        """Features [pictures, C], the mean over all that belongs to a picture; [1, C] where none is a picture's."""
        channels = 1 if self.convolves else x.ndim - 1
        dtype = self.gate.inner.weight.dtype
        axes = [axis for axis in range(1, x.ndim) if axis != channels]
        # rounded as its features are: widened first, all of them would be copied on the way back
        pooled = (x.mean(axes) if axes else x).to(dtype)
        count = self.pictures.count
        return pooled.unflatten(0, (count, -1)).mean(1) if len(x) > count and len(x) % count == 0 else pooled

    def _mixed(self, gates: Tensor) -> tuple[Tensor, Tensor | None]:
        """Kernels [B, *kernel] and biases [B, C_out]; a bias that is not routed is the layer's own."""
        weight, bias = self.layer.weight, self.layer.bias
        kernels = mixed(gates, weight, self.stack, self.form).unflatten(1, weight.shape)
        if self.bias_stack is None:
            return kernels, None if bias is None else bias.expand(len(gates), -1)
        return kernels, mixed(gates, bias, self.bias_stack, self.form)

    def _run(self, x: Tensor, kernels: Tensor, biases: Tensor | None, output_size: list[int] | None) -> Tensor:
        raise NotImplementedError


class _RoutedConvolution(RoutedLayer):
    def _run(self, x: Tensor, kernels: Tensor, biases: Tensor | None, output_size: list[int] | None) -> Tensor:
        options = self._options(x, output_size)
        x, count, groups = self._padded(x), len(kernels), self.layer.groups
        if count == 1:
            return self._convolve(x, kernels[0], None if biases is None else biases[0], groups=groups, **options)
        if x.device.type == "cpu" and x[0].numel() >= LARGE:
            of_each: Sequence[Tensor | None] = [None] * count if biases is None else biases.unbind()
            parts = zip(x.chunk(count), kernels.unbind(), of_each, strict=True)
            each = [self._convolve(part, kernel, bias, groups=groups, **options) for part, kernel, bias in parts]
            return torch.cat(each)
        # [B k, C, ...] -> [k, B C, ...]: the channels of each picture are groups of their own
        together = x.unflatten(0, (count, -1)).transpose(0, 1).flatten(1, 2)
        bias = None if biases is None else biases.flatten()
        found = self._convolve(together, kernels.flatten(0, 1), bias, groups=count * groups, **options)
        return found.unflatten(1, (count, -1)).transpose(0, 1).flatten(0, 1)

    def _options(self, x: Tensor, output_size: list[int] | None) -> dict[str, Any]:
        layer = self.layer
        return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}

    def _padded(self, x: Tensor) -> Tensor:
        return x

    _convolve: Callable[..., Tensor]


class RoutedConv2d(_RoutedConvolution):
    """See `RoutedLayer`."""

    num_channels = staticmethod(lambda layer: layer.in_channels)
    _convolve = staticmethod(F.conv2d)

    def _options(self, x: Tensor, output_size: list[int] | None) -> dict[str, Any]:
        options = super()._options(x, output_size)
        return options if self.layer.padding_mode == "zeros" else {**options, "padding": 0}

    def _padded(self, x: Tensor) -> Tensor:
        mode = self.layer.padding_mode
        return x if mode == "zeros" else F.pad(x, self.layer._reversed_padding_repeated_twice, mode=mode)


class RoutedConvTranspose2d(_RoutedConvolution):
    """See `RoutedLayer`."""

    num_channels = staticmethod(lambda layer: layer.in_channels)
    _convolve = staticmethod(F.conv_transpose2d)

    def _options(self, x: Tensor, output_size: list[int] | None) -> dict[str, Any]:
        layer = self.layer
        padding = layer._output_padding(
            x, output_size, layer.stride, layer.padding, layer.kernel_size, 2, layer.dilation
        )
        return {**super()._options(x, output_size), "output_padding": padding}


class RoutedLinear(RoutedLayer):
    """See `RoutedLayer`."""

    convolves = False
    num_channels = staticmethod(lambda layer: layer.in_features)

    def _run(self, x: Tensor, kernels: Tensor, biases: Tensor | None, output_size: list[int] | None) -> Tensor:
        count = len(kernels)
        if count == 1:
            return F.linear(x, kernels[0], None if biases is None else biases[0])
        rows = x.reshape(count, -1, x.shape[-1])
        found = rows @ kernels.mT if biases is None else torch.baddbmm(biases[:, None], rows, kernels.mT)
        return found.view(*x.shape[:-1], -1)


KINDS: Mapping[type[nn.Module], type[RoutedLayer]] = {
    nn.Conv2d: RoutedConv2d,
    nn.ConvTranspose2d: RoutedConvTranspose2d,
    nn.Linear: RoutedLinear,
}
"""By exact type: a subclass may have its weight read by others, as MultiheadAttention does."""
