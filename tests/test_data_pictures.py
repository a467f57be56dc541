"""Laws of fedlit/data/pictures.py, request.py and site.py."""

from __future__ import annotations

import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from fedlit.data import Manifest, Pictures, Site
from fedlit.data.augmentation import Augmentation
from fedlit.errors import BadInput

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (7, 12, 10, 3), np.uint8)
MASKS = RANDOM.integers(0, 3, (7, 12, 10), np.uint8)
FLIP = Augmentation(({"_target_": "albumentations.HorizontalFlip", "p": 0.5},))


def test_a_batch_has_the_promised_shapes_types_and_values():
    pictures = Pictures.from_arrays(IMAGES, MASKS)
    batch = pictures.batch([4, 0, 4])
    assert (pictures.num_classes, pictures.channels, len(pictures), pictures.size) == (2, 3, 7, (12, 10))
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()} == {
        "image": (torch.float32, (3, 3, 12, 10)),
        "target": (torch.float32, (3, 2, 12, 10)),
        "index": (torch.int64, (3,)),
    }
    assert batch["index"].tolist() == [4, 0, 4]
    assert batch["image"].is_contiguous()
    assert np.array_equal(batch["image"].numpy(), IMAGES[[4, 0, 4]].transpose(0, 3, 1, 2) / np.float32(255))
    assert np.array_equal(batch["target"].numpy(), np.stack([MASKS[[4, 0, 4]] == code for code in (1, 2)], axis=1))
    assert torch.equal(pictures.images(np.array([4, 0, 4])), batch["image"])


def test_planes_follow_the_table_and_may_overlap():
    pictures = Pictures.from_arrays(IMAGES, MASKS, [[0, 1, 0], [0, 1, 1], [0, 0, 0]])
    target = pictures.batch(range(7))["target"].numpy()
    assert np.array_equal(target, np.stack([MASKS == 1, MASKS > 0, MASKS > 9], axis=1))


def test_from_arrays_sorts_by_id():
    ids = list("gbadcfe")
    pictures = Pictures.from_arrays(IMAGES, MASKS, ids=ids, groups=[name * 2 for name in ids], spacing=(1.0, 2.0))
    assert [(case.id, case.indices, case.group, case.spacing) for case in pictures.cases[:2]] == [
        ("a", (0,), "aa", (1.0, 2.0)),
        ("b", (1,), "bb", (1.0, 2.0)),
    ]
    assert torch.equal(pictures.images([0]), Pictures.from_arrays(IMAGES, MASKS).images([2]))


def test_no_pictures_are_a_set_too():
    pictures = Pictures.from_arrays(IMAGES[:0], MASKS[:0])
    assert (len(pictures), pictures.cases, pictures.size) == (0, (), None)


def test_wrong_arrays_are_refused():
    for images, masks in ((IMAGES[..., 0], MASKS), (IMAGES.astype(np.float32), MASKS), (IMAGES, MASKS[1:])):
        with pytest.raises(BadInput, match="needs uint8 or uint16"):
            Pictures.from_arrays(images, masks)


def test_augmentation_happens_with_seeds_only_and_per_picture():
    pictures = Pictures.from_arrays(IMAGES, MASKS, augmentation=FLIP)
    clean = pictures.batch(range(7))
    seeds = [seed * 7 for seed in range(7)]
    mixed = pictures.batch(range(7), seeds)
    flipped = [not torch.equal(a, b) for a, b in zip(clean["image"], mixed["image"], strict=True)]
    assert 0 < sum(flipped) < 7
    for index, is_flipped in enumerate(flipped):
        for name in ("image", "target"):
            assert torch.equal(mixed[name][index], clean[name][index].flip(2) if is_flipped else clean[name][index])
        alone = pictures.batch([index], [seeds[index]])
        assert torch.equal(alone["image"][0], mixed["image"][index])


def test_seeds_without_transforms_change_nothing():
    pictures = Pictures.from_arrays(IMAGES, MASKS)
    assert torch.equal(pictures.batch([1, 2], [5, 6])["image"], pictures.batch([1, 2])["image"])


def test_unlabelled_pictures_have_no_targets():
    pictures = Pictures.from_arrays(IMAGES, MASKS)
    view = pictures.unlabelled()
    assert (len(view), view.cases) == (7, pictures.cases)
    assert torch.equal(view.images([3]), pictures.images([3]))
    with pytest.raises(AssertionError, match="labels"):
        view.batch([3])


def test_images_never_touch_masks(monkeypatch):
    from fedlit.data.pack import Pack

    monkeypatch.setattr(Pack, "codes", lambda *_: pytest.fail("a mask was touched"))
    Pictures.from_arrays(IMAGES, MASKS).images([0])


