"""Any tree of pictures or NIfTI volumes, described by patterns; nothing about foreground is guessed."""

import numpy as np
import pytest

from fedlit.data.reading import read_image, read_mask
from fedlit.preparation.foreground import codes_of, parse_foreground
from tests.preparation_sources import (
    check_and_plan,
    description,
    noise,
    prepare,
    rows_of,
    save,
    save_nifti,
    square,
)


def pictures(root, mask: np.ndarray, num: int = 4):
    for site in ("north", "south"):
        for number in range(num):
            save(root / site / f"{number}.png", noise(16, 20, seed=number + 10 * len(site) + ord(site[0])))
            save(root / site / f"{number}_mask.png", mask)
    return root


PATTERNS = ("--images", "{site}/{case}.png", "--masks", "{site}/{case}_mask.png")


def test_patterns_find_pairs_beside_each_other(tmp_path, capsys):
    source = pictures(tmp_path / "source", square(16, 20, value=3))
    assert prepare("folder", source, tmp_path / "out", *PATTERNS) == 0
    assert "masks: 3 is foreground; all else is background" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out")
    assert {row["site"] for row in rows} == {"north", "south"} and len(rows) == 8
    assert np.array_equal(read_mask(tmp_path / "out" / rows[0]["mask"]).array[0], square(16, 20))
    check_and_plan(tmp_path / "out", capsys)


def test_slices_of_a_case_are_one_patient(tmp_path):
    for case in "abcd":
        for number in range(3):
            save(
                tmp_path / "source" / "image" / f"{case}_{number:02d}.png", noise(16, 16, seed=ord(case) + 100 * number)
            )
            save(tmp_path / "source" / "mask" / f"{case}_{number:02d}.png", square(16, 16))
    words = ("--images", "image/{case}_{slice}.png", "--masks", "mask/{case}_{slice}.png", "--site", "Ward 3")
    assert prepare("folder", tmp_path / "source", tmp_path / "out", *words) == 0
    rows = rows_of(tmp_path / "out")
    assert {(row["volume"], row["slice"]) for row in rows} == {(case, number) for case in "abcd" for number in "012"}
    assert {row["group"] for row in rows} == set("abcd") and {row["site"] for row in rows} == {"Ward 3"}
    for case in "abcd":
        assert len({row["split"] for row in rows if row["group"] == case}) == 1


def test_foreground_that_looks_inverted_is_asked_for(tmp_path, capsys):
    source = pictures(tmp_path / "source", square(16, 20, value=0, background=255))
    assert prepare("folder", source, tmp_path / "out", *PATTERNS) == 2
    told = capsys.readouterr().err
    assert "foreground looks inverted" in told and "--foreground 0" in told and "--foreground 255" in told
    assert not (tmp_path / "out").exists()
    assert prepare("folder", source, tmp_path / "out", *PATTERNS, "--foreground", "0") == 0
    row = rows_of(tmp_path / "out")[0]
    assert np.array_equal(read_mask(tmp_path / "out" / row["mask"]).array[0], square(16, 20))
    assert prepare("folder", source, tmp_path / "other", *PATTERNS, "--foreground", "255") == 0
    row = rows_of(tmp_path / "other")[0]
    assert np.array_equal(read_mask(tmp_path / "other" / row["mask"]).array[0], 255 - square(16, 20))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            square(16, 20, value=2) + square(16, 20, value=0, background=1),
            "name the classes, as --foreground NAME=VALUE",
        ),
        (square(16, 20, value=2, background=1), "if 2 is meant, say --foreground 2"),
        (np.zeros((16, 20), np.uint8), "the masks hold only 0"),
        (np.full((16, 20), 7, np.uint8), "say which is foreground by --foreground VALUE"),
    ],
)
def test_other_masks_are_asked_about(mask, message, tmp_path, capsys):
    mask = mask.copy()
    if "name the classes" in message:
        mask[0, 0] = 0
    source = pictures(tmp_path / "source", mask)
    assert prepare("folder", source, tmp_path / "out", *PATTERNS) == 2
    assert message in capsys.readouterr().err


def test_large_foreground_that_does_not_touch_the_border_is_no_reason_to_ask(tmp_path):
    mask = np.zeros((16, 20), np.uint8)
    mask[1:-1, 1:-1] = 255
    assert prepare("folder", pictures(tmp_path / "source", mask), tmp_path / "out", *PATTERNS) == 0


