"""Laws of the U-Net: its size, any picture size, what each normalisation may and may not see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedlit.networks import UNet

SMALL = {"base_channels": 4, "depth": 2}


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("norm", ["group", "batch", "instance"])
def test_size_is_the_one_in_the_docstring(norm):
    with torch.device("meta"):
        assert num_parameters(UNet(norm=norm)) == 7_762_465
        assert num_parameters(UNet(3, 2, norm=norm)) == 7_763_074
    assert "7,762,465" in UNet.__doc__ and "7,763,074" in UNet.__doc__


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (5, 40), (1, 1), (33, 2)])
def test_any_size_in_is_the_same_size_out(size):
    logits = UNet(3, 2, **SMALL)(torch.rand(2, 3, *size))
    assert logits.shape == (2, 2, *size) and logits.isfinite().all()


def test_padding_repeats_the_border():
    network = UNet(**SMALL).eval()
    image = torch.rand(1, 1, 6, 7)
    padded = torch.cat([image, image[..., -1:]], dim=3)
    padded = torch.cat([padded, padded[..., -1:, :], padded[..., -1:, :]], dim=2)
    torch.testing.assert_close(network(image), network(padded)[..., :6, :7])


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_a_picture_does_not_see_its_batch(norm):
    network, images = UNet(norm=norm, **SMALL), torch.rand(3, 1, 16, 16)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone)


def test_batch_norm_sees_its_batch_in_training_only():
    network, images = UNet(norm="batch", **SMALL), torch.rand(3, 1, 16, 16)
    assert not torch.allclose(network(images)[:1], network(images[:1]))
    network.eval()
    torch.testing.assert_close(network(images)[:1], network(images[:1]))


@pytest.mark.parametrize("norm", ["group", "batch", "instance"])
@pytest.mark.parametrize("depth", [1, 3])
def test_every_parameter_gets_a_gradient(norm, depth):
    """DDP stops on a parameter that the loss never reaches."""
    network = UNet(base_channels=4, depth=depth, norm=norm)
    network(torch.rand(2, 1, 16, 16)).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_far_pixels_matter_through_the_bottleneck_and_skips_keep_pixels():
    """Batch norm in eval, because the statistics of the others link all pixels anyway."""
    network = UNet(norm="batch", base_channels=4, depth=3).eval()
    image = torch.rand(1, 1, 64, 64, requires_grad=True)
    network(image)[0, 0, 32, 32].backward()
    reached = image.grad[0, 0].nonzero()
    assert (reached.max(0).values - reached.min(0).values).min() >= 30  # two convolutions alone reach 4 pixels
    assert image.grad[0, 0, 32, 32] != 0


def test_channels_last_and_bf16_change_nothing_but_rounding():
    torch.manual_seed(0)
    network, image = UNet(**SMALL), torch.rand(2, 1, 32, 32)
    expected = network(image)
    network, image = network.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(image), expected)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(image)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(("base", "groups"), [(1, 1), (8, 1), (16, 1), (20, 1), (32, 2), (40, 2), (48, 3), (56, 2)])
def test_groups_divide_the_channels(base, groups):
    norm = UNet(base_channels=base, depth=1).encoders[0].norm1
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == groups


def test_dropout_acts_in_training_only():
    network, image = UNet(dropout=0.5, **SMALL), torch.rand(1, 1, 16, 16)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_dropout_has_no_entries_and_norms_are_named_norm():
    """`keep_local` patterns find normalisation by name."""
    names = list(UNet(dropout=0.5, norm="batch", **SMALL).state_dict())
    assert names == list(UNet(norm="batch", **SMALL).state_dict())
    assert {name for name in names if "running" in name} <= {name for name in names if ".norm" in name}


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ({"norm": "layer"}, "norm='layer' is not allowed; use one of group, batch, instance"),
        ({"depth": 0}, "depth=0 is not allowed"),
        ({"base_channels": 2.5}, "base_channels=2.5 is not allowed; use a whole number"),
        ({"in_channels": True}, "in_channels=True"),
        ({"out_channels": -1}, "out_channels=-1"),
        ({"dropout": 1.0}, "dropout=1.0 is not allowed"),
        ({"dropout": float("nan")}, "dropout=nan"),
    ],
)
def test_wrong_arguments_are_named(wrong, allowed):
    with pytest.raises(ValueError, match=allowed):
        UNet(**wrong)
