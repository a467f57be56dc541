"""Volumes: slices in files of their own are scored as the body that they were, in mm, and slice by slice beside it."""

import csv
import math

import numpy as np
import pytest

from fedlit.data import Manifest
from fedlit.errors import BadInput
from fedlit.iopfl_score import IOPFL, iopfl_scores
from fedlit.metrics import METRICS, PER_SLICE, Scoring, placed
from fedlit.report.tables import metric_name
from tests.preparation_sources import noise, prepare, prostate_volumes, save, square

SPACING = (3.0, 0.5, 0.8)


def values(prediction, target, names=METRICS, spacing=SPACING, numbers=(), **scoring):
    """name -> value of one class."""
    rows = Scoring(**scoring).score(prediction[None], target[None], spacing=spacing, names=names, numbers=numbers)
    return {name: value for name, (_, _, value) in zip(names, rows, strict=True)}


@pytest.mark.parametrize("numbers", [(), (4, 5, 6, 7), (0, 2, 3, 9)])
def test_slices_to_a_volume_and_back_is_the_identity(numbers):
    slices = np.random.default_rng(0).random((4, 5, 6)) > 0.5
    volume = placed(slices, numbers)
    places = np.array(numbers or range(4))
    assert np.array_equal(volume[places - places[0]], slices) and volume.sum() == slices.sum()
    assert len(volume) == places[-1] - places[0] + 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_by_one_voxel_is_off_by_the_spacing(axis):
    plate = np.zeros((9, 9, 9), bool)
    plate[tuple(4 if each == axis else slice(2, 7) for each in range(3))] = True
    assert values(plate, plate) == {"dice": 1, "iou": 1, "hd95": 0, "assd": 0, "nsd": 1}
    shifted = values(np.roll(plate, 1, axis), plate)
    assert shifted["hd95"] == pytest.approx(SPACING[axis]) == shifted["assd"] and shifted["dice"] == 0


def test_missing_slices_are_background_of_the_volume_and_no_slices():
    mask, other = np.random.default_rng(1).random((2, 4, 8, 8)) > 0.9
    numbers = (2, 3, 5, 6)
    whole = [np.insert(each, 2, False, axis=0) for each in (mask, other)]
    assert values(mask, other, numbers=numbers) == values(*whole)
    apart = np.zeros((2, 4, 8, 8), bool)
    apart[0, 1, 2:6, 2:6] = apart[1, 2, 2:6, 2:6] = True
    assert values(*apart, numbers=numbers)["hd95"] == 2 * SPACING[0] == 2 * values(*apart)["hd95"]
    assert values(mask[:1], other[:1], numbers=(7,)) == values(mask[0], other[0], spacing=SPACING[1:])
    further = (*PER_SLICE, *IOPFL)
    assert values(mask, other, further, numbers=numbers) == values(mask, other, further)


def test_per_slice_is_the_mean_of_pictures():
    mask, other = np.random.default_rng(2).random((2, 5, 8, 8)) > 0.6
    found = values(mask, other, PER_SLICE)
    alone = [values(*pair, spacing=SPACING[1:]) for pair in zip(mask, other, strict=True)]
    for name in METRICS:
        assert found[f"{name}_per_slice"] == pytest.approx(np.mean([each[name] for each in alone]))
    assert values(mask[0], other[0], PER_SLICE, SPACING[1:]) == pytest.approx(
        {f"{name}_per_slice": value for name, value in alone[0].items()}
    )
    names = [name for _, name, _ in Scoring().score(mask[None], other[None], spacing=SPACING, names=PER_SLICE)]
    assert names == ["dice_per_slice", "iou_per_slice", "hd95_per_slice_mm", "assd_per_slice_mm", "nsd_per_slice_mm"]
    assert [metric_name(name) for name in names[1:3]] == ["IoU, per slice", "HD95 (mm), per slice"]


