"""The six prostate sites: volumes with the published splits, slices with inverted masks."""

import numpy as np
import pytest

from fedlit.data.reading import read_image, read_mask
from fedlit.preparation.prostate import IOPFL
from fedlit.preparation.volumes import clipped_to_bytes, neighbours
from tests.conftest import REAL_DATA
from tests.preparation_sources import (
    check_and_plan,
    description,
    noise,
    prepare,
    prostate_volumes,
    rows_of,
    save,
    save_nifti,
    square,
    tree_hashes,
)

SAMPLES = REAL_DATA / "published_layouts" / "ProstateSlice"
NUMBERS = {"BIDMC": range(12), "HK": range(38, 50), "I2CVB": range(19), "RUNMC": range(30), "BMC": range(30),
           "UCL": range(25, 38)}  # fmt: skip


def split_sizes(out, site: str) -> list[int]:
    volumes = {(row["split"], row["volume"]) for row in rows_of(out) if row["site"] == site}
    return [sum(split == wanted for split, _ in volumes) for wanted in ("train", "val", "test")]


def test_volumes_become_slices_with_the_released_case_split(tmp_path, capsys):
    source = prostate_volumes(
        tmp_path / "source", {site: [*numbers] for site, numbers in NUMBERS.items()}, shape=(3, 8, 6)
    )
    assert prepare("prostate", source, tmp_path / "out") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "any value but 0 is prostate" in told and "split: the cases that IOP-FL released" in told
    out = tmp_path / "out"
    assert split_sizes(out, "RUNMC") == [19, 5, 6] and split_sizes(out, "BMC") == [19, 5, 6]
    assert split_sizes(out, "BIDMC") == [7, 2, 3] and split_sizes(out, "I2CVB") == [12, 3, 4]
    rows = rows_of(out)
    assert len(rows) == 3 * sum(len(numbers) for numbers in NUMBERS.values()), "all slices are kept"
    assert {row["volume"] for row in rows if row["site"] == "HK" and row["split"] == "test"} == {
        "Case45",
        "Case48",
        "Case49",
    }
    row = next(row for row in rows if row["volume"] == "Case07" and row["slice"] == "1" and row["site"] == "RUNMC")
    assert (row["spacing"], row["slice_spacing"], row["group"]) == ("0.5 0.4", "3", "Case07")
    volume = read_image(source / "RUNMC" / "Case07.nii.gz").array[..., 0]
    assert np.array_equal(read_image(out / row["image"]).array[0, ..., 0], clipped_to_bytes(volume)[1])
    assert np.array_equal(read_mask(out / row["mask"]).array[0], square(8, 6))
    assert "RUNMC" in check_and_plan(out, capsys, unseen=("HK",))


def test_synonyms_name_the_same_hospitals(tmp_path):
    one = prostate_volumes(tmp_path / "one", {"ISBI": [0, 7, 23], "ISBI_1.5": [0, 3, 7]})
    two = prostate_volumes(tmp_path / "two", {"RUNMC": [0, 7, 23], "BMC": [0, 3, 7]})
    for source, out in ((one, "out1"), (two, "out2")):
        assert prepare("prostate", source, tmp_path / out, "--sites", "RUNMC,BMC") == 0
    assert tree_hashes(tmp_path / "out1") == tree_hashes(tmp_path / "out2")
    assert {row["site"] for row in rows_of(tmp_path / "out1")} == {"RUNMC", "BMC"}
    assert IOPFL["RUNMC"][0][:1] == (7,) and IOPFL["BMC"][1][:3] == (28, 25, 7)


def test_volumes_stay_whole_and_neighbours_become_channels(tmp_path, capsys):
    source = prostate_volumes(tmp_path / "source", {"HK": [38, 39, 40, 44, 45]})
    assert prepare("prostate", source, tmp_path / "whole", "--volumes", "--sites", "HK") == 0
    assert prepare("prostate", source, tmp_path / "three", "--neighbours", "--sites", "HK") == 0
    assert prepare("prostate", source, tmp_path / "both", "--volumes", "--neighbours", "--sites", "HK") == 0
    whole = {row["image"]: row for row in rows_of(tmp_path / "whole")}
    assert whole["images/HK/Case38.nii.gz"]["spacing"] == "3 0.5 0.4"
    stored = read_image(tmp_path / "whole" / "images/HK/Case38.nii.gz")
    volume = stored.array[..., 0]
    assert stored.orientation == "LPS" and volume.dtype == np.uint8
    three = np.stack([volume[0], volume[1], volume[2]], axis=-1)
    assert np.array_equal(read_image(tmp_path / "three" / "images/HK/Case38/001.png").array[0], three)
    edge = np.stack([volume[0], volume[0], volume[1]], axis=-1)
    assert np.array_equal(read_image(tmp_path / "three" / "images/HK/Case38/000.png").array[0], edge)
    assert np.array_equal(read_image(tmp_path / "both" / "images/HK/Case38.npy").array, neighbours(volume))
    for out in ("whole", "three", "both"):
        check_and_plan(tmp_path / out, capsys)


