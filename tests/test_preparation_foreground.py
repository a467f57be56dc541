"""What is foreground is said or asked, never guessed: values that no mask has, and the question at a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys

import numpy as np
import pytest

from fedlit.data.reading import read_mask
from fedlit.preparation import foreground
from fedlit.preparation.writing import values_of
from tests.preparation_sources import description, noise, prepare, rows_of, save, save_nifti, square

PATTERNS = ("--images", "{site}/{case}.png", "--masks", "{site}/{case}_mask.png")


def pictures(root, **masks):
    """Four pictures for each site, all with its mask."""
    for place, (site, mask) in enumerate(sorted(masks.items())):
        for number in range(4):
            save(root / site / f"{number}.png", noise(*mask.shape, seed=number + 10 * place))
            save(root / site / f"{number}_mask.png", mask)
    return root


def zones(*values: int):
    """A mask [16, 20] with these values in the middle, one beside the other."""
    mask = np.zeros((16, 20), np.uint8)
    for place, value in enumerate(values):
        mask[4:12, 4 + 3 * place : 7 + 3 * place] = value
    return mask


def folder_source(root):
    return "folder", pictures(root, north=zones(1), south=zones(1, 3)), *PATTERNS


def nifti_source(root):
    for number in range(4):
        save_nifti(root / "north" / "images" / f"{number}.nii.gz", noise(4, 12, 10, seed=number).astype(np.int16))
        mask = square(4, 12, 10, value=1 + 2 * (number % 2))
        save_nifti(root / "north" / "masks" / f"{number}.nii.gz", mask.astype(np.int16))
    return "nifti", root


def dicom_source(root):
    pytest.importorskip("pydicom")
    from tests.test_preparation_dicom import mask_affine, volume

    for number in range(4):
        volume(root / "ward" / f"case{number}", seed=number, patient=str(number))
        mask = square(4, 12, 10, value=1 + 2 * (number % 2))
        save_nifti(root / "ward" / f"case{number}_mask.nii.gz", mask, affine=mask_affine())
    return "dicom", root


@pytest.mark.parametrize("made", [folder_source, nifti_source, dicom_source])
def test_values_that_no_mask_has_are_refused(made, tmp_path, capsys):
    name, source, *words = made(tmp_path / "source")
    number = 8 if name == "folder" else 4
    for _ in range(2):
        assert prepare(name, source, tmp_path / "out", *words, "--foreground", "lung=7,8") == 2
        told = capsys.readouterr().err
        assert f"no mask has a pixel of lung (7, 8): the {number} masks hold 0, 1, 3; name" in told
        assert "--foreground" in told and not (tmp_path / "out").exists()


@pytest.mark.parametrize("made", [folder_source, nifti_source, dicom_source])
def test_a_value_that_the_masks_looked_at_did_not_have_is_no_background(made, tmp_path, capsys, monkeypatch):
    """A class that few masks show must not be lost unsaid: its case is left out, and named."""
    monkeypatch.setattr(foreground, "LOOKED_AT", 1)
    name, source, *words = made(tmp_path / "source")
    assert prepare(name, source, tmp_path / "out", *words) == 3
    told = " ".join(capsys.readouterr().out.split())
    assert "its mask holds 3, other masks 0, 1 alone: name the classes by --foreground" in told
    assert len(rows_of(tmp_path / "out")) == (4 if name == "folder" else 2)


@pytest.mark.parametrize("made", [folder_source, nifti_source, dicom_source])
def test_one_class_that_no_mask_has_is_named(made, tmp_path, capsys):
    name, source, *words = made(tmp_path / "source")
    words += ["--foreground", "a=1", "--foreground", "b=1,3", "--foreground", "c=7"]
    before = None
    for _ in range(2):
        assert prepare(name, source, tmp_path / "out", *words) == 3
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "no mask has" in line)
        assert "class c: no mask has a pixel of c (7): " in line and "masks hold 0, 1, 3; name its values" in line
        assert "--foreground" in line and before in (None, line)
        before = line
        assert [each["what"] for each in description(tmp_path / "out")["skipped"]] == ["class c"]


def test_a_class_of_another_site_is_named_where_sites_are_chosen(tmp_path, capsys):
    name, source, *words = folder_source(tmp_path / "source")
    words += ["--foreground", "a=1", "--foreground", "b=3"]
    assert prepare(name, source, tmp_path / "both", *words) == 0
    assert prepare(name, source, tmp_path / "one", *words, "--sites", "north") == 3
    assert "no mask has a pixel of b (3): 4 masks hold 0, 1;" in capsys.readouterr().out


def test_a_segment_without_pixels_is_named(tmp_path, capsys):
    pytest.importorskip("pydicom")
    from tests.test_preparation_dicom import volume
    from tests.test_preparation_dicom_frames import liver_and_lesion, segmentation

    source, (liver, _) = tmp_path / "source" / "ward", liver_and_lesion()
    for number in range(2):
        volume(source / f"case{number}", number, patient=str(number))
        segmentation(source / f"case{number}_mask.dcm", {"liver": liver, "lesion": np.zeros_like(liver)})
    words = ("--masks", "{site}/{case}_mask.dcm")
    assert prepare("dicom", tmp_path / "source", tmp_path / "out", *words) == 3
    assert "class lesion: no mask has a pixel of it; name the others by --foreground" in capsys.readouterr().out
    assert prepare("dicom", tmp_path / "source", tmp_path / "out", *words, "--foreground", "liver=1") == 0


def test_masks_that_cannot_be_read_are_said_to_be_so(tmp_path, capsys):
    name, source, *words = folder_source(tmp_path / "source")
    for path in source.rglob("*_mask.png"):
        path.write_bytes(b"no picture")
    assert prepare(name, source, tmp_path / "out", *words, "--foreground", "7") == 2
    told = capsys.readouterr().err
    assert "no case can be used" in told and "unreadable or truncated" in told


@pytest.mark.parametrize("shape", [(7, 5), (3, 7, 5)])
def test_the_values_of_a_mask_are_all_of_them(shape):
    mask = np.random.default_rng(0).choice([0, 1, 128, 255], shape).astype(np.uint8)
    assert values_of(mask) == (0, 1, 128, 255) == tuple(np.unique(mask))
    assert values_of(mask[..., ::2] * 0) == (0,)


def at_terminal(answer: str, *words: object, with_stderr: bool = True) -> tuple[int, str]:
    """The exit code of `fedlit prepare` on a pseudo-terminal where something is typed, and all that is to be read."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fedlit", "prepare", *map(str, words)]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs if with_stderr else subprocess.DEVNULL)
    os.close(theirs)
    os.write(ours, answer.encode())
    found = b""
    while select.select([ours], [], [], 120)[0]:
        try:
            found += os.read(ours, 4096)
        except OSError:  # what a terminal whose other side is closed gives
            break
    else:
        child.kill()
    os.close(ours)
    return child.wait(timeout=600), found.decode()


