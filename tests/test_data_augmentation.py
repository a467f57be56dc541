"""Laws of fedlit/data/augmentation.py."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from fedlit.data.augmentation import Augmentation
from fedlit.errors import BadInput

IMAGE = np.random.default_rng(0).random((32, 32, 1), np.float32)
MASK = (np.random.default_rng(1).random((32, 32)) > 0.5).astype(np.uint8)


def node(name: str, **arguments) -> dict:
    return {"_target_": f"albumentations.{name}", **arguments}


MANY = (
    node("HorizontalFlip", p=0.5),
    node("Affine", rotate=[-20, 20], scale=[0.8, 1.2], p=0.7),
    node("OneOf", transforms=[node("GaussNoise", p=1.0), node("GaussianBlur", p=1.0)], p=0.8),
    node("ElasticTransform", p=0.5),
    node("RandomBrightnessContrast", p=0.5),
    node("CoarseDropout", p=0.5),
    node("RandomCrop", height=24, width=24, p=1.0),
)


def test_the_same_seed_gives_the_same_picture_whatever_came_before():
    augmentation = Augmentation(MANY)
    first = [augmentation(IMAGE, MASK, seed) for seed in range(20)]
    for seed in reversed(range(20)):
        image, mask = augmentation(IMAGE, MASK, seed)
        assert np.array_equal(image, first[seed][0]) and np.array_equal(mask, first[seed][1])
    assert len({image.tobytes() for image, _ in first}) == 20


def test_global_generators_are_neither_used_nor_moved():
    import random

    augmentation = Augmentation(MANY)
    np.random.seed(0)
    random.seed(0)
    before = augmentation(IMAGE, MASK, 5)[0]
    assert random.random() == random.Random(0).random()
    np.random.seed(1)
    assert np.array_equal(before, augmentation(IMAGE, MASK, 5)[0])


def _in_another_process(augmentation: Augmentation) -> list:
    return [augmentation(IMAGE, MASK, seed) for seed in (3, 2**63 - 1)]


def test_another_process_gives_the_same_pictures():
    augmentation = Augmentation(MANY)
    here = _in_another_process(augmentation)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(_in_another_process, augmentation).result(60)
    for (image, mask), (other_image, other_mask) in zip(here, there, strict=True):
        assert np.array_equal(image, other_image) and np.array_equal(mask, other_mask)


def test_transforms_draw_independently():
    """albumentations' own seeding gives each the same stream: both flips would always agree."""
    flips = Augmentation((node("HorizontalFlip", p=0.5), node("VerticalFlip", p=0.5)))
    line = np.arange(4, dtype=np.float32).reshape(2, 2, 1) / 3
    found = {flips(line, np.zeros((2, 2), np.uint8), seed)[0].tobytes() for seed in range(40)}
    assert len(found) == 4


def test_image_and_mask_move_together_and_keep_their_types():
    augmentation = Augmentation((node("Affine", rotate=[-30, 30], p=1.0), node("HorizontalFlip", p=0.5)))
    mask = np.zeros((32, 32), np.uint8)
    mask[4:14, 6:20] = 3
    image = (mask / 3).astype(np.float32)[..., None]
    for seed in range(10):
        changed, codes = augmentation(image, mask, seed)
        assert (changed.dtype, changed.shape, codes.dtype, codes.shape) == (np.float32, (32, 32, 1), np.uint8, (32, 32))
        assert set(np.unique(codes)) <= {0, 3}
        assert ((changed[..., 0] > 0.5) != (codes == 3)).mean() < 0.03


def test_the_image_stays_in_the_unit_range_and_inputs_are_untouched():
    image, mask = IMAGE.copy(), MASK.copy()
    augmentation = Augmentation(
        (node("Sharpen", p=1.0), node("RandomBrightnessContrast", brightness_limit=[0.5, 0.5], p=1))
    )
    changed, _ = augmentation(image, mask, 0)
    assert changed.min() >= 0 and changed.max() <= 1
    assert np.array_equal(image, IMAGE) and np.array_equal(mask, MASK)


def test_objects_already_built_do_the_same_also_after_a_journey():
    import albumentations

    built = Augmentation((albumentations.HorizontalFlip(p=0.5), albumentations.GaussNoise(p=1.0)))
    nodes = Augmentation((node("HorizontalFlip", p=0.5), node("GaussNoise", p=1.0)))
    for seed in range(4):
        expected = nodes(IMAGE, MASK, seed)[0]
        assert np.array_equal(built(IMAGE, MASK, seed)[0], expected)
        assert np.array_equal(pickle.loads(pickle.dumps(built))(IMAGE, MASK, seed)[0], expected)


def test_nodes_of_omegaconf_compare_and_travel_as_plain_ones():
    from omegaconf import OmegaConf

    nodes = OmegaConf.create([dict(one) for one in MANY])
    augmentation = Augmentation(tuple(nodes))
    assert augmentation == Augmentation(MANY) == pickle.loads(pickle.dumps(augmentation))


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"_target_": "os.system", "command": "true"}, "_target_='os.system' is no transform"),
        ({"_target_": "albumentations.os.system"}, "is no transform"),
        ({"_target_": "albumentations.Compose2"}, "is no transform"),
        ({"_target_": "albumentations.load"}, "is no transform"),
        ({"_target_": "albumentations.core.os"}, "is no transform"),
        ({"_target_": 5}, "is no transform"),
        (node("HorizontalFlip", prob=0.5), "albumentations.HorizontalFlip: .*prob"),
        (node("HorizontalFlip", p="often"), "albumentations.HorizontalFlip"),
        (node("RandomCrop"), "albumentations.RandomCrop"),
        ({"target": "albumentations.HorizontalFlip"}, "is no transform; write a node with _target_"),
        ("albumentations.HorizontalFlip", "is no transform"),
        (node("Normalize"), "does not keep an image in"),
        (node("OneOf", transforms=[{"_target_": "os.system"}]), "'os.system' is no transform"),
    ],
)
def test_bad_nodes_are_named(bad, expected):
    (problem,) = Augmentation((node("HorizontalFlip"), bad)).check()
    assert problem.startswith("data.augment[1]: ")
    with pytest.raises(BadInput, match=expected):
        Augmentation((bad,))(IMAGE, MASK, 0)


def test_good_nodes_have_no_problems():
    assert Augmentation(MANY).check() == []


def test_a_transform_that_does_not_fit_the_picture_is_explained():
    with pytest.raises(BadInput, match=r"data\.augment fails on a picture of shape \(32, 32, 1\)"):
        Augmentation((node("RandomCrop", height=64, width=64),))(IMAGE, MASK, 0)