def test_pooled_pictures_are_those_of_the_parts():
    left = Pictures.from_arrays(IMAGES[:3], MASKS[:3], [[0, 0, 1]], name="a")
    right = Pictures.from_arrays(IMAGES[3:], MASKS[3:], [[0, 0, 1]], name="b", augmentation=FLIP)
    pooled = Pictures.pooled([left, right])
    whole = Pictures.from_arrays(IMAGES, MASKS, [[0, 0, 1]])
    order = [6, 0, 3, 2, 5]
    for name in ("image", "target", "index"):
        assert torch.equal(pooled.batch(order)[name], whole.batch(order)[name])
    assert [case.id for case in pooled.cases[2:4]] == ["a/000002", "b/000000"]
    assert [case.indices for case in pooled.cases] == [(index,) for index in range(7)]
    assert pooled.cases[3].group == "b/000000"
    with pytest.raises(BadInput, match="channels or classes"):
        Pictures.pooled([left, Pictures.from_arrays(IMAGES, MASKS)])


@pytest.fixture
def mixed(tmp_path):
    """A site whose pictures have two sizes, and one volume of four slices."""
    rows = ["site,image,mask,split,group"]
    for number, size in enumerate([(16, 16), (16, 20), (16, 16)]):
        Image.fromarray(RANDOM.integers(0, 256, size, np.uint8)).save(tmp_path / f"i{number}.png")
        Image.fromarray(RANDOM.integers(0, 2, size, np.uint8)).save(tmp_path / f"m{number}.png")
        rows.append(f"s,i{number}.png,m{number}.png,train,p{number}")
    volume = RANDOM.integers(0, 1000, (16, 16, 4)).astype(np.int16)
    mask = np.zeros(volume.shape, np.uint8)
    mask[2:5, 3:9, 1:3] = 1  # the outer slices are empty
    for name, array in (("v", volume), ("w", mask)):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([0.5, 0.75, 3, 1])), tmp_path / f"{name}.nii.gz")
    rows.append("s,v.nii.gz,w.nii.gz,train,q")
    (tmp_path / "sites.csv").write_text("\n".join(rows))
    return tmp_path, mask


def loaded(root, **settings) -> Pictures:
    return Manifest(str(root), {"x": 1}, **settings).load()[0].train


def test_a_volume_is_one_case_of_all_its_slices(mixed):
    root, mask = mixed
    pictures = loaded(root)
    assert [(case.id, case.indices, case.is_volume) for case in pictures.cases] == [
        ("i0.png", (0,), False),
        ("i1.png", (1,), False),
        ("i2.png", (2,), False),
        ("v.nii.gz", (3, 4, 5, 6), True),
    ]
    case = pictures.cases[3]
    assert case.spacing == (3.0, 0.75, 0.5)
    assert np.array_equal(pictures.batch(case.indices)["target"][:, 0].numpy(), mask.T)
    half = loaded(root, image_size=8)
    assert (half.size, half.cases[3].spacing) == ((8, 8), (3.0, 1.5, 1.0))


def test_different_sizes_are_explained_and_a_crop_or_a_size_cures_them(mixed):
    root, _ = mixed
    pictures = loaded(root)
    assert pictures.size is None
    assert pictures.batch([0, 2, 3])["image"].shape == (3, 1, 16, 16)
    for ask in (pictures.batch, pictures.images, lambda indices: pictures.batch(indices, None)):
        with pytest.raises(
            BadInput, match=r"different sizes in one batch \(16x16, 16x20\); set data\.image_size=.*crop"
        ):
            ask([0, 1])
    cropped = loaded(root, augment=[{"_target_": "albumentations.RandomCrop", "height": 8, "width": 8}])
    assert cropped.batch([0, 1, 4], [1, 2, 3])["image"].shape == (3, 1, 8, 8)
    flipped = loaded(root, augment=[{"_target_": "albumentations.HorizontalFlip"}])
    with pytest.raises(BadInput, match="after augmentation"):
        flipped.batch([0, 1], [1, 2])
    assert loaded(root, image_size=(12, 8)).batch(range(7))["target"].shape == (7, 1, 12, 8)


def test_only_training_pictures_are_augmented(mixed):
    root, _ = mixed
    text = (root / "sites.csv").read_text().replace("i1.png,m1.png,train", "i1.png,m1.png,val")
    (root / "sites.csv").write_text(text)
    (site,) = Manifest(str(root), {"x": 1}, augment=[{"_target_": "albumentations.VerticalFlip", "p": 1.0}]).load()
    assert site.train.augmentation and not site.val.augmentation and not site.test.augmentation


def test_a_site_counts_its_training_pictures():
    parts = [Pictures.from_arrays(IMAGES[:count], MASKS[:count], [[0, 1, 1]]) for count in (4, 2, 1)]
    assert Site("a", "member", *parts, "a").num_samples == 4


def test_heavy_libraries_wait_until_they_are_needed():
    heavy = ("albumentations", "nibabel", "cv2", "scipy", "PIL")
    code = f"import sys, fedlit.data; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