def test_several_classes_may_share_values(tmp_path, capsys):
    mask = square(16, 20, value=128, background=255)
    mask[7:9, 8:12] = 0
    source = pictures(tmp_path / "source", mask)
    words = ("--foreground", "cup=0", "--foreground", "disc=0,128")
    assert prepare("folder", source, tmp_path / "out", *PATTERNS, *words) == 0
    assert description(tmp_path / "out")["labels"] == {"cup": 1, "disc": [1, 2]}
    stored = read_mask(tmp_path / "out" / rows_of(tmp_path / "out")[0]["mask"]).array[0]
    assert np.array_equal(stored == 1, mask == 0) and np.array_equal(stored == 0, mask == 255)
    check_and_plan(tmp_path / "out", capsys)


def test_codes_of_classes():
    assert codes_of(parse_foreground(("1,2",))) == {1: 255, 2: 255}
    assert codes_of(parse_foreground(("a=4", "b=4,7"))) == {4: 1, 7: 2}
    with pytest.raises(ValueError, match="names the class 'a' twice"):
        parse_foreground(("a=4", "a=7"))


def volumes(root, num: int = 4):
    for site in ("north", "south"):
        for number in range(num):
            seed = number + ord(site[0])
            save_nifti(root / site / "images" / f"{number}.nii.gz", noise(4, 12, 10, seed=seed).astype(np.int16) - 100)
            save_nifti(root / site / "masks" / f"{number}.nii.gz", square(4, 12, 10, value=1))
    return root


def test_volumes_keep_their_numbers_and_headers(tmp_path, capsys):
    source = volumes(tmp_path / "source")
    assert prepare("nifti", source, tmp_path / "out") == 0
    row = rows_of(tmp_path / "out")[0]
    before, after = read_image(source / "north/images/0.nii.gz"), read_image(tmp_path / "out" / row["image"])
    assert np.array_equal(before.array, after.array) and after.array.dtype == np.int16
    assert np.allclose(before.spacing, after.spacing) and np.allclose(before.spacing, (3.0, 0.5, 0.4))
    assert before.orientation == after.orientation == "LPS"
    assert np.array_equal(read_mask(tmp_path / "out" / row["mask"]).array, square(4, 12, 10))
    check_and_plan(tmp_path / "out", capsys)


def test_volumes_in_micrometres_are_written_in_millimetres(tmp_path):
    import nibabel

    source = volumes(tmp_path / "source", num=2)
    for path in source.rglob("*.nii.gz"):
        image = nibabel.load(path)
        array = np.asanyarray(image.dataobj)
        wide = nibabel.Nifti1Image(array, np.diag([1e3, 1e3, 1e3, 1]) @ image.affine)
        wide.header.set_xyzt_units("micron")
        wide.to_filename(path)
    assert prepare("nifti", source, tmp_path / "out") == 0
    row = rows_of(tmp_path / "out")[0]
    assert row["spacing"] == "3 0.5 0.4"
    assert np.allclose(read_image(tmp_path / "out" / row["image"]).spacing, (3.0, 0.5, 0.4))


def test_volumes_without_a_header_are_named(tmp_path):
    source = volumes(tmp_path / "source")
    np.save(source / "north/images/9.npy", noise(4, 12, 10))
    np.save(source / "north/masks/9.npy", square(4, 12, 10, value=1))
    patterns = ("--images", "{site}/images/{case}.n*", "--masks", "{site}/masks/{case}.n*")
    assert prepare("nifti", source, tmp_path / "out", *patterns) == 3
    (skipped,) = description(tmp_path / "out")["skipped"]
    assert skipped == {"what": "north 9", "reason": "9.npy is no NIfTI volume, which is expected"}


def test_volumes_on_other_grids_are_named(tmp_path):
    source = volumes(tmp_path / "source")
    far = np.diag([-0.4, -0.5, 3, 1.0])
    far[:3, 3] = 40
    save_nifti(source / "north/masks/0.nii.gz", square(4, 12, 10, value=1), affine=far)
    save_nifti(source / "north/masks/1.nii.gz", square(4, 12, 10, value=1), affine=np.diag([0.4, 0.5, 3, 1]))
    import nibabel

    nibabel.Nifti1Image(np.zeros((10, 12, 4, 3), np.int16), np.eye(4)).to_filename(source / "north/images/2.nii.gz")
    (source / "north/images/3.nii.gz").write_bytes(b"\x1f\x8b nothing")
    assert prepare("nifti", source, tmp_path / "out") == 3
    reasons = {each["what"]: each["reason"] for each in description(tmp_path / "out")["skipped"]}
    assert "it begins 69.3 mm away" in reasons["north 0"]
    assert "its axes point to RAS, those of the image to LPS" in reasons["north 1"]
    assert "a volume has three axes of numbers" in reasons["north 2"]
    assert "unreadable or truncated" in reasons["north 3"]
