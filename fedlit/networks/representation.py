"""The output of one layer as what a network makes of a picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from fedlit.errors import BadInput


def layer_of(network: nn.Module, name: str | None, key: str = "layer") -> nn.Module:
    """The layer whose output represents a picture: the one of that name, else the network's own `representation`.

    Raises:
        BadInput: the network has none of that name, or names none itself; names `key`.
    """
    modules = dict(network.named_modules())
    found = getattr(network, "representation", None) if name is None else modules.get(name)
    if isinstance(found, nn.Module):
        return found
    some = ", ".join([*filter(None, modules)][:8])
    what = f"{name!r} is no layer of" if name else "is not set, and no `representation` is named by"
    raise BadInput(f"{key}: {what} {type(network).__name__}; give the name of one, such as {some}")


@contextmanager
def outputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What the layer puts out while this lasts, call by call."""
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()


def pooled(outputs: list[Tensor], key: str = "layer") -> Tensor:
    """The last output [B, channels, ...], averaged over places; takes it out. Raises BadInput, naming `key`."""
    if not outputs:
        raise BadInput(f"{key}: the network does not go through this layer; choose another one")
    return outputs.pop().float().flatten(2).mean(2)
