"""A network whose layers are routed: how it is made of experts, and what its gates say of each picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fedlit.data.pictures import Unlabelled
from fedlit.prediction.base import Learnt, Model
from fedlit.prediction.features import hooked, uncached
from fedlit.prediction.gates import Form
from fedlit.prediction.routed_layers import KINDS, BatchSize, RoutedLayer
from fedlit.seeding import address
from fedlit.weights import Weights


def route(
    network: nn.Module,
    names: Sequence[str],
    entries: Mapping[int, str],
    experts: Sequence[Weights],
    *,
    form: Form,
    seed: Sequence[int | str],
) -> dict[str, RoutedLayer]:
    """Replace layers of a network by mixtures of the experts' kernels; returns them by name.

    Args:
        network: the global model; changed in place.
        names: of the layers, see `choose_layers`.
        entries: the name among the experts' of a parameter, by its `id`.
        seed: address of what is drawn here.
    """
    batch_size = BatchSize()
    routed: dict[str, RoutedLayer] = {}
    name_of = {network.get_submodule(name): name for name in names}
    for parent in [*network.modules()]:
        for place, child in [*parent._modules.items()]:
            if child is not None and child in name_of:
                name = name_of[child]
                if name not in routed:
                    routed[name] = _routed(child, entries, experts, form, batch_size, address(*seed, name))
                parent._modules[place] = routed[name]
    network.register_forward_pre_hook(batch_size)
    avoid_fast_path(network)
    return routed


class Choice(NamedTuple):
    """The names of the layers that are to be routed; and why, by name, other trained ones stay global."""

    routed: list[str]
    left: dict[str, str]


def choose_layers(learnt: Learnt, images: Unlabelled) -> Choice:
    """Of the network's trained convolutions and linear layers, those that can be routed picture by picture.

    They are `routable`, and their rows are pictures or parts of pictures: for two pictures there are twice as many as
    for one. Rows of a table of positions, or of tokens with the sequence first [L, B, C], are not.
    """
    network, entries = learnt.resident.network, learnt.resident.trained()
    known = routable(network, entries)
    picture = images.images(images.cases[0].indices[:1]).to(next(network.parameters()))
    one, two = (_num_rows(learnt, known, picture.expand(count, -1, -1, -1)) for count in (1, 2))
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, (_ConvNd, nn.Linear))}
    left = {}
    for name, layer in layers.items():
        kind = type(layer).__name__
        if name in known and two[name] != 2 * one[name]:
            left[name] = f"a {kind} whose rows are not pictures"
        elif name not in known and any(id(value) in entries for value in layer.parameters()):
            left[name] = f"a {kind}{' with hooks' * is_hooked(layer)}"
    return Choice([name for name in known if name not in left], left)


def _num_rows(learnt: Learnt, layers: Mapping[str, nn.Module], images: Tensor) -> Counter[str]:
    """How many rows go into each layer, in all its calls."""
    found: Counter[str] = Counter()

    def add(name: str, layer: nn.Module, values: Tensor) -> None:
        found[name] += 1 if values.ndim == KINDS[type(layer)].without_batch else len(values)

    with hooked(layers, add), uncached(learnt.resident.network), torch.no_grad():
        learnt.network(images)
    return found


def routable(network: nn.Module, entries: Collection[int]) -> dict[str, nn.Module]:
    """By name, the layers of known kinds whose kernel is among the entries, which are parameters by `id`.

    Layers with hooks of their own are left out, since these belong to the layer as it is, and a network that is one
    layer, which nothing holds.
    """
    return {
        name: layer
        for name, layer in network.named_modules()
        if name and type(layer) in KINDS and id(layer.weight) in entries and not is_hooked(layer)
    }


def is_hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def avoid_fast_path(network: nn.Module) -> None:
    """While it runs there is no fast path through a Transformer's layer, which reads weights past the forward pass."""
    was: list[bool] = []

    def before(network: nn.Module, arguments: Any) -> None:
        was.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)

    network.register_forward_pre_hook(before)
    network.register_forward_hook(
        lambda network, arguments, output: torch.backends.mha.set_fastpath_enabled(was.pop()), always_call=True
    )


def _routed(
    layer: Any, entries: Mapping[int, str], experts: Sequence[Weights], form: Form, batch_size: BatchSize, seed: int
) -> RoutedLayer:
    weight, bias = entries[id(layer.weight)], entries.get(id(layer.bias))
    biases = None if bias is None else [expert[bias] for expert in experts]
    weights = [expert[weight] for expert in experts]
    return KINDS[type(layer)](layer, weights, biases, form=form, batch_size=batch_size, seed=seed)


class Noted:
    """The gates of a routed network's last prediction: of the last time that it was called with no layer in training.

    It knows the layers and not the network, whose hooks know it: a cycle would keep all experts from being freed.
    """

    def __init__(self, network: nn.Module, routed: Mapping[str, RoutedLayer], num_members: int):
        self.routed, self.num_members = routed, num_members
        self.last: list[Tensor | None] = []
        self.count = 0
        network.register_forward_pre_hook(self._forget)
        network.register_forward_hook(self._keep)

    def _forget(self, network: nn.Module, arguments: Any) -> None:
        for layer in self.routed.values():
            layer.gates = None

    def _keep(self, network: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if not any(layer.gate.training for layer in self.routed.values()):
            self.last, self.count = [layer.gates for layer in self.routed.values()], len(arguments[0])

    def gates(self) -> Tensor:
        """[B, layers, members], 0 in a layer of which no picture came by."""
        if not self.last:
            return torch.zeros(0, len(self.routed), self.num_members)
        return torch.stack([self._of_pictures(gates) for gates in self.last], dim=1)

    def _of_pictures(self, gates: Tensor | None) -> Tensor:
        if gates is None:
            return torch.zeros(self.count, self.num_members)
        gates = gates.detach().float().cpu()
        return gates if len(gates) == self.count else gates.mean(0).expand(self.count, -1)


class Routed:
    """A model whose layers are mixtures, by the gates that are `noted`; see `Mixture`."""

    def __init__(self, model: Model, noted: Noted, members: Sequence[str]):
        self.model, self.noted = model, noted
        self.layers, self.members = tuple(noted.routed), tuple(members)

    @property
    def gates(self) -> Tensor:
        """Of the last prediction [B, layers, members]."""
        return self.noted.gates()

    def __call__(self, images: Tensor) -> Tensor:
        return self.model(images)


def mean_square(layers: Mapping[str, RoutedLayer]) -> Tensor:
    """Of the gates of the last batch, over layers, pictures and members."""
    gates = [layer.gates for layer in layers.values() if layer.gates is not None]
    return torch.stack([of_layer.square().mean() for of_layer in gates]).mean()