def test_other_splits_by_name_are_of_whole_cases(tmp_path):
    source = prostate_volumes(tmp_path / "source", {"UCL": [*range(25, 35)]})
    words = ("--sites", "UCL", "--split")
    assert prepare("prostate", source, tmp_path / "fedfms", *words, "fedfms") == 0
    assert split_sizes(tmp_path / "fedfms", "UCL") == [9, 1, 0]
    assert prepare("prostate", source, tmp_path / "seeded", *words, "seeded", "--seed", 3) == 0
    assert split_sizes(tmp_path / "seeded", "UCL") == [7, 1, 2]
    assert prepare("prostate", source, tmp_path / "seeded", *words, "iopfl") == 0, "only sites.csv is new"
    assert split_sizes(tmp_path / "seeded", "UCL") == [8, 1, 1]


def test_intensity_is_clipped_at_the_quantile_of_the_volume():
    volume = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    volume[-1, -1, -1] = 30000
    scaled = clipped_to_bytes(volume)
    high = np.quantile(volume, 0.99)
    assert scaled.min() == 0 and (scaled == 255).sum() == (volume >= high * (1 - 0.5 / 255)).sum()
    assert scaled.ravel()[500] == round(500 / high * 255)
    flat = np.zeros((4, 16, 16), np.int16)
    flat[0, 0, 0] = 9
    assert clipped_to_bytes(flat).max() == 255, "fewer than 1 % of the voxels differ"


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32])
def test_whole_numbers_are_scaled_as_any_others(dtype):
    """The table of values gives what the formula does."""
    random = np.random.default_rng(0)
    for shape, high in (((3, 5, 7), 40), ((4, 20, 20), 3000), ((1, 2, 2), 2)):
        low = 0 if dtype is np.uint16 else -high // 3
        volume = random.integers(low, high, shape).astype(dtype)
        volume.ravel()[:2] = low, high
        assert np.array_equal(clipped_to_bytes(volume), clipped_to_bytes(volume.astype(np.float64)))


def test_volumes_that_cannot_be_used_are_named(tmp_path, capsys):
    source = prostate_volumes(tmp_path / "source", {"BIDMC": [0, 1, 2, 4, 5, 6]})
    site = source / "BIDMC"
    save_nifti(site / "Case01_segmentation.nii.gz", square(4, 16, 12, value=1), affine=np.diag([0.4, 0.5, 3, 1]))
    save_nifti(site / "Case02_segmentation.nii.gz", square(4, 16, 10, value=1))
    import nibabel

    four = nibabel.Nifti1Image(np.zeros((12, 16, 4, 2), np.int16), np.eye(4))
    four.to_filename(site / "Case04.nii.gz")
    save_nifti(site / "Case05_segmentation.nii.gz", square(4, 16, 12, value=1), spacing=(3, 1, 1))
    (site / "Case06_segmentation.nii.gz").unlink()
    save_nifti(source / "Elsewhere" / "Case00.nii.gz", noise(4, 16, 12))
    assert prepare("prostate", source, tmp_path / "out") == 3
    reasons = {each["what"]: each["reason"] for each in description(tmp_path / "out")["skipped"]}
    assert "its axes point to RAS, those of the image to LPS" in reasons["BIDMC Case01"]
    assert "4x16x12 and 4x16x10" in reasons["BIDMC Case02"]
    assert "a volume has three axes" in reasons["BIDMC Case04"]
    assert "voxels of 3 x 0.5 x 0.4 and 3 x 1 x 1 mm" in reasons["BIDMC Case05"]
    assert "no mask as" in reasons["BIDMC/Case06.nii.gz"]
    assert "unknown site; known are BIDMC" in reasons["Elsewhere"]
    assert "BIDMC Case01" in capsys.readouterr().out


