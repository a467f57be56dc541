"""Convolutions and linear layers whose kernel is a mixture of the members' kernels, another for each picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedlit.prediction.gates import Form, Gate, mixed, shares, stacked

LARGE = 1 << 16
"""Elements a picture, of input or output, from which a CPU convolves picture by picture; else, and on a GPU, all are
one grouped convolution. Forward and backward, 8 pictures, bf16 channels_last, one thread of a Xeon with AMX, ms picture
by picture | grouped: 16 channels of 128 px 16 | 74, 64 of 32 px 13 | 17, 128 of 16 px 22 | 17, 16 of 32 px 4 | 3."""

SMALL = 256
"""Positions a picture times kernels that are mixed, up to which a CPU takes the sum of what comes of every expert; else
it mixes a kernel for each picture. 6 experts and the global kernel, 128 channels, as above, by sums | by kernels: 4 px
6 | 9; 64 of 8 px 6 | 4. Forward alone, 16 pictures, 512 channels: 2 px 15 | 237, 4 px 33 | 258, 8 px 143 | 264."""


def kernel_dtype(kernel: Tensor) -> torch.dtype:
    """In which kernels are mixed: bfloat16 where autocast rounds them to it; float16 cannot hold
    differences below 6e-8."""
    device = kernel.device.type
    rounded = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    return torch.bfloat16 if rounded else kernel.dtype


class BatchSize:
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
        batch_size: of the network's batch at work.
        seed: of the gate's first values.

    Attributes:
        gates: of the last batch [B, E], or [1, E] where the input is the same for all pictures; None before.
    """

    stack: Tensor
    bias_stack: Tensor | None
    layer: Any
    num_channels: Callable[[Any], int]
    convolves = True
    without_batch = 3  # axes

    def __init__(
        self,
        layer: Any,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor] | None,
        *,
        form: Form,
        batch_size: BatchSize,
        seed: int,
    ):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.form, self.batch_size = form, batch_size
        self.register_buffer("stack", stacked(self.layer.weight, weights, form), persistent=False)
        routed_bias = None if biases is None else stacked(self.layer.bias, biases, form)
        self.register_buffer("bias_stack", routed_bias, persistent=False)
        self.gate = Gate(type(self).num_channels(layer), len(self.stack) - form.from_global, form, seed=seed)
        self.gates: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("weight", "bias"):
                raise AttributeError(
                    f"routed, {super().__getattr__('layer')} has a {name} for each picture; a network that reads it "
                    "past the layer's forward pass cannot be routed: use prediction=tent or prediction=global"
                ) from None
            return getattr(super().__getattr__("layer"), name)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Of the same arguments, by the same names, as those of the layer it stands for."""
        single = input.ndim == self.without_batch
        rows = input[None] if single else input
        with torch.autocast(input.device.type, enabled=False):
            self.gates = self.gate(self._pooled(rows))
        of_rows = shares(self.gates, self.form)
        with torch.inference_mode(False):  # a later backward pass needs what is kept
            self.stack = self.stack.to(kernel_dtype(self.layer.weight))  # rounded once, they stay so
        if self._is_small(rows, len(of_rows)):
            found = self._sum_of_outputs(rows, of_rows)
        else:
            kernels = mixed(of_rows, self.stack).unflatten(1, self.layer.weight.shape)
            found = self._run(rows, kernels, self._biases(of_rows), output_size)
        return found[0] if single else found

    def _pooled(self, x: Tensor) -> Tensor:
        """Features [pictures, C], the mean over all that belongs to a picture; [1, C] where none is a picture's."""
        channels = 1 if self.convolves else x.ndim - 1
        dtype = self.gate.inner.weight.dtype
        axes = [axis for axis in range(1, x.ndim) if axis != channels]
        # rounded as its features are: widened first, all of them would be copied on the way back
        pooled = (x.mean(axes) if axes else x).to(dtype)
        count = self.batch_size.count
        return pooled.unflatten(0, (count, -1)).mean(1) if len(x) > count and len(x) % count == 0 else pooled

    def _biases(self, of_rows: Tensor) -> Tensor | None:
        """[B, C_out]; a bias that is not routed is the layer's own."""
        if self.bias_stack is None:
            return None if self.layer.bias is None else self.layer.bias.expand(len(of_rows), -1)
        return mixed(of_rows, self.bias_stack)

    def _is_small(self, x: Tensor, count: int) -> bool:
        """Whether what comes of each expert, mixed, is faster than a mixture of kernels for each picture."""
        if count == 1 or x.device.type != "cpu":
            return False
        positions = x.numel() // (x.shape[1 if self.convolves else -1] * count)
        return positions * len(self.stack) <= SMALL

    def _sum_of_outputs(self, x: Tensor, of_rows: Tensor) -> Tensor:
        """Of all experts at once: one product of matrices, whose columns are what a kernel sees at a position."""
        columns = self._columns(x)
        outputs = F.linear(columns.flatten(0, -2), self.stack.view(-1, columns.shape[-1]))  # [rows positions, R O]
        outputs = outputs.view(len(of_rows), -1, len(self.stack), outputs.shape[-1] // len(self.stack))
        found = (outputs * of_rows.to(outputs)[:, None, :, None]).sum(2)  # [B, positions, O]
        if (biases := self._biases(of_rows)) is not None:
            found = found + biases[:, None].to(found)
        found = found.reshape(*columns.shape[:-1], -1)
        return found.movedim(-1, 1) if self.convolves else found

    def _columns(self, x: Tensor) -> Tensor:
        """What a kernel sees at each position [rows, *positions, I]; asked where `_is_small`."""
        raise NotImplementedError

    def _run(self, x: Tensor, kernels: Tensor, biases: Tensor | None, output_size: list[int] | None) -> Tensor:
        raise NotImplementedError


class _RoutedConvolution(RoutedLayer):
    def _run(self, x: Tensor, kernels: Tensor, biases: Tensor | None, output_size: list[int] | None) -> Tensor:
        options = self._options(x, output_size)
        x, count, groups = self._padded(x), len(kernels), self.layer.groups
        if count == 1:
            return self._convolve(x, kernels[0], None if biases is None else biases[0], groups=groups, **options)
        if x.device.type == "cpu" and x[0, 0].numel() * max(self.layer.in_channels, self.layer.out_channels) >= LARGE:
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

    def _is_small(self, x: Tensor, count: int) -> bool:
        return self.layer.groups == 1 and super()._is_small(x, count)

    def _options(self, x: Tensor, output_size: list[int] | None) -> dict[str, Any]:
        options = super()._options(x, output_size)
        return options if self.layer.padding_mode == "zeros" else {**options, "padding": 0}

    def _padded(self, x: Tensor) -> Tensor:
        return x if self.layer.padding_mode == "zeros" else self._with_margin(x)

    def _with_margin(self, x: Tensor) -> Tensor:
        mode = self.layer.padding_mode
        return F.pad(x, self.layer._reversed_padding_repeated_twice, "constant" if mode == "zeros" else mode)

    def _columns(self, x: Tensor) -> Tensor:
        layer, x = self.layer, self._with_margin(x)
        sizes = zip(x.shape[2:], layer.kernel_size, layer.dilation, layer.stride, strict=True)
        positions = [(side - dilation * (kernel - 1) - 1) // stride + 1 for side, kernel, dilation, stride in sizes]
        return F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride).mT.unflatten(1, positions)


class RoutedConvTranspose2d(_RoutedConvolution):
    """See `RoutedLayer`."""

    num_channels = staticmethod(lambda layer: layer.in_channels)
    _convolve = staticmethod(F.conv_transpose2d)

    def _is_small(self, x: Tensor, count: int) -> bool:
        return False  # its outputs overlap

    def _options(self, x: Tensor, output_size: list[int] | None) -> dict[str, Any]:
        layer = self.layer
        padding = layer._output_padding(
            x, output_size, layer.stride, layer.padding, layer.kernel_size, 2, layer.dilation
        )
        return {**super()._options(x, output_size), "output_padding": padding}


class RoutedLinear(RoutedLayer):
    """See `RoutedLayer`."""

    convolves = False
    without_batch = 1
    num_channels = staticmethod(lambda layer: layer.in_features)

    def _columns(self, x: Tensor) -> Tensor:
        return x

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