def test_empty_slices_follow_the_declared_rules():
    target, prediction = np.zeros((2, 4, 6, 6), bool)
    target[0, 2:4], prediction[0, 2:4] = True, True  # found; missed; invented; rightly nothing
    target[1, 2:4], prediction[2, 2:4] = True, True
    name = ("dice_per_slice",)
    assert values(prediction, target, name)["dice_per_slice"] == pytest.approx(1 / 3)
    assert values(prediction, target, name, empty_both="perfect")["dice_per_slice"] == pytest.approx(2 / 4)
    assert values(prediction, target, name, empty_one="exclude")["dice_per_slice"] == 1
    assert math.isnan(values(prediction[3:], target[3:], name)["dice_per_slice"])
    assert values(prediction[1:2], target[1:2], ("hd95_per_slice",))["hd95_per_slice"] == math.hypot(6 * 0.5, 6 * 0.8)


def test_the_score_of_iopfl_counts_the_background():
    target, prediction = np.zeros((2, 3, 4, 5), bool)
    target[0, 0, :2], prediction[0, 0, :1] = True, True  # foreground 2/3, background 36 / 37; missed; nothing
    target[1, 0, :2] = True
    of_slice = [(2 / 3 + 36 / 37.0) / 2, (0 + 36 / 38) / 2, 1.0]
    found = iopfl_scores(prediction, target)
    assert found == pytest.approx(dict(zip(IOPFL, (np.mean(of_slice), np.mean(of_slice[:2])), strict=True)))
    assert iopfl_scores(prediction[0], target[0]) == pytest.approx(dict.fromkeys(IOPFL, of_slice[0]))
    assert math.isnan(iopfl_scores(prediction[2], target[2])[IOPFL[1]])
    assert Scoring(test=(IOPFL[0],)).test == ("dice", IOPFL[0]), "Dice stands beside it"
    beside = values(prediction, target, ("dice", *IOPFL))
    assert beside["dice"] == pytest.approx(2 / 5) and beside[IOPFL[0]] == found[IOPFL[0]]


def loaded(root, **options):
    (site,) = Manifest(root=str(root), labels={"prostate": 255}, **options).load()
    return site


def test_prepared_slices_are_the_cases_that_prepared_volumes_are(tmp_path):
    source = prostate_volumes(tmp_path / "source", {"UCL": [25, 26, 32, 33]})
    assert prepare("prostate", source, tmp_path / "slices", "--sites", "UCL") == 0
    assert prepare("prostate", source, tmp_path / "volumes", "--volumes", "--sites", "UCL") == 0
    for options in ({}, {"image_size": 8}, {"resplit_seed": 1}):
        slices, volumes = loaded(tmp_path / "slices", **options), loaded(tmp_path / "volumes", **options)
        for split in ("train", "val", "test"):
            one, other = getattr(slices, split), getattr(volumes, split)
            assert [case.id for case in one.cases] == [
                case.id.removeprefix("images/UCL/").removesuffix(".nii.gz") for case in other.cases
            ]
            for case, whole in zip(one.cases, other.cases, strict=True):
                assert case.is_volume and case.numbers == (0, 1, 2, 3) and case.group == whole.group
                assert case.spacing == pytest.approx(whole.spacing) and case.indices == whole.indices
                batches = [pictures.batch(case.indices) for pictures in (one, other)]
                assert all(batches[0][key].equal(batches[1][key]) for key in ("image", "target"))


SLICES = [
    "site,image,mask,split,group,spacing,volume,slice,slice_spacing",
    *(f"a,{number}.png,m.png,train,p{number},,,," for number in range(3)),
    *(f"a,{number}.png,m.png,test,q,0.5,,{9 - number},2" for number in range(3, 6)),
]


def written(root, lines):
    for number in range(6):
        save(root / f"{number}.png", noise(8, 8, seed=number))
    save(root / "m.png", square(8, 8))
    (root / "sites.csv").write_text("\n".join(lines) + "\n")
    return root


