"""Routed layers are a loop over pictures, each with its own kernel, and as published where they say so."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedlit.prediction import routed_layers
from fedlit.prediction.gates import FORMS
from fedlit.prediction.routed_layers import KINDS, BatchSize
from fedlit.prediction.routed_network import routable, route

GOLDEN = Path(__file__).parent / "golden"
LAYERS = {
    "convolution": (nn.Conv2d(4, 6, 3), (4, 9, 8)),
    "in groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1, bias=False), (4, 9, 8)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, stride=2, padding=(1, 0)), (4, 9, 8)),
    "dilated": (nn.Conv2d(4, 2, (3, 5), dilation=2, padding="same"), (4, 9, 8)),
    "mirrored margin": (nn.Conv2d(4, 2, 3, padding=2, padding_mode="reflect"), (4, 9, 8)),
    "round margin": (nn.Conv2d(4, 2, 4, padding="same", padding_mode="circular"), (4, 9, 8)),
    "upwards": (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 5, 6)),
    "upwards in groups": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False, dilation=2),
        (4, 5, 6),
    ),
    "linear": (nn.Linear(4, 6), (4,)),
    "linear on tokens": (nn.Linear(4, 6, bias=False), (3, 5, 4)),
}
WAYS = ("one by one", "together", "by sums")


def take(way, monkeypatch):
    """Of the ways in which a batch is convolved."""
    monkeypatch.setattr(routed_layers, "LARGE", 10**9 if way == "together" else 0)
    monkeypatch.setattr(routed_layers, "SMALL", 10**9 if way == "by sums" else 0)


def routed(layer, form, *, count=1, members=3, noise=0.3, open_gates=True):
    """The layer with members that are noise apart, in evaluation mode, and their weights and biases."""
    generator = torch.Generator().manual_seed(0)
    values = [
        [value.detach() + noise * torch.randn(value.shape, generator=generator) for _ in range(members)]
        for value in layer.parameters()
    ]
    batch = BatchSize()
    batch.count = count
    weights, biases = values[0], values[1] if len(values) > 1 else None
    found = KINDS[type(layer)](layer, weights, biases, form=FORMS[form], batch_size=batch, seed=1).eval()
    if open_gates:
        with torch.no_grad():
            for value in found.gate.outer.parameters():
                value.copy_(torch.randn(value.shape, generator=generator) / value.shape[-1] ** 0.5)
    return found, weights, biases


def by_hand(layer, form, weights, biases, gates, x, **options):
    """One picture after the other, through the layer with that picture's kernel."""
    own = [value.detach().clone() for value in layer.parameters()]
    found = []
    for row, gate in zip(x.chunk(len(gates)), gates, strict=True):
        for value, first, experts in zip(layer.parameters(), own, (weights, biases), strict=False):
            experts = [*experts] if form == "difference" else [*experts, first]
            base = first if form == "difference" else 0 * first
            value.data = base + sum(share * (expert - base) for share, expert in zip(gate, experts, strict=True))
        found.append(layer(row, **options))
    for value, first in zip(layer.parameters(), own, strict=True):
        value.data = first
    return torch.cat(found)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_is_a_loop_over_its_pictures(name, form, way, monkeypatch):
    take(way, monkeypatch)
    layer, shape = LAYERS[name]
    for count, rows in ((5, 5), (3, 6), (1, 1), (1, 4)):  # a picture may come as several rows, such as windows
        x = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(rows)) * 2
        found, weights, biases = routed(layer, form, count=count)
        y = found(x)
        assert found.gates.shape == (count, 3 + (form != "difference"))
        channels = 1 if found.convolves else -1
        of_pictures = [part.movedim(channels, 0).flatten(1).mean(1) for part in x.chunk(count)]
        torch.testing.assert_close(found._pooled(x), torch.stack(of_pictures), atol=1e-5, rtol=1e-5)
        assert count == 1 or (found.gates[0] - found.gates[-1]).abs().max() > 0.002
        wanted = by_hand(layer, form, weights, biases, found.gates.detach(), x)
        torch.testing.assert_close(y, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_its_gradient_is_that_of_the_loop(name, monkeypatch):
    layer, shape = LAYERS[name]
    gradients = []
    for way in WAYS:
        take(way, monkeypatch)
        found, weights, biases = routed(layer, "difference", count=4)
        x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(4)).requires_grad_()
        (found(x) ** 2).mean().backward()
        gradients.append((x.grad, found.gate.outer.weight.grad))
        assert all(value.grad is None for value in layer.parameters())
    gates = found.gates.detach().requires_grad_()
    y = x.detach()
    (by_hand_with_gradient(layer, weights, biases, gates, y) ** 2).mean().backward()
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-6, rtol=1e-4)
    hidden = found.gate.inner(found._pooled(y)).detach()
    of_outer = (gates.grad * (1 - gates.detach() ** 2)).T @ hidden / hidden.shape[1] ** 0.5
    torch.testing.assert_close(gradients[0][1], of_outer, atol=1e-6, rtol=1e-4)


def by_hand_with_gradient(layer, weights, biases, gates, x):
    names = [name for name, _ in layer.named_parameters()]
    own = [value.detach() for value in layer.parameters()]
    found = []
    for row, gate in zip(x.split(1), gates, strict=True):
        values = [
            first + sum(share * (expert - first) for share, expert in zip(gate, experts, strict=True))
            for first, experts in zip(own, (weights, biases), strict=False)
        ]
        found.append(torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (row,)))
    return torch.cat(found)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LAYERS)
