"""Laws of the scores; their values against MONAI, torchmetrics and the definition over all pairs of pixels."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch

from fedlit.metrics import DISTANCES, METRICS, OVERLAP, Scoring, with_unit

SHAPES = [((13, 17), None), ((13, 17), (0.7, 2.5)), ((5, 9, 11), None), ((5, 9, 11), (3.0, 0.5, 0.8))]
every_shape = pytest.mark.parametrize(("shape", "spacing"), SHAPES)


def values(prediction, target, spacing=None, names=METRICS, **scoring):
    """name without unit -> value, of one class"""
    rows = Scoring(**scoring).score(prediction[None], target[None], spacing=spacing, names=names)
    return {name: value for name, (_, _, value) in zip(names, rows, strict=True)}


def blobs(shape, seed):
    """Random masks that overlap in part and touch the image border: smoothed noise, thresholded; and sparse noise."""
    from scipy.ndimage import uniform_filter

    random = np.random.default_rng(seed)
    for smoothing, share in ((3, 0.5), (5, 0.55), (1, 0.9), (3, 0.3)):
        noise = random.random((2, *shape))
        smooth = np.stack([uniform_filter(plane, smoothing) for plane in noise])
        prediction, target = smooth > np.quantile(smooth, share)
        if prediction.any() and target.any():
            yield prediction, target


def brute_force(prediction, target, spacing, tolerance=2.0):
    """The definitions, pixel by pixel."""
    steps = spacing or (1.0,) * prediction.ndim

    def surface(mask):
        points = []
        for point in zip(*np.nonzero(mask), strict=True):
            for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
                next_to = list(point)
                next_to[axis] += step
                if not 0 <= next_to[axis] < mask.shape[axis] or not mask[tuple(next_to)]:
                    points.append([index * length for index, length in zip(point, steps, strict=True)])
                    break
        return points

    def nearest(here, there):
        return [min(math.dist(a, b) for b in there) for a in here]

    def percentile95(distances):
        distances = sorted(distances)
        place = 0.95 * (len(distances) - 1)
        low = math.floor(place)
        high = min(low + 1, len(distances) - 1)
        return distances[low] + (place - low) * (distances[high] - distances[low])

    mine, theirs = surface(prediction), surface(target)
    forth, back = nearest(mine, theirs), nearest(theirs, mine)
    overlap = (prediction & target).sum()
    return {
        "dice": 2 * overlap / (prediction.sum() + target.sum()),
        "iou": overlap / (prediction | target).sum(),
        "hd95": max(percentile95(forth), percentile95(back)),
        "assd": sum(forth + back) / len(forth + back),
        "nsd": sum(distance <= tolerance for distance in forth + back) / len(forth + back),
    }


@pytest.fixture(scope="module")
def monai():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, at import
        return pytest.importorskip("monai.metrics", reason="the second implementation needs monai (extra: test)")


@every_shape
@pytest.mark.parametrize("seed", range(3))
def test_the_definition(shape, spacing, seed):
    for prediction, target in blobs(shape, seed):
        assert values(prediction, target, spacing) == pytest.approx(brute_force(prediction, target, spacing))


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")  # MONAI warns of its own call
@every_shape
@pytest.mark.parametrize("seed", range(3))
def test_monai_agrees(monai, shape, spacing, seed):
    for prediction, target in blobs(shape, seed):
        planes = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, target)]
        options = {"include_background": True, "spacing": spacing}
        found = {
            "dice": monai.compute_dice(*planes, include_background=True),
            "iou": monai.compute_iou(*planes, include_background=True),
            "hd95": monai.compute_hausdorff_distance(*planes, percentile=95, **options),
            "assd": monai.compute_average_surface_distance(*planes, symmetric=True, **options),
            "nsd": monai.compute_surface_dice(*planes, class_thresholds=[1.6], **options),
        }
        expected = {name: value.item() for name, value in found.items()}
        assert values(prediction, target, spacing, surface_tolerance=1.6) == pytest.approx(expected, rel=1e-5)


@every_shape
def test_torchmetrics_agrees_on_overlap(shape, spacing):
    from torchmetrics.functional.segmentation import dice_score, mean_iou

    for prediction, target in blobs(shape, 7):
        planes = [torch.from_numpy(mask)[None, None].int() for mask in (prediction, target)]
        scores = values(prediction, target, spacing, names=OVERLAP)
        assert scores["dice"] == pytest.approx(dice_score(*planes, num_classes=1, input_format="one-hot").item())
        assert scores["iou"] == pytest.approx(mean_iou(*planes, num_classes=1, input_format="one-hot").item())


@every_shape
def test_the_truth_is_perfect(shape, spacing):
    for mask, _ in blobs(shape, 1):
        assert values(mask, mask, spacing) == {"dice": 1, "iou": 1, "hd95": 0, "assd": 0, "nsd": 1}


@every_shape
def test_order_and_flips_do_not_matter(shape, spacing):
    for prediction, target in blobs(shape, 2):
        scores = values(prediction, target, spacing)
        assert values(target, prediction, spacing) == pytest.approx(scores)
        for axis in range(len(shape)):
            assert values(np.flip(prediction, axis), np.flip(target, axis), spacing) == pytest.approx(scores)
        turned = None if spacing is None else spacing[::-1]
        assert values(prediction.T, target.T, turned) == pytest.approx(scores)


@every_shape
def test_distances_grow_with_the_spacing_and_shares_do_not(shape, spacing):
    for prediction, target in blobs(shape, 3):
        scores = values(prediction, target, spacing)
        wide = values(
            prediction, target, tuple(3 * step for step in spacing or (1.0,) * len(shape)), surface_tolerance=6.0
        )
        expected = {name: value * 3 if name in DISTANCES else value for name, value in scores.items()}
        assert wide == pytest.approx(expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_shift_by_one_pixel_is_off_by_its_length(axis):
    line = np.zeros((12, 12), bool)
    line[(slice(2, 10), 5) if axis else (5, slice(2, 10))] = True
    scores = values(line, np.roll(line, 1, axis), (0.5, 4.0))
    assert scores["hd95"] == scores["assd"] == (0.5, 4.0)[axis]
    assert scores["nsd"] == (1, 0)[axis] and scores["dice"] == 0


def test_a_tolerance_that_is_met_exactly_counts():
    point = np.zeros((40, 40), bool)
    point[4, 4] = True
    assert values(point, np.roll(point, 3, 0), (0.1, 0.1), names=["nsd"], surface_tolerance=0.3)["nsd"] == 1
    assert values(point, np.roll(point, 4, 0), (0.1, 0.1), names=["nsd"], surface_tolerance=0.3)["nsd"] == 0


def test_outside_the_image_is_background():
    full, hollow = np.ones((6, 6), bool), np.ones((6, 6), bool)
    hollow[1:5, 1:5] = False
    assert values(full, hollow)["hd95"] == 0  # a full image has its rim as surface


@every_shape
def test_a_missed_organ_never_beats_a_prediction(shape, spacing):
    nothing = np.zeros(shape, bool)
    corner, opposite = nothing.copy(), nothing.copy()
    corner[(0,) * len(shape)] = opposite[(-1,) * len(shape)] = True
    for prediction, target in [*blobs(shape, 4), (corner, opposite)]:
        missed, some = values(nothing, target, spacing), values(prediction, target, spacing)
        assert missed["dice"] <= some["dice"] and missed["iou"] <= some["iou"] and missed["nsd"] <= some["nsd"]
        assert missed["hd95"] > some["hd95"] and missed["assd"] > some["assd"]
        assert values(target, nothing, spacing) == missed  # nor does an invented one


def test_empty_rules():
    nothing, something = np.zeros((3, 4), bool), np.eye(3, 4, dtype=bool)
    assert all(math.isnan(value) for value in values(nothing, nothing).values())
    perfect = {"dice": 1, "iou": 1, "hd95": 0, "assd": 0, "nsd": 1}
    assert values(nothing, nothing, empty_both="perfect") == perfect
    assert values(nothing, something) == {"dice": 0, "iou": 0, "hd95": 5, "assd": 5, "nsd": 0}
    assert values(nothing, something, (2.0, 2.0))["hd95"] == 10
    assert all(math.isnan(value) for value in values(nothing, something, empty_one="exclude").values())
    assert all(math.isnan(value) for value in values(something, nothing, empty_one="exclude").values())


def test_classes_are_scored_apart_and_columns_say_the_unit():
    prediction, target = np.zeros((2, 2, 8, 8), bool)
    prediction[0, 2:5], target[0, 2:5] = True, True
    target[1, 4] = True
    scoring = Scoring(test=("dice", "hd95"))
    diagonal = math.hypot(8, 8)
    rows = [(0, "dice", 1), (0, "hd95_px", 0), (1, "dice", 0), (1, "hd95_px", diagonal)]
    assert scoring.score(prediction, target, names=scoring.test) == rows
    assert [with_unit(name, (1.0, 1.0)) for name in METRICS] == ["dice", "iou", "hd95_mm", "assd_mm", "nsd_mm"]
    assert [with_unit(name, None) for name in METRICS] == ["dice", "iou", "hd95_px", "assd_px", "nsd_px"]


def test_a_volume_of_one_slice_is_a_picture():
    for prediction, target in blobs((13, 17), 5):
        volume = Scoring().score(prediction[None, None], target[None, None], spacing=(9.0, 1.0, 2.0), names=METRICS)
        assert volume == Scoring().score(prediction[None], target[None], spacing=(1.0, 2.0), names=METRICS)


def test_overlap_alone_does_no_surface_work(monkeypatch):
    monkeypatch.setattr("fedlit.metrics.surface_distances", None)
    mask = np.ones((1, 4, 4), bool)
    assert Scoring().score(mask, mask, names=OVERLAP) == [(0, "dice", 1), (0, "iou", 1)]


def test_masks_are_left_as_they_were_and_may_be_views():
    planes = torch.rand(6, 2, 9, 9) > 0.5  # slices first, as a network returns them
    prediction, target = planes.transpose(0, 1).numpy(), ~planes.transpose(0, 1).numpy()
    prediction.flags.writeable = target.flags.writeable = False
    found = Scoring().score(prediction, target, names=METRICS)
    assert found == Scoring().score(prediction.copy(), target.copy(), names=METRICS)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"empty_both": "one"}, "metrics.empty_both='one' is not allowed; use exclude or perfect"),
        ({"empty_one": "perfect"}, "metrics.empty_one='perfect' is not allowed; use worst or exclude"),
        ({"surface_tolerance": -1.0}, "metrics.surface_tolerance=-1.0"),
        ({"validation": ("dice", "auc")}, "metrics.validation=.*use a list from dice, iou, hd95, assd, nsd"),
        ({"test": "dice"}, "metrics.test='dice'"),
        ({"test": []}, "metrics.test="),
        ({"test": ["dice", "dice"]}, "metrics.test="),
    ],
)
def test_wrong_settings_are_named(wrong, named):
    with pytest.raises(ValueError, match=named):
        Scoring(**wrong)


def test_lists_from_a_config_are_values():
    assert Scoring(test=["dice"]) == Scoring(test=("dice",))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prediction": np.zeros((1, 4, 4), np.uint8)}, r"prediction is uint8 \[1, 4, 4\]; use bool"),
        ({"target": np.zeros((1, 4, 5), bool)}, r"target is bool \[1, 4, 5\]"),
        ({"prediction": np.zeros((4, 4), bool)}, "use bool"),
        ({"spacing": (1.0, 1.0, 1.0)}, "use 2 lengths in mm"),
        ({"spacing": (1.0, 0.0)}, "use 2 lengths in mm"),
        ({"names": ("dice", "auc")}, "unknown metric auc; use dice, iou"),
    ],
)
def test_wrong_masks_are_named(arguments, named):
    mask = np.ones((1, 4, 4), bool)
    call = {"prediction": mask, "target": mask, "names": ("dice",)} | arguments
    with pytest.raises(ValueError, match=named):
        Scoring().score(call.pop("prediction"), call.pop("target"), **call)
