"""Laws of fedlit/data/loading.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedlit.data import Pictures
from fedlit.data.augmentation import Augmentation
from fedlit.data.loading import Loader
from fedlit.errors import BadInput

RANDOM = np.random.default_rng(0)
AUGMENTATION = Augmentation(
    (
        {"_target_": "albumentations.Affine", "rotate": [-20, 20], "p": 0.5},
        {"_target_": "albumentations.GaussNoise", "p": 0.5},
    )
)


def pictures(num: int, size: int = 16, augmentation: Augmentation | None = AUGMENTATION) -> Pictures:
    images = RANDOM.integers(0, 256, (num, size, size, 1), np.uint8)
    return Pictures.from_arrays(images, images[..., 0] // 128, [[0, 1]], augmentation=augmentation)


def requests(num: int, epoch: int) -> list:
    """A shuffled pass in batches of 4, with a seed for each picture."""
    order = np.random.default_rng(epoch).permutation(num).tolist()
    batches = [order[start : start + 4] for start in range(0, num, 4)]
    return [(batch, [index * 100 + epoch for index in batch]) for batch in batches]


@pytest.fixture(scope="module")
def workers():
    loader = Loader(2)
    yield loader
    loader.close()


def test_no_workers_read_here():
    some = pictures(9)
    for got, (indices, seeds) in zip(Loader().batches(some, requests(9, 0)), requests(9, 0), strict=True):
        assert all(torch.equal(got[name], value) for name, value in some.batch(indices, seeds).items())


def test_workers_give_the_same_batches_in_the_same_order_and_leave_randomness_alone(workers):
    sites = [pictures(9), pictures(21, size=24)]
    before = torch.random.get_rng_state()
    for epoch in range(2):
        for site in sites:  # one pool serves all sites
            there = list(workers.batches(site, requests(len(site), epoch)))
            here = list(Loader().batches(site, requests(len(site), epoch)))
            assert len(there) == len(here)
            for one, other in zip(there, here, strict=True):
                assert all(torch.equal(one[name], other[name]) for name in ("image", "target", "index"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_pass_left_early_does_not_disturb_the_next(workers):
    some = pictures(40)
    for _ in workers.batches(some, requests(40, 0)):
        break
    got = [batch["index"].tolist() for batch in workers.batches(some, requests(40, 1))]
    assert got == [indices for indices, _ in requests(40, 1)]


def test_an_error_arrives_as_in_this_process(workers):
    crop = Augmentation(({"_target_": "albumentations.RandomCrop", "height": 99, "width": 99},))
    some = pictures(4, augmentation=crop)
    errors = []
    for loader in (Loader(), workers):
        with pytest.raises(BadInput) as caught:
            list(loader.batches(some, requests(4, 0)))
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert len(list(workers.batches(pictures(4), requests(4, 0)))) == 1


def test_two_passes_at_once_are_our_mistake(workers):
    some = pictures(40)
    first = workers.batches(some, requests(40, 0))
    next(first)
    next(workers.batches(some, requests(40, 1)))
    with pytest.raises(AssertionError, match="second pass"):
        list(first)