def test_slices_written_by_hand(tmp_path):
    """Of a patient without other words one volume, in the order of their numbers; all else stays a picture."""
    site = loaded(written(tmp_path, SLICES))
    (case,) = site.test.cases
    assert case == ("q", (0, 1, 2), "q", (2.0, 0.5, 0.5), True, (4, 5, 6))
    assert np.array_equal(site.test.batch([0])["image"], loaded(written(tmp_path, SLICES)).test.batch([0])["image"])
    assert [case.is_volume for case in site.train.cases] == [False] * 3
    before = Manifest(root=str(tmp_path), labels={"a": 255}).fingerprint()
    written(tmp_path, [line.replace(",,6,2", ",,7,2") for line in SLICES])
    assert Manifest(root=str(tmp_path), labels={"a": 255}).fingerprint() != before
    assert loaded(tmp_path).test.cases[0].numbers == (4, 5, 7)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (",,6,2", ",,x,2", r"line 5: slice='x'; allowed are whole numbers from 0"),
        (",,6,2", ",v,,2", r"line 5: slice is empty, and volume='v'"),
        (",,6,2", ",,,2", r"line 5: slice is empty, and slice_spacing='2'; number the slices, or leave both empty"),
        (",,6,2", ",,6,-1", r"line 5: slice_spacing='-1'; allowed is one number in mm above 0"),
        (",,6,2", ",,5,2", r"volume 'q' of site 'a' has slice 5 twice \(lines 5 and 6\)"),
        (",,6,2", ",,6,3", r"volume 'q' of site 'a' has slices of different spacing"),
        ("0.5,,", "0.5,0.png,", r"volume '0.png' of site 'a' has the name of a picture"),
        ("q,0.5,,6", "r,0.5,q,6", r"volume 'q' of site 'a' is of the patients q, r"),
        ("3.png", "volume.npy", r"volume.npy is a whole volume and not slice 6 of one"),
        ("3.png,m.png", "wide.png,wide.png", r"differ in size, 8x8 and 8x9"),
    ],
)
def test_slices_that_are_no_volume_are_named(tmp_path, old, new, named):
    np.save(tmp_path / "volume.npy", noise(2, 8, 8))
    save(tmp_path / "wide.png", square(8, 9))
    lines = [line.replace(old, new) for line in SLICES]
    if "npy" in new:
        lines[4] = lines[4].replace("m.png", "masks.npy")
        np.save(tmp_path / "masks.npy", square(2, 8, 8))
    with pytest.raises(BadInput, match=named):
        loaded(written(tmp_path, lines))


def test_half_of_a_spacing_is_refused_and_none_counts_pixels(tmp_path):
    without = [line.removesuffix(",2") + "," if line.endswith(",2") else line for line in SLICES]
    with pytest.raises(BadInput, match="has a spacing and no slice_spacing; add that column, or leave both out"):
        loaded(written(tmp_path, [line.replace(",0.5,", ",0.5 0.5,") for line in without]))
    assert loaded(written(tmp_path, without)).test.cases[0].spacing == (0.5, 0.5, 0.5), "one number is for all axes"
    assert loaded(written(tmp_path, [line.replace(",0.5,", ",,") for line in without])).test.cases[0].spacing is None
    only_between = [line.replace(",0.5,", ",,") for line in SLICES]
    with pytest.raises(BadInput, match="volume 'q' of site 'a' has a slice_spacing and no spacing; add that column"):
        loaded(written(tmp_path, only_between))
    both = [line.replace(",0.5,", ",3 0.5 0.4,") for line in SLICES]
    with pytest.raises(BadInput, match="has a spacing of 3 mm between slices and a slice_spacing of 2; give one"):
        loaded(written(tmp_path, both))
    three = [line.replace(",0.5,", ",2 0.5 0.4,") for line in without]
    assert loaded(written(tmp_path, three)).test.cases[0].spacing == (2.0, 0.5, 0.4)


def test_volumes_stay_whole_wherever_patients_go(tmp_path):
    source = prostate_volumes(tmp_path / "source", {"UCL": [*range(25, 31)], "HK": [*range(25, 31)]}, shape=(2, 8, 8))
    words = ("--sites", "UCL,HK", "--split", "seeded", "--workers", 1)
    assert prepare("prostate", source, tmp_path / "out", *words) == 0
    sites = Manifest(root=str(tmp_path / "out"), labels={"prostate": 255}, deal_seed=3).load()
    trained = [case for site in sites for case in site.train.cases]
    with (tmp_path / "out" / "sites.csv").open(newline="") as stream:
        expected = {f"{row['site']}/{row['volume']}" for row in csv.DictReader(stream) if row["split"] == "train"}
    assert {case.id for case in trained} == expected and len(trained) == len(expected)
    assert all(case.numbers == (0, 1) and case.spacing is not None for case in trained)