def test_a_person_at_a_terminal_is_asked_what_is_foreground(tmp_path):
    source = pictures(tmp_path / "source", north=square(16, 20, value=0, background=255))
    code, told = at_terminal("\nyes\n0\n", "folder", source, tmp_path / "out", *PATTERNS)
    assert code == 0, told
    assert (
        "masks hold 0 (25%), 255 (75%), and 255 fills the border of most pictures: 0 looks like the foreground" in told
    )
    assert told.count("the value that is to be found (0, 255, abort)") == 3, "neither Enter nor yes is an answer"
    assert "taken: 0, as --foreground 0 says it" in told and "masks: 0 is foreground; all else is background" in told
    mask = read_mask(tmp_path / "out" / rows_of(tmp_path / "out")[0]["mask"]).array[0]
    assert np.array_equal(mask, square(16, 20))


@pytest.mark.parametrize(("answer", "code"), [("abort\n", 2), ("\x04", 130)])
def test_without_an_answer_nothing_is_written(answer, code, tmp_path):
    source = pictures(tmp_path / "source", north=square(16, 20, value=2, background=1))
    ended, told = at_terminal(answer, "folder", source, tmp_path / "out", *PATTERNS)
    assert ended == code and "2 looks like the foreground" in told
    assert ("if 2 is meant, say --foreground 2" if code == 2 else "nothing is written. --foreground VALUE") in told
    assert "Traceback" not in told and not (tmp_path / "out").exists()


def test_nobody_is_asked_where_the_question_is_not_seen(tmp_path):
    source = pictures(tmp_path / "source", north=square(16, 20, value=0, background=255))
    code, told = at_terminal("0\n", "folder", source, tmp_path / "out", *PATTERNS, with_stderr=False)
    assert code == 2 and "the value that is to be found" not in told and not (tmp_path / "out").exists()


def test_swapped_images_and_masks_are_said_so(tmp_path, capsys):
    """Pictures of 16 bits have more values than a mask may."""
    for number in range(4):
        save(
            tmp_path / "source" / "a" / "images" / f"{number}.png",
            np.arange(600, dtype=np.uint16).reshape(20, 30) + number,
        )
        save(tmp_path / "source" / "a" / "masks" / f"{number}.png", square(20, 30))
    swapped = ("--images", "{site}/masks/{case}.png", "--masks", "{site}/images/{case}.png")
    assert prepare("folder", tmp_path / "source", tmp_path / "out", *swapped) == 2
    told = capsys.readouterr().err
    assert "no mask can be read" in told and "are --images and --masks swapped?" in told
    assert not (tmp_path / "out").exists()
