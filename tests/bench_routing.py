"""What routing costs: a batch against the global model and against a loop over its pictures; adapting to a site."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fedlit.networks import UNet
from fedlit.prediction import Learnt, Routing
from fedlit.prediction.gates import FORMS
from fedlit.prediction.learner import Learner, descend
from fedlit.prediction.routed_layers import RoutedLayer
from fedlit.prediction.routed_network import route
from tests.conftest import make_federation, make_site, make_world
from tests.unseen_site import at_unseen_site, experts_of

NUM_EXPERTS, BATCH, SIZE = 6, 16, 128
"""Members, and the pictures of the batch that is predicted."""
NUM_PICTURES, PICTURE_SIZE, AT_ONCE = 100, 256, 8
"""Of the site that is adapted to; AT_ONCE a step."""


def at_site(precision: str) -> Learnt:
    """A U-Net of 7.76 M parameters and 6 members' models of it."""
    torch.manual_seed(0)
    network = UNet(1, 1, base_channels=32)
    federation, _ = make_federation([make_site("a")], network=network, world=make_world(precision=precision))
    experts = experts_of(network, "abcdef"[:NUM_EXPERTS], noise=0.01)
    return at_unseen_site(network, experts=experts, batch_size=AT_ONCE, lend=federation.fleet.workbench.lend)


def routed(learnt: Learnt) -> tuple[nn.Module, dict[str, RoutedLayer]]:
    """The network with its layers routed and gates a little open."""
    network = learnt.copy(learnt.server.weights)
    entries = {id(value): name for name, value in network.named_parameters()}
    experts = [learnt.experts[name].weights for name in sorted(learnt.experts)]
    layers = route(network, entries, experts, form=FORMS["difference"], seed=(0, "bench"))
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
        images = torch.rand(BATCH, 1, SIZE, SIZE)
        loop = PictureByPicture(learnt, layers)
        difference = (mixture(images) - loop(images)).abs().max()
        ways = {"plain": plain, "routed": mixture, "loop": loop}
        took = alternating({name: partial(way, images) for name, way in ways.items()})
        plainly, looped = (took["routed"] / took[name] for name in ("plain", "loop"))
        print(
            f"routing: {BATCH} pictures of {SIZE} px, U-Net of 7.76 M, {NUM_EXPERTS} experts, {precision}: "
            f"{took['routed']:.2f} s, {plainly:.2f} x the global model (target {NUM_EXPERTS}), {looped:.2f} x a loop "
            f"over pictures (target 0.2), which differs by {difference:.0e}"
        )
    adapting(learnt)


def adapting(learnt: Learnt) -> None:
    """Seconds for a whole site, from the median step."""
    routing = Routing()
    network, _ = routed(learnt)
    learner = Learner(
        learnt,
        network,
        lambda model, images, seed: routing.objective(model, images, seed, learnt.num_classes),
        descend,
        routing.adaptation.lr,
    )
    images = torch.rand(AT_ONCE, 1, PICTURE_SIZE, PICTURE_SIZE)
    step = alternating({"step": lambda: learner.learn(images, 0)}, num_rounds=3)["step"]
    num_steps = -(-NUM_PICTURES // AT_ONCE) * routing.adaptation.passes
    print(
        f"routing: adapting to {NUM_PICTURES} pictures of {PICTURE_SIZE} px, {num_steps} steps of {step:.2f} s: "
        f"{num_steps * step / 60:.1f} min (target 10)"
    )
