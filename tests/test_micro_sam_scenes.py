"""Laws of the drawn scenes and of the prompts for what is in them."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import fedlit.micro_sam
from fedlit.micro_sam.batches import LUNG_BOXES, Batches
from fedlit.micro_sam.drawing import SIZE, blur, curve, fill, ring
from fedlit.micro_sam.prompts import INSIDE, MOST_POINTS, NO_POINT, OUTSIDE, box_of, jittered, points_of
from fedlit.micro_sam.scenes import KINDS, SMALLEST, scene

SCENES = [(kind, number) for kind in KINDS for number in range(6)]


def equal(first, second) -> bool:
    return (
        np.array_equal(first.picture, second.picture)
        and list(first.objects) == list(second.objects)
        and all(np.array_equal(first.objects[name], second.objects[name]) for name in first.objects)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_draws_one_scene_whatever_was_drawn_before(kind):
    first = scene(7, 3, kind)
    scene(7, 4, kind)
    assert equal(first, scene(7, 3, kind))
    assert not np.array_equal(first.picture, scene(7, 4, kind).picture)
    assert not np.array_equal(first.picture, scene(8, 3, kind).picture)


def test_kinds_come_in_their_shares():
    kinds = [scene(0, number).kind for number in range(150)]
    assert kinds.count("chest") / 150 == pytest.approx(KINDS["chest"][1], abs=0.1)
    assert set(kinds) == set(KINDS)


@pytest.mark.parametrize(("kind", "number"), SCENES)
def test_masks_fit_their_picture(kind, number):
    drawn = scene(1, number, kind)
    assert drawn.picture.shape == (SIZE, SIZE) and drawn.picture.dtype == np.float32
    assert 0 <= drawn.picture.min() < drawn.picture.max() <= 1
    for masks in drawn.objects.values():
        assert masks.dtype == bool and masks.shape[0] in (1, 2) and masks.shape[1:] == drawn.picture.shape
        assert masks.sum((1, 2)).min() >= SMALLEST


def test_both_conventions_of_a_lung_are_there():
    hidden = []
    for number in range(20):
        objects = scene(2, number, "chest").objects
        if not {"right lung", "left lung"} <= objects.keys():
            continue
        right, left = objects["right lung"], objects["left lung"]
        assert not (right[:, None] & left[None]).any()  # two lungs share no pixel
        for whole, seen in (right, left):
            assert not (seen & ~whole).any()
        hidden.append(1 - left[1].sum() / left[0].sum())
    assert len(hidden) > 15 and 0.1 < np.mean(hidden) < 0.4  # of the left lung, behind heart and vessels


def test_air_is_darker_than_what_lies_between_the_lungs():
    """So that pictures show what masks say; one in 25 is a negative, where it is the other way round."""
    is_darker = []
    for number in range(40):
        drawn = scene(3, number, "chest")
        if {"right lung", "left lung"} <= drawn.objects.keys():
            whole, seen = drawn.objects["lungs"]
            is_darker.append(drawn.picture[seen].mean() < drawn.picture[whole & ~seen].mean())
    assert 0.8 < np.mean(is_darker) < 1


def test_the_patients_right_lung_is_on_the_left():
    sides = []
    for number in range(30):
        objects = scene(4, number, "chest").objects
        if {"right lung", "left lung"} <= objects.keys():
            right, left = (np.nonzero(objects[name][0])[1].mean() for name in ("right lung", "left lung"))
            sides.append(right < left)
    assert np.mean(sides) > 0.8  # the others are seen in a mirror


def test_a_filled_outline_has_its_area_and_place():
    plane = fill(ring((0.25, -0.5), (0.5, 0.25)))
    rows, columns = np.indices(plane.shape)
    assert plane.sum() == pytest.approx(np.pi * 32 * 16, rel=0.02)
    assert (plane * columns).sum() / plane.sum() == pytest.approx(1.25 * 64 - 0.5, abs=0.5)
    assert (plane * rows).sum() / plane.sum() == pytest.approx(0.5 * 64 - 0.5, abs=0.5)


def test_a_curve_passes_through_its_points():
    points = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    assert np.allclose(curve(points)[::6], points)
    assert np.allclose(curve(points, closed=False)[[0, 6, 12, 18, -1]], points)


@pytest.mark.parametrize("sigma", [1.0, 4.0, 8.0])
def test_blur_keeps_the_sum_and_spreads_by_sigma(sigma):
    point = np.zeros((SIZE, SIZE), dtype=np.float32)
    point[60:68, 60:68] = 1
    soft, columns = blur(point, sigma), np.arange(SIZE)
    assert soft.sum() == pytest.approx(64, rel=0.01)
    middle = (soft.sum(0) * columns).sum() / soft.sum()
    spread = np.sqrt((soft.sum(0) * (columns - middle) ** 2).sum() / soft.sum())
    assert spread == pytest.approx(np.hypot(sigma, 8 / np.sqrt(12)), rel=0.12)


@pytest.mark.parametrize(("kind", "number"), SCENES)
def test_a_box_contains_its_mask_and_touches_it_on_every_side(kind, number):
    for mask in (mask for masks in scene(5, number, kind).objects.values() for mask in masks):
        left, top, right, bottom = box_of(mask).astype(int)
        inside = mask[top : bottom + 1, left : right + 1]
        assert inside.sum() == mask.sum()
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def test_edges_move_by_their_share_of_the_box():
    random, box = np.random.default_rng(0), np.array([40, 20, 79, 99], dtype=np.float32)
    assert np.array_equal(jittered(random, box, 0, (SIZE, SIZE)), box)
    moved = np.stack([jittered(random, box, 0.1, (SIZE, SIZE)) for _ in range(2000)])
    assert np.allclose((moved - box).std(0), [4, 8, 4, 8], rtol=0.06)
    wild = np.stack([jittered(random, box, 2, (SIZE, SIZE)) for _ in range(200)])
    assert wild.min() >= 0 and wild.max() <= SIZE - 1
    assert (wild[:, :2] <= wild[:, 2:]).all()


def test_points_say_truly_where_they_are():
    random, masks = np.random.default_rng(0), scene(6, 0, "chest").objects["left lung"]
    seen = set()
    for _ in range(100):
        places, labels = points_of(random, masks[0], least=0)
        for (x, y), label in zip(places.astype(int), labels, strict=True):
            if label != NO_POINT:
                assert masks[0][y, x] == (label == INSIDE)
        assert labels[0] != OUTSIDE
        seen.add(tuple(labels))
    assert (NO_POINT,) * MOST_POINTS in seen and (INSIDE, OUTSIDE, INSIDE) in seen
    assert all(points_of(random, masks[0], least=1)[1][0] == INSIDE for _ in range(20))


def test_a_batch_is_drawn_by_its_step():
    batches, kinds = Batches(seed=0, batch_size=2, num_prompts=3), set()
    for step in range(12):
        batch = batches[step]
        assert batch.image.shape == (2, 1, SIZE, SIZE) and batch.masks.shape == (2, 3, 2, SIZE, SIZE)
        kinds.add((batch.boxes is not None, batch.points is not None))
        again = batches[step]
        assert all(x is y is None or torch.equal(x, y) for x, y in zip(batch, again, strict=True))
    assert kinds == {(True, False), (False, True), (True, True)}
    assert not torch.equal(batches[0].image, batches[1].image)


def test_prior_boxes_hold_most_of_drawn_lungs():
    shares = []
    for number in range(40):
        objects = scene(9, number, "chest").objects
        for name, box in LUNG_BOXES.items():
            if name in objects:
                left, top, right, bottom = (round(edge * SIZE) for edge in box)
                shares.append(objects[name][0][top:bottom, left:right].sum() / objects[name][0].sum())
    assert np.mean(shares) > 0.75


def test_scenes_share_no_code_with_the_phantom_and_open_no_picture():
    folder = Path(fedlit.micro_sam.__file__).parent
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text())
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not [name for name in modules if name.startswith("fedlit.data")]
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & {"Image.open", "open", "np.load", "np.fromfile", "torch.load"}
