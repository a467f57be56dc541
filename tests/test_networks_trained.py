"""Adapters alone: small, and bit for bit the whole network when they are put beside the same frozen weights."""

from __future__ import annotations

import pytest
import torch

from fedlit.errors import BadInput
from fedlit.networks import SAM, Adapters, DecoderOnly, LoRA, UNet
from fedlit.networks.trained import frozen, load_trained, save_trained, trained
from fedlit.weights import save

TUNINGS = [Adapters(), Adapters(last=2), LoRA(), DecoderOnly()]


def made(tuning, seed=0, **settings):
    torch.manual_seed(seed)
    return SAM(1, 2, size="micro", tuning=tuning, **settings)


def moved(network):
    with torch.no_grad():
        for value in trained(network).values():
            value += 0.05 * torch.randn_like(value)
    return network


@pytest.mark.parametrize("tuning", TUNINGS, ids=repr)
def test_loaded_into_a_fresh_network_the_logits_are_the_same_bits(tmp_path, tuning):
    network = moved(made(tuning))
    save_trained(tmp_path / "it.safetensors", network)
    image = torch.rand(2, 1, 48, 48)
    fresh = made(tuning)
    assert not torch.equal(fresh(image), network(image))
    load_trained(tmp_path / "it.safetensors", fresh)
    assert torch.equal(fresh(image), network(image))
    assert torch.equal(made(tuning, trained=str(tmp_path / "it.safetensors"))(image), network(image))


@pytest.mark.parametrize("tuning", TUNINGS, ids=repr)
def test_the_file_holds_what_is_trained_and_nothing_else(tmp_path, tuning):
    network = made(tuning)
    save_trained(tmp_path / "it.safetensors", network)
    num_elements = sum(value.numel() for value in network.parameters() if value.requires_grad)
    assert 4 * num_elements < (tmp_path / "it.safetensors").stat().st_size < 4 * num_elements + 40_000


def test_every_entry_is_trained_or_frozen():
    for network in (made(Adapters()), UNet(norm="batch", base_channels=4, depth=1)):
        assert frozen(network).keys() | trained(network).keys() == network.state_dict().keys()
        assert not frozen(network).keys() & trained(network).keys()
    assert any("running_mean" in name for name in trained(network))


def test_other_frozen_weights_are_refused(tmp_path):
    save_trained(tmp_path / "it.safetensors", made(Adapters()))
    with pytest.raises(BadInput, match="trained beside other frozen weights"):
        load_trained(tmp_path / "it.safetensors", made(Adapters(), seed=1))


def test_another_network_is_refused(tmp_path):
    save_trained(tmp_path / "it.safetensors", made(Adapters()))
    with pytest.raises(
        BadInput, match=r"do not fit what is trained here, such as image_encoder.blocks.0.*network.tuning"
    ):
        load_trained(tmp_path / "it.safetensors", made(Adapters(last=2)))
    save(tmp_path / "half.safetensors", {"head.bias": torch.zeros(2)})
    with pytest.raises(BadInput, match="do not fit"):
        load_trained(tmp_path / "half.safetensors", made(Adapters()))


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "it.safetensors"
    save_trained(path, made(Adapters()))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadInput, match="damaged"):
        made(Adapters(), trained=str(path))
