"""Laws of the cache of frozen features: it changes no result, and forgets what no longer holds."""

from __future__ import annotations

import logging

import pytest
import torch

from fedlit.errors import BadInput
from fedlit.losses import DiceBCE
from fedlit.networks import SAM, Adapters, DecoderOnly, LoRA
from fedlit.networks.feature_cache import FeatureCache


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(tuning=None, *, cache="fp32", seed=0):
    torch.manual_seed(seed)
    return SAM(1, 1, size="micro", tuning=tuning or DecoderOnly(), cache=cache)


def images(seed=0, count=3):
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


def calls(network) -> list[int]:
    """How many pictures each pass through the patches saw, from now on."""
    seen = []
    network.image_encoder.patch_embed.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    return seen


def files(folder):
    return sorted(folder.glob("features/*/*.safetensors"))


@pytest.mark.parametrize("tuning", [DecoderOnly(), Adapters(last=2), LoRA(blocks=[3])], ids=repr)
def test_it_changes_no_logit_and_no_gradient(tuning):
    cached, plain = made(tuning), made(tuning, cache=None)
    for _ in range(2):  # the first fills it
        found, expected = cached(images()), plain(images())
        torch.testing.assert_close(found, expected)
        gradients = []
        for network, logits in ((cached, found), (plain, expected)):
            network.zero_grad()
            DiceBCE()(logits, torch.ones(3, 1, 32, 32)).backward()
            gradients.append({name: value.grad for name, value in network.named_parameters() if value.requires_grad})
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradient, gradients[1][name], msg=name)


@pytest.mark.parametrize("cache", ["fp32", "bf16"])
def test_what_is_read_is_bit_for_bit_what_was_computed_whatever_the_batch(cache):
    network = made(cache=cache)
    seen = calls(network)
    first = network(images())
    assert seen == [1, 1, 1]
    alone = torch.cat([made(cache=cache).encode(image[None]) for image in images()])
    assert torch.equal(network.encode(images()), alone) and torch.equal(network(images()), first)
    assert seen == [1, 1, 1]


def test_bf16_takes_half_the_room_and_is_rounded_before_it_is_used_at_all(own_cache):
    network = made(cache="bf16")
    assert torch.equal(network.encode(images()), network.encode(images()).bfloat16().float())
    half = sum(path.stat().st_size for path in files(own_cache))
    made(cache="fp32").encode(images())
    assert half < 0.55 * (sum(path.stat().st_size for path in files(own_cache)) - half)


def test_another_picture_another_weight_another_precision_is_computed(own_cache):
    network = made()
    seen = calls(network)
    network.encode(images())
    network.encode(images().flip(-1))  # as augmentation would change it
    assert seen == [1] * 6
    with torch.no_grad():
        network.image_encoder.blocks[0].norm1.bias += 0.1
    network.encode(images())
    assert seen == [1] * 9
    with torch.autocast("cpu", torch.bfloat16):
        network.encode(images())
    assert seen == [1] * 12 and len(files(own_cache)) == 12
    other = made(seed=1)
    assert not torch.equal(other.encode(images()), made(seed=1, cache=None).encode(images()) + 1)
    assert len(files(own_cache)) == 15


def test_training_what_comes_after_forgets_nothing(own_cache):
    network = made(Adapters(last=1))
    seen = calls(network)
    optimizer = torch.optim.SGD([value for value in network.parameters() if value.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network(images()).square().mean().backward()
        optimizer.step()
    assert seen == [1, 1, 1] and len(files(own_cache)) == 3


def test_only_the_owner_may_enter(own_cache):
    made().encode(images())
    assert {path.parent.stat().st_mode & 0o777 for path in files(own_cache)} == {0o700}


def test_a_truncated_file_is_computed_again_and_said(own_cache, caplog):
    network = made()
    expected = network.encode(images())
    path = files(own_cache)[0]
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(network.encode(images()), expected)
    assert "computing it again" in caplog.text and str(path) in caplog.text
    caplog.clear()
    assert torch.equal(network.encode(images()), expected) and not caplog.text


def test_it_stops_growing_and_says_so_once(tmp_path, caplog):
    weight = torch.ones(3)
    cache = FeatureCache("fp32", lambda: {"weight": weight}, most_bytes=300, root=tmp_path)
    with caplog.at_level(logging.WARNING):
        for seed in range(5):
            picture = images(seed, count=1)
            assert torch.equal(cache(lambda image: 2 * image, picture), 2 * picture)
    assert len(files(tmp_path)) == 1 and caplog.text.count("is full") == 1


def test_no_room_is_one_clear_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = FeatureCache("fp32", lambda: {}, root=blocked)
    with pytest.raises(BadInput, match="cannot be written"):
        cache(lambda image: image, images())


def test_a_plan_touches_no_disk(own_cache):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        assert made().cache is None
    network = made()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert network.encode(mode.from_tensor(images())).shape == (3, 96, 4, 4)
    assert not files(own_cache)
