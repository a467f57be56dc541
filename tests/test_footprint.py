"""Laws of footprints: what is found without data is what real tensors take."""

from __future__ import annotations

import pytest
import torch
from lightning.fabric.plugins import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from torch import nn

from fedlit.footprint import MIXED, Numerics, activation_bytes, blank, optimizer_bytes, saved_bytes
from fedlit.losses import DiceBCE, DiceCE
from fedlit.networks import UNet
from fedlit.weights import num_bytes


def unet(norm: str = "group", channels: int = 1) -> UNet:
    return UNet(1, channels, base_channels=4, depth=2, norm=norm, dropout=0.1)


def real_bytes(network, loss, shape, num_classes, numerics, channels_last) -> int:
    """What activation_bytes finds, of a real step as Fabric makes it."""
    fabric = {"64-true": DoublePrecision(), "32-true": Precision(), "bf16-true": HalfPrecision("bf16-true")}
    precision = fabric.get(numerics.precision) or MixedPrecision(numerics.precision, "cpu")
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    network = precision.convert_module(network).to(memory_format=memory_format).train()
    image = torch.rand(shape).contiguous(memory_format=memory_format)
    target = (torch.rand(shape[0], num_classes, *shape[2:]) > 0.5).float()

    def step():
        with precision.forward_context():
            logits = network(precision.convert_input(image))
        return loss(precision.convert_output(logits), target)

    return num_bytes([image, target]) + saved_bytes(step, [*network.parameters(), *network.buffers(), image, target])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("norm", ["group", "batch", "instance"])
def test_activations_are_those_of_a_real_step(norm, precision, channels_last):
    numerics, shape = Numerics(precision), (3, 1, 50, 70)
    planned = activation_bytes(
        blank(lambda: unet(norm), numerics), DiceBCE(), shape, 1, numerics=numerics, channels_last=channels_last
    )
    real = real_bytes(unet(norm), DiceBCE(), shape, 1, numerics, channels_last)
    if numerics.precision in MIXED or precision == "bf16-true":
        # without data a norm's mean and variance are held in the type of its input, with data in float32
        assert 0 <= real - planned < 2e-3 * real
    else:
        assert planned == real


def test_a_loss_that_asks_about_values_is_planned_as_it_runs():
    """DiceCE refuses classes that overlap: it looks at the target."""
    shape, numerics = (3, 1, 50, 70), Numerics()
    planned = activation_bytes(blank(lambda: unet(channels=3), numerics), DiceCE(), shape, 2, numerics=numerics)
    network = unet(channels=3)
    image, target = torch.rand(shape), torch.zeros(3, 2, 50, 70)
    known = [*network.parameters(), image, target]
    assert planned == num_bytes([image, target]) + saved_bytes(lambda: DiceCE()(network(image), target), known)


def test_activations_of_overlapping_use_are_counted_once():
    """A tensor saved by two operations, and a frozen part that saves nothing."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.trained = nn.Conv2d(1, 8, 1).requires_grad_(False), nn.Conv2d(8, 1, 1)

        def forward(self, image):
            x = self.trained(self.frozen(image))
            return x * x

    shape, loss = (2, 1, 16, 16), lambda logits, target: logits.sum()
    planned = activation_bytes(blank(Twice, Numerics()), loss, shape, 1, numerics=Numerics())
    pixels = 2 * 16 * 16 * 4
    assert planned == pixels * (1 + 1 + 8 + 1)  # image, target, the trained layer's input, its output


def test_activations_grow_with_the_batch_alone():
    numerics = Numerics()
    network = blank(unet, numerics)
    one, two, three = (activation_bytes(network, DiceBCE(), (n, 1, 64, 64), 1, numerics=numerics) for n in (1, 2, 3))
    assert three - two == two - one > 0.9 * one


def test_a_gpu_is_planned_without_one():
    """Its autocast keeps the normalisations in float32, the CPU's does not."""
    for precision in MIXED:
        found = {}
        for device in ("cpu", "cuda"):
            numerics = Numerics(precision, device)
            network = blank(unet, numerics)
            found[device] = activation_bytes(network, DiceBCE(), (2, 1, 64, 64), 1, numerics=numerics)
        full = activation_bytes(network, DiceBCE(), (2, 1, 64, 64), 1, numerics=Numerics("32-true", "cuda"))
        assert found["cpu"] < 0.6 * full < found["cuda"] < 1.1 * full
    assert not torch.is_autocast_enabled("cuda") and not torch.is_autocast_enabled("cpu")


def test_planning_leaves_the_world_as_it_was():
    before = torch.get_default_dtype(), torch.random.get_rng_state()
    numerics = Numerics("64-true")
    activation_bytes(blank(unet, numerics), DiceBCE(), (2, 1, 64, 64), 1, numerics=numerics)
    assert torch.get_default_dtype() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


def test_a_huge_network_takes_no_memory():
    network = blank(lambda: UNet(3, 2, base_channels=1024, depth=4), Numerics())
    assert sum(value.numel() for value in network.parameters()) > 5e9
    found = activation_bytes(network, DiceCE(), (8, 3, 512, 512), 1, numerics=Numerics())
    assert found > 1e11


OPTIMIZERS = {
    "SGD": 0,
    "Adam": 2,
    "AdamW": 2,
    "RMSprop": 1,
    "Adagrad": 1,
    "ASGD": 1,
    "Adadelta": 2,
}  # copies of the parameters that it keeps


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_keeps_what_a_real_one_does(name):
    network = unet()
    parameters = [*network.parameters()]
    optimizer = getattr(torch.optim, name)(parameters, lr=0.1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    real = num_bytes([*optimizer.state.values()])
    planned = optimizer_bytes(lambda own: getattr(torch.optim, name)(own, lr=0.1), blank(unet, Numerics()).parameters())
    assert planned == real
    assert round(real / num_bytes(parameters), 1) == OPTIMIZERS[name]


def test_momentum_is_counted_and_a_wider_type_too():
    parameters = [*blank(unet, Numerics("64-true")).parameters()]
    assert optimizer_bytes(lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.9), parameters) == num_bytes(parameters)
