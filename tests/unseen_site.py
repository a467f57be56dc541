"""What a predictor is given at an unseen site, made by hand: a network, its members' models and unlabelled discs."""

from __future__ import annotations

import numpy as np
import torch

from fedlit.data.pictures import Case, Pictures, Unlabelled
from fedlit.messages import Expert, Server
from fedlit.prediction import Learnt
from fedlit.resident import Resident
from fedlit.weights import sha256
from tests.conftest import discs, make_network


def experts_of(network, names="abc", *, noise=0.1) -> dict[str, Expert]:
    """Members whose personal models are the network's weights with some noise; running variances stay positive."""
    entries = Resident(network).read()
    found = {}
    for name in names:
        generator = torch.Generator().manual_seed(ord(name))
        weights = {
            entry: value + noise * torch.rand(value.shape, generator=generator) for entry, value in entries.items()
        }
        found[name] = Expert(name, weights)
    return found


def at_unseen_site(network=None, *, experts=(), **options) -> Learnt:
    network = (make_network() if network is None else network).eval()
    resident = Resident(network)
    return Learnt(
        Server(resident.read()), network, resident, experts=dict(experts), **{"site": "u", "batch_size": 4, **options}
    )


def unlabelled(count=6, seed=3, size=32, **options) -> Unlabelled:
    return Pictures.from_arrays(*discs(count, seed, size=size), np.array([[0, 1]]), name="u", **options).unlabelled()


def exact(images: Unlabelled) -> Unlabelled:
    """The same pictures in float64, for laws that rounding would hide."""
    return Unlabelled(
        images.cases,
        lambda indices: images.images(indices).double(),
        size=images.size,
        channels=images.channels,
        name=images.name,
    )


def volumes(sizes=(3, 2)) -> Unlabelled:
    """Cases of several slices each."""
    pictures = unlabelled(sum(sizes))
    starts = np.cumsum([0, *sizes])
    pictures.cases = tuple(
        Case(f"v{place}", tuple(range(start, start + size)), f"p{place}", None, True)
        for place, (start, size) in enumerate(zip(starts, sizes, strict=False))
    )
    return pictures


def everything(images: Unlabelled) -> torch.Tensor:
    return images.images(range(len(images)))


@torch.inference_mode()
def predicted(model, images: Unlabelled) -> torch.Tensor:
    """As the federation asks: in inference mode."""
    return model(everything(images))


def state(learnt: Learnt) -> str:
    """One hash over what no predictor may change: the server's weights and the experts'."""
    return sha256(learnt.server.weights, *(learnt.experts[name].weights for name in sorted(learnt.experts)))
