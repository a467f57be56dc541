"""Laws of outlines: what is counted without decoding is what loading finds."""

from __future__ import annotations

import numpy as np
import pytest

from fedlit.data import Manifest
from fedlit.data.outline import Outline, augmented_size
from fedlit.data.phantom import Phantom
from fedlit.data.reading import num_slices, read_image
from fedlit.errors import BadInput
from tests.conftest import write_manifest

RANDOM = np.random.default_rng(0)


def numbers(sites) -> list[Outline]:
    return [Outline(site.name, site.role, len(site.train), len(site.val), len(site.test)) for site in sites]


def patients(sites) -> list[int]:
    return [len({case.group for case in site.train.cases}) for site in sites]


@pytest.mark.parametrize("roles", [{}, {"unseen_sites": ["u"], "server_site": "c"}])
def test_a_manifest_is_outlined_as_it_loads(disc_data, roles):
    source = Manifest(str(disc_data), {"disc": 255})
    loaded = source.load(**roles)
    assert source.outline(**roles) == numbers(loaded)
    assert [each.patients for each in source.outline(**roles)] == patients(loaded)


@pytest.mark.parametrize("roles", [{}, {"unseen_sites": ["icu"], "server_site": "north"}])
def test_a_phantom_is_outlined_as_it_loads_and_not_drawn(tmp_path, roles):
    source = Phantom(size=32, scale=0.15, num_members=6, cache_dir=str(tmp_path / "cache"))
    outlined = source.outline(**roles)
    assert not (tmp_path / "cache").exists()
    loaded = source.load(**roles)
    assert outlined == numbers(loaded) and [each.patients for each in outlined] == patients(loaded)


def test_pictures_are_not_decoded(tmp_path):
    write_manifest(tmp_path, {"a": (3, 1, 1), "b": (2, 0, 1)})
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"")
    found = Manifest(str(tmp_path), {"disc": 255}).outline()
    assert found == [Outline("a", "member", 3, 1, 1), Outline("b", "member", 2, 0, 1)]


def test_what_is_wrong_with_the_manifest_is_said_as_in_loading(tmp_path, disc_data):
    for source, roles in [
        (Manifest(str(tmp_path / "nowhere"), {"disc": 255}), {}),
        (Manifest(str(disc_data), {"disc": 255}), {"unseen_sites": ["x"]}),
        (Manifest(str(disc_data), {"disc": 255}), {"unseen_sites": ["a", "b", "c", "u"]}),
        (Phantom(size=32, scale=0.1, cache_dir=str(tmp_path)), {"unseen_sites": ["x"]}),
        (Phantom(size=7), {}),
    ]:
        messages = []
        for function in (source.load, source.outline):
            with pytest.raises(BadInput) as caught:
                function(**roles)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def volume_files(folder) -> list:
    import nibabel

    paths = []
    for number, shape in enumerate([(8, 9), (8, 9, 3), (5, 8, 9), (5, 8, 9, 3)]):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], RANDOM.integers(0, 255, shape, np.uint8))
    for number, shape in enumerate([(8, 9), (8, 9, 4), (8, 9, 4, 1)]):
        for suffix in ("nii", "nii.gz"):
            paths.append(folder / f"{number}.{suffix}")
            image = RANDOM.integers(0, 255, shape).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), paths[-1])
    return paths


def test_slices_are_counted_by_the_header_as_they_are_read(tmp_path):
    counts = [(num_slices(path), len(read_image(path).array)) for path in volume_files(tmp_path)]
    assert counts == [(num, num) for num in (1, 1, 5, 5, 1, 1, 4, 4, 4, 4)]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npy"])
def test_a_header_that_cannot_be_read_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"a\.n.* unreadable or truncated"):
        num_slices(tmp_path / name)


CROP = {"_target_": "albumentations.RandomCrop", "height": 96, "width": 64}
FLIP = {"_target_": "albumentations.HorizontalFlip"}
TURN = {"_target_": "albumentations.RandomRotate90"}


@pytest.mark.parametrize(
    ("size", "augment", "expected"),
    [
        ((128, 100), None, (128, 100)),
        ((128, 100), [FLIP], (128, 100)),
        ((128, 100), [FLIP, CROP], (96, 64)),
        ((128, 100), [TURN], None),  # 128 x 100 or 100 x 128, by chance
        ((128, 128), [TURN], (128, 128)),
        (None, None, None),
        (None, [FLIP], None),
        (None, [CROP, FLIP], (96, 64)),
        (None, [{**CROP, "height": 5000}], None),
    ],
)
def test_the_size_after_augmentation(size, augment, expected):
    assert augmented_size(size, augment, channels=3) == expected


def test_a_crop_larger_than_the_picture_is_an_error():
    with pytest.raises(BadInput, match=r"data\.augment fails on a picture of shape \(64, 64, 1\)"):
        augmented_size((64, 64), [CROP])


def test_sources_know_the_size_they_train_on(disc_data):
    assert Manifest(str(disc_data), {"disc": 255}).training_size() is None
    assert Manifest(str(disc_data), {"disc": 255}, image_size=(48, 40)).training_size() == (48, 40)
    assert Phantom(size=64).training_size() == (64, 64)
    assert Phantom(size=64, image_size=32, augment=[FLIP]).training_size() == (32, 32)