def test_closed_gates_are_the_global_layer(name, way, monkeypatch):
    """Bit for bit where there is one kernel for all, and so an ordinary call."""
    take(way, monkeypatch)
    layer, shape = LAYERS[name]
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(routed(layer, "difference", count=1, open_gates=False)[0](x), layer(x))
    grouped = routed(layer, "difference", count=4, open_gates=False)[0]
    torch.testing.assert_close(grouped(x), layer(x), atol=1e-5, rtol=0)
    grouped(x).square().sum().backward()
    assert grouped.gate.outer.weight.grad.abs().max() > 0, "closed gates can open"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ["difference", "softmax"])
@pytest.mark.parametrize("name", LAYERS)
def test_identical_experts_are_that_expert(name, form, way, monkeypatch):
    take(way, monkeypatch)
    layer, shape = LAYERS[name]
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(routed(layer, form, count=4, noise=0)[0](x), layer(x), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("conv3x3", nn.Conv2d(6, 5, 3, padding=1, bias=False)),
        ("conv1x1_bias", nn.Conv2d(7, 2, 1)),
        ("upconv_bias", nn.ConvTranspose2d(8, 4, 2, stride=2)),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_sigmoid_gates_are_the_published_ones(name, layer, way, monkeypatch):
    take(way, monkeypatch)
    golden = load_file(GOLDEN / f"iopfl_routed_{name}.safetensors")
    *members, last = golden["expert.weight"]
    biases = None
    layer.weight.data = last
    if layer.bias is not None:
        *biases, layer.bias.data = golden["expert.bias"]
    batch = BatchSize()
    batch.count = len(golden["input"])
    found = KINDS[type(layer)](layer, members, biases, form=FORMS["sigmoid"], batch_size=batch, seed=0).eval()
    for part, linear in (("fc1", found.gate.inner), ("fc2", found.gate.outer)):
        linear.weight.data, linear.bias.data = golden[f"{part}.weight"], golden[f"{part}.bias"]
    torch.testing.assert_close(found(golden["input"]), golden["output"], atol=1e-5, rtol=0)


def test_a_gate_is_drawn_from_its_address():
    def values(seed):
        layer, _ = LAYERS["convolution"]
        batch = BatchSize()
        made = KINDS[nn.Conv2d](layer, [layer.weight], None, form=FORMS["sigmoid"], batch_size=batch, seed=seed)
        return torch.cat([value.detach().flatten() for value in made.gate.parameters()])

    before = torch.get_rng_state()
    assert torch.equal(values(1), values(1)) and not torch.equal(values(1), values(2))
    assert torch.equal(torch.get_rng_state(), before) and values(1).abs().max() <= 0.5


def test_what_is_the_same_for_all_pictures_has_one_gate():
    layer, _ = LAYERS["linear on tokens"]
    found, *_ = routed(layer, "difference", count=4)
    assert found(torch.randn(1, 7, 4)).shape == (1, 7, 6) and found.gates.shape == (1, 3)
    assert found(torch.randn(4)).shape == (6,) and found.gates.shape == (1, 3)


def test_others_read_of_it_what_they_read_of_the_layer():
    layer, _ = LAYERS["upwards"]
    found, *_ = routed(layer, "difference")
    assert found.stride == (2, 2) and found.out_channels == 6
    with pytest.raises(AttributeError, match="a weight for each picture"):
        found.weight  # noqa: B018
    with pytest.raises(AttributeError, match="nothing"):
        found.nothing  # noqa: B018
    x = torch.randn(1, 4, 5, 6)
    wanted = nn.ConvTranspose2d(4, 6, 2, stride=2)(x, output_size=[11, 12])
    assert found(x, output_size=[11, 12]).shape == wanted.shape


def test_only_layers_that_experts_hold_are_replaced():
    shared = nn.Linear(4, 4)
    network = nn.ModuleDict(
        {
            "first": nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv1d(4, 4, 1)),
            "block": nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "beside": nn.Linear(4, 4)}),
            "twice": nn.ModuleList([shared, shared]),
            "frozen": nn.Linear(4, 4),
        }
    )
    entries = {id(value): name for name, value in network.named_parameters() if not name.startswith("frozen")}
    experts = [{name: value.detach() for name, value in network.named_parameters()}] * 2
    found = route(network, [*routable(network, entries)], entries, experts, form=FORMS["difference"], seed=(0, "u"))
    assert [*found] == ["first.0", "block.beside", "twice.0"]
    assert network["twice"][0] is network["twice"][1] is found["twice.0"]
    assert type(network["block"]["attention"].out_proj) is nn.modules.linear.NonDynamicallyQuantizableLinear


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LAYERS)
def test_bf16_autocast_takes_the_global_kernel_as_it_is_and_mixes_in_bf16(name, way, monkeypatch):
    take(way, monkeypatch)
    layer, shape = LAYERS[name]
    x = torch.randn(2, *shape)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, found = layer(x[:1]), routed(layer, "difference", open_gates=False)[0](x[:1])
    assert torch.equal(found, wanted)
    exact = routed(layer, "difference", count=2)[0](x)
    mixture = routed(layer, "difference", count=2)[0]
    with torch.autocast("cpu", torch.bfloat16):
        both = mixture(x)
    assert both.dtype == torch.bfloat16 == mixture.stack.dtype
    torch.testing.assert_close(both.float(), exact, atol=0.05, rtol=0.05)
    both.float().square().mean().backward()
    assert mixture.gate.outer.weight.grad.isfinite().all() and mixture.gate.outer.weight.grad.abs().max() > 0
