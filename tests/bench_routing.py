"""What routing costs: a batch against the global model and against a loop over its pictures; adapting to a site."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fedlit.networks import UNet
from fedlit.prediction import Learnt, Routing
from fedlit.prediction.gates import FORMS
from fedlit.prediction.learner import batches
from fedlit.prediction.routed_layers import RoutedLayer
from fedlit.prediction.routed_network import routable, route
from tests.conftest import make_federation, make_site, make_world
from tests.unseen_site import at_unseen_site, experts_of, unlabelled

NUM_EXPERTS, BATCH, SIZES = 6, 16, (32, 64, 128)
"""Members, and the pictures of the batches that are predicted: how many, and their sides."""
NUM_PICTURES, PICTURE_SIZE, AT_ONCE = 100, 256, 8
"""Of the site that is adapted to; AT_ONCE a step."""


def at_site(precision: str, norm: str = "group") -> Learnt:
    """A U-Net of 7.76 M parameters and 6 members' models of it."""
    torch.manual_seed(0)
    network = UNet(1, 1, base_channels=32, norm=norm)
    if precision == "bf16-mixed":  # as a run has it then
        network = network.to(memory_format=torch.channels_last)
    federation, _ = make_federation([make_site("a")], network=network, world=make_world(precision=precision))
    experts = experts_of(network, "abcdef"[:NUM_EXPERTS], noise=0.01)
    bench = federation.fleet.workbench
    learnt = at_unseen_site(network, experts=experts, batch_size=AT_ONCE, lend=bench.lend)
    return replace(learnt, network=bench.network)


def routed(learnt: Learnt) -> tuple[nn.Module, dict[str, RoutedLayer]]:
    """The network with its layers routed and gates a little open."""
    network = learnt.copy(learnt.server.weights)
    entries = {id(value): name for name, value in network.named_parameters()}
    experts = [learnt.experts[name].weights for name in sorted(learnt.experts)]
    layers = route(
        network, [*routable(network, entries)], entries, experts, form=FORMS["difference"], seed=(0, "bench")
    )
    for layer in layers.values():
        nn.init.normal_(layer.gate.outer.weight, std=0.1)
    return network.eval(), layers


class PictureByPicture:
    """The same mixture as a plain loop: each kernel of each picture, expert by expert, then the network for it."""

    def __init__(self, learnt: Learnt, layers: Mapping[str, RoutedLayer]):
        self.layers, self.learnt = layers, learnt
        self.network = learnt.copy(learnt.server.weights)
        self.model = learnt.lend(self.network)

    def __call__(self, images: Tensor) -> Tensor:
        first, found = self.learnt.server.weights, []
        own = dict(self.network.named_parameters())
        for place, image in enumerate(images):
            for name, layer in self.layers.items():
                assert layer.gates is not None
                for entry in (f"{name}.weight", f"{name}.bias"):
                    if entry not in own:
                        continue
                    value = first[entry].clone()
                    for gate, member in zip(layer.gates[place], sorted(self.learnt.experts), strict=True):
                        value += gate * (self.learnt.experts[member].weights[entry] - first[entry])
                    own[entry].data.copy_(value)
            found.append(self.model(image[None]))
        return torch.cat(found)


def alternating(ways: Mapping[str, Callable[[], object]], num_rounds: int = 3) -> dict[str, float]:
    """Median seconds of each, one after the other in turn; a warm-up round before."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(num_rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in seconds.items()}


@torch.no_grad()
def bench_routing(folder: Path) -> None:
    """One batch: the global model, the routed one, and a loop over pictures; then a site's adaptation."""
    for precision in ("32-true", "bf16-mixed"):
        learnt = at_site(precision)
        network, layers = routed(learnt)
        mixture, plain = learnt.lend(network), learnt.lend(learnt.copy(learnt.server.weights))
        loop = PictureByPicture(learnt, layers)
        for size in SIZES:
            images = torch.rand(BATCH, 1, size, size)
            difference = (mixture(images) - loop(images)).abs().max()
            ways = {"plain": plain, "routed": mixture, "loop": loop}
            took = alternating({name: partial(way, images) for name, way in ways.items()})
            plainly, looped = (took["routed"] / took[name] for name in ("plain", "loop"))
            print(
                f"routing: {BATCH} pictures of {size} px, U-Net of 7.76 M, {NUM_EXPERTS} experts, {precision}: "
                f"{took['routed']:.2f} s, {plainly:.2f} x the global model (target {NUM_EXPERTS}), {looped:.2f} x a "
                f"loop over pictures (target 0.2), which differs by {difference:.0e}"
            )
    for norm in ("group", "batch"):
        adapting(norm)


def adapting(norm: str) -> None:
    """Minutes for a whole site, once."""
    learnt, images = at_site("bf16-mixed", norm), unlabelled(NUM_PICTURES, size=PICTURE_SIZE)
    begin = time.perf_counter()
    model = Routing().prepare(learnt, images)
    adapted = time.perf_counter()
    assert model is not None
    for at_once in batches(images, AT_ONCE):
        model(images.images(at_once))
    predicted = time.perf_counter()
    plan = Routing().adaptation
    print(
        f"routing: adapting to {NUM_PICTURES} pictures of {PICTURE_SIZE} px in at most {plan.passes} passes and "
        f"{plan.max_steps} steps, {norm} norm, bf16: {(adapted - begin) / 60:.1f} min (target 10); predicting them: "
        f"{predicted - adapted:.0f} s"
    )