def test_a_half_unpacked_download_says_what_is_missing(tmp_path, capsys):
    for number in range(3):
        save_nifti(tmp_path / "source" / "HK" / f"Case{number}.nii.gz", noise(3, 8, 6))
    assert prepare("prostate", tmp_path / "source", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "{site}/{case}.nii*: 3 pictures, but no mask as {site}/{case}_segmentation.nii*" in told
    assert "found the folders: HK" in told and "BIDMC|" not in told
    for number in (1, 2):
        (tmp_path / "source" / "HK" / f"Case{number}.nii.gz").unlink()
    assert prepare("prostate", tmp_path / "source", tmp_path / "out") == 2
    assert "1 picture, but no mask as" in capsys.readouterr().err


def test_a_site_of_the_six_that_is_not_there_is_left_out_unless_others_were_chosen(tmp_path, capsys):
    sites = {site: [*IOPFL[site][0][:1], *IOPFL[site][1][:1], 0] for site in IOPFL if site != "UCL"}
    source = prostate_volumes(tmp_path / "source", sites, shape=(2, 8, 6))
    (source / "UCL.zip").write_bytes(b"PK")
    words = ("--split", "fedfms", "--workers", 1)
    assert prepare("prostate", source, tmp_path / "out", *words) == 3
    line = "not found in SOURCE: cases of UCL; still packed: UCL.zip; unpack them there"
    told = capsys.readouterr().out
    assert line in told and "1 left out" in told and "UCL: a site of the set of which SOURCE holds no case" in told
    assert line in description(tmp_path / "out")["conventions"]
    assert [each["what"] for each in description(tmp_path / "out")["skipped"]] == ["UCL"]
    assert prepare("prostate", source, tmp_path / "out", *words, "--sites", "HK,BMC") == 0
    assert "UCL" not in (tmp_path / "out" / "dataset.json").read_text() + capsys.readouterr().out


def test_a_download_that_is_still_packed_is_said_to_be(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    for name in ("HK.zip", "UCL.tar.gz"):
        (tmp_path / "source" / name).write_bytes(b"packed")
    assert prepare("prostate", tmp_path / "source", tmp_path / "out") == 2
    assert "still packed: HK.zip, UCL.tar.gz; unpack them there" in capsys.readouterr().err


def test_slices_that_no_run_can_read_are_counted_and_kept_in_volumes(tmp_path, capsys):
    """What is said of the slices is true of either form; one with foreground is left out by name."""
    source = prostate_volumes(tmp_path / "source", {"HK": [38, 44, 45]})
    volume = noise(4, 16, 12).astype(np.int16)
    volume[[0, 2]] = 7
    save_nifti(source / "HK" / "Case38.nii.gz", volume)  # its mask is empty on slice 0 and has foreground on slice 2
    assert prepare("prostate", source, tmp_path / "slices", "--sites", "HK") == 3
    told = capsys.readouterr().out
    assert "all slices are kept" not in told and "all slices are kept" not in str(description(tmp_path / "slices"))
    assert (
        "blank and without foreground, not written (background when a volume is scored): 1 slice of 1 volume\n" in told
    )
    assert description(tmp_path / "slices")["blank_slices"] == 1
    (skipped,) = description(tmp_path / "slices")["skipped"]
    assert skipped["what"] == "HK Case38 slice 2" and "the mask has foreground there" in skipped["reason"]
    assert prepare("prostate", source, tmp_path / "whole", "--sites", "HK", "--volumes") == 0
    assert "all slices are kept" in capsys.readouterr().out
    stored = read_image(tmp_path / "whole" / "images/HK/Case38.nii.gz").array[..., 0]
    assert np.array_equal(stored, clipped_to_bytes(volume)) and len(stored) == 4


def sliced(root, names: dict[str, list[str]]):
    for place, (folder, files) in enumerate(names.items()):
        for number, name in enumerate(files):
            save(root / folder / "image" / name, noise(20, 20, seed=100 * place + number))
            save(root / folder / "mask" / name, square(20, 20, value=0, background=255))
    return root


def test_slices_have_inverted_masks_and_case_numbers_restart(tmp_path, capsys):
    names = [f"{case:02d}_{number:02d}.png" for case in range(4) for number in range(2)]
    source = sliced(tmp_path / "source", {"HK/train": names, "HK/test": names[:4]})
    assert prepare("prostate", source, tmp_path / "out", "--sites", "HK") == 0
    assert "0 is prostate and 255 background" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out")
    assert {row["group"] for row in rows if row["split"] == "test"} == {"HK/test/00", "HK/test/01"}
    assert {row["group"] for row in rows if row["split"] == "train"} < {f"HK/train/0{case}" for case in range(4)}
    assert sum(row["split"] == "val" for row in rows) == 2, "one patient with two slices"
    for row in rows:
        assert np.array_equal(read_mask(tmp_path / "out" / row["mask"]).array[0], square(20, 20))
    check_and_plan(tmp_path / "out", capsys)
    assert prepare("prostate", source, tmp_path / "other", "--volumes") == 2


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples are not here")
def test_the_real_slices(tmp_path, capsys):
    assert prepare("prostate", SAMPLES, tmp_path / "out") == 3
    rows = rows_of(tmp_path / "out")
    told = capsys.readouterr().out
    assert "became val" not in told and "too few patients for a val at BIDMC, BMC, HK, RUNMC, UCL" in told
    assert len(rows) == 11 and all(row["group"] == f"{row['site']}/{row['split']}/00" for row in rows)
    skipped = {each["what"]: each["reason"] for each in description(tmp_path / "out")["skipped"]}
    assert set(skipped) == {"I2CVB/train/image/00_01.png", "I2CVB/train/mask/00_00.png"}
    for row in rows:
        mask = read_mask(tmp_path / "out" / row["mask"]).array
        assert 0 < (mask == 255).mean() < 0.2 and mask[0, 0, 0] == 0
    check_and_plan(tmp_path / "out", capsys, unseen=("I2CVB",))
