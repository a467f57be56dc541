"""The memory of a training step, found without data: on tensors that have a shape and a device but no content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from fedlit.hardware import MIXED, TRUE
from fedlit.weights import num_bytes


@dataclass(frozen=True)
class Unknown:
    """Stands for a number that cannot be known, and says why."""

    reason: str


@dataclass(frozen=True)
class Numerics:
    """In what a network computes: Fabric's name of the precision, and the kind of device, `cpu` or `cuda`."""

    precision: str = "32-true"
    device: str = "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return TRUE.get(self.precision, torch.float32)

    def forward(self, network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """Logits in float32, as Fabric computes them."""
        kind = MIXED.get(self.precision)
        with _autocast(self.device, kind) if kind else _default_dtype(self.dtype):
            logits = network(image.to(self.dtype))
        return logits.to(torch.get_default_dtype())


def blank(build: Callable[[], nn.Module], numerics: Numerics) -> nn.Module:
    """A network whose parameters have no content: it takes no memory, whatever its size."""
    with torch.device("meta"):
        network = build()
    return network.to(numerics.dtype)


def saved_bytes(step: Callable[[], Any], known: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps for the backward pass of what `step` computes.

    Every storage counts once, and those of the tensors `known` (parameters) not at all.
    """
    others = [tensor.untyped_storage() for tensor in known]
    counted = {storage._cdata for storage in others}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in counted:
            counted.add(storage._cdata)
            kept.append(storage)  # held, so that no other storage takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for storage in kept)


def activation_bytes(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, int, int, int],
    num_classes: int,
    *,
    numerics: Numerics,
    channels_last: bool = False,
) -> int:
    """Bytes that one training step keeps for its backward pass, with a batch of `shape` [B, C, H, W] and its targets.

    Args:
        network: a blank one.

    Raises:
        Exception: whatever a network raises that cannot be computed without data.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    with FakeTensorMode():
        device = torch.device(numerics.device, 0) if numerics.device == "cuda" else torch.device("cpu")
        state = {name: _empty_like(value, device) for name, value in _entries(network.train()).items()}
        image = torch.empty(shape, device=device).contiguous(memory_format=memory_format)
        target = torch.empty((shape[0], num_classes, *shape[2:]), device=device)

        def step() -> Tensor:
            logits = numerics.forward(lambda image: functional_call(network, state, (image,)), image)
            with _AllIsWell():
                return loss(logits, target)

        batch = image.untyped_storage().nbytes() + target.untyped_storage().nbytes()
        return batch + saved_bytes(step, [*state.values(), image, target])


def optimizer_bytes(make: Callable[[list[nn.Parameter]], Optimizer], parameters: Iterable[Tensor]) -> int:
    """Bytes of an optimizer's state after a step, found by one step of each shape of parameter by itself.

    Raises:
        Exception: whatever an optimizer raises that cannot step so.
    """
    of_shape: dict[tuple, int] = {}
    total = 0
    for like in parameters:
        key = (like.shape, like.dtype)
        if key not in of_shape:
            parameter = nn.Parameter(torch.zeros(like.shape, dtype=like.dtype))
            optimizer = make([parameter])
            parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            of_shape[key] = sum(num_bytes(value) for value in optimizer.state.values())
        total += of_shape[key]
    return total


def num_elements(values: Iterable[Tensor]) -> int:
    return sum(value.numel() for value in values)


def _entries(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _empty_like(value: Tensor, device: torch.device) -> Tensor:
    made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
    return nn.Parameter(made, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else made


class _AllIsWell(TorchDispatchMode):
    """Answers what a loss asks about values (is a class negative?) with no: there are none."""

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            return False
        return function(*args, **(kwargs or {}))


@contextmanager
def _autocast(device: str, dtype: torch.dtype) -> Iterator[None]:
    """As `torch.autocast`, which does nothing for a GPU on a machine that has none."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
