"""What holds for every data set that is prepared: same files twice, going on, OUT alone is written, clear errors."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from fedlit.preparation import cxr, writing
from fedlit.preparation import prepare as preparing
from fedlit.preparation.prostate import SITES
from tests import drawn_sources
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
from tests.test_preparation_chest_and_retina import retina
from tests.test_preparation_prostate import sliced


def lungs(root: Path, counts: dict[str, int], *, reverse: bool = False) -> Path:
    """{site}/images/{case}.png and {site}/masks/{case}.png, written in one order or the other."""
    for site in sorted(counts, reverse=reverse):
        for number in sorted(range(counts[site]), reverse=reverse):
            save(root / site / "images" / f"{number:02d}.png", noise(24, 20, seed=hash_of(site, number)))
            save(root / site / "masks" / f"{number:02d}.png", square(24, 20))
    return root


def hash_of(*parts: object) -> int:
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16)


def test_the_same_source_gives_the_same_files_in_any_order_and_number_of_processes(tmp_path, capsys):
    counts = {"a": 6, "b": 5}
    lungs(tmp_path / "one", counts)
    lungs(tmp_path / "two", counts, reverse=True)
    assert prepare("folder", tmp_path / "one", tmp_path / "out1", "--workers", 1) == 0
    assert prepare("folder", tmp_path / "two", tmp_path / "out2", "--workers", 2) == 0
    assert tree_hashes(tmp_path / "out1") == tree_hashes(tmp_path / "out2")
    for row in rows_of(tmp_path / "out1"):
        assert hashlib.sha256((tmp_path / "out1" / row["image"]).read_bytes()).hexdigest() == row["sha256"]
        assert hashlib.sha256((tmp_path / "out1" / row["mask"]).read_bytes()).hexdigest() == row["mask_sha256"]
    told = check_and_plan(tmp_path / "out1", capsys)
    assert "a" in told and "b" in told


def test_a_second_run_decodes_nothing(tmp_path, capsys, monkeypatch):
    lungs(tmp_path / "source", {"a": 4})
    assert prepare("folder", tmp_path / "source", tmp_path / "out") == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").rglob("*.png")}
    monkeypatch.setattr(writing, "encoded", None)
    assert prepare("folder", tmp_path / "source", tmp_path / "out") == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").rglob("*.png")}
    assert "4 of 4 cases were there already" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_and_ends_as_an_uninterrupted_one(tmp_path, capsys, monkeypatch):
    lungs(tmp_path / "source", {"a": 5})
    assert prepare("folder", tmp_path / "source", tmp_path / "whole") == 0
    write = preparing.write_case
    left = [3]

    def interrupted(case, out):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return write(case, out)

    monkeypatch.setattr(preparing, "write_case", interrupted)
    assert prepare("folder", tmp_path / "source", tmp_path / "out") == 130
    assert "3 of 5 cases are prepared: run the same command to go on" in capsys.readouterr().err
    assert not (tmp_path / "out" / "sites.csv").exists()
    with (tmp_path / "out" / ".prepared.jsonl").open("a") as journal:
        journal.write('{"key": "cut o')  # a power cut in the middle of a line
    monkeypatch.setattr(preparing, "write_case", write)
    assert prepare("folder", tmp_path / "source", tmp_path / "out") == 0
    assert "3 of 5 cases were there already" in capsys.readouterr().out
    assert tree_hashes(tmp_path / "out") == tree_hashes(tmp_path / "whole")


def test_damaged_changed_and_removed_cases_are_made_anew(tmp_path):
    source, out = lungs(tmp_path / "source", {"a": 5}), tmp_path / "out"
    assert prepare("folder", source, out) == 0
    whole = tree_hashes(out)
    (out / "images" / "a" / "02.png").write_bytes(b"half")
    (out / "masks" / "a" / "03.png").unlink()
    assert prepare("folder", source, out) == 0 and tree_hashes(out) == whole
    save(source / "a" / "images" / "01.png", noise(24, 20, seed=77))
    (source / "a" / "images" / "00.png").unlink()
    (source / "a" / "masks" / "00.png").unlink()
    assert prepare("folder", source, out) == 0
    after = tree_hashes(out)
    assert "images/a/00.png" not in after and after["images/a/01.png"] != whole["images/a/01.png"]
    assert after["images/a/04.png"] == whole["images/a/04.png"]


def test_what_is_left_out_is_named_and_the_exit_code_says_so(tmp_path, capsys):
    source = lungs(tmp_path / "source", {"a": 4})
    (source / "a" / "images" / "00.png").write_bytes(b"\x89PNG broken")
    save(source / "a" / "masks" / "01.png", square(10, 10))
    save(source / "a" / "images" / "lonely.png", noise(24, 20))
    assert prepare("folder", source, tmp_path / "out") == 3
    told = capsys.readouterr().out
    assert "3 left out" in told and "a 01: 01.png: the mask is on another grid than its image, 24x20 and 10x10" in told
    assert {each["what"] for each in description(tmp_path / "out")["skipped"]} == {
        "a 00",
        "a 01",
        "a/images/lonely.png",
    }
    assert str(tmp_path) not in (tmp_path / "out" / "dataset.json").read_text()
    assert len(rows_of(tmp_path / "out")) == 2


def test_nothing_usable_is_bad_input(tmp_path, capsys):
    source = lungs(tmp_path / "source", {"a": 2})
    for number in range(2):
        (source / "a" / "images" / f"0{number}.png").write_bytes(b"broken")
    assert prepare("folder", source, tmp_path / "out") == 2
    assert "no case can be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("folder", "nowhere", "out"), "is no folder; unpack the download"),
        (("folder", "source", "full"), "is not empty and was not made by this command"),
        (("folder", "source", "source"), "lie in each other"),
        (("folder", "source", "source/out"), "lie in each other"),
        (("folder", "source", "file"), "is a file"),
        (("lungs", "source", "out"), "known are prostate, fundus, cxr"),
        (("folder", "source", "out", "--ring"), "--ring is an option of fundus, not of folder"),
        (("folder", "source", "out", "--sites", "z"), "--sites names 'z'; the sites found are a"),
        (("folder", "source", "out", "--images", "{site}/x.png"), "needs {case}"),
        (("folder", "source", "out", "--images", "{site}/{casse}/{case}"), "allowed are {site}, {case}, {slice}"),
        (("folder", "source", "out", "--foreground", "lots"), "needs VALUE[,VALUE...]"),
        (("folder", "source", "out", "--site", "b"), "name the site by {site}"),
        (("prostate", "source", "out", "--split", "mine"), "allowed are iopfl, fedfms, seeded"),
        (("prostate", "source", "out"), "Case"),
        (("cxr", "source", "out"), "MontgomerySet"),
        (("fets", "source", "out"), "found the folders: a/images, a/masks"),
        (("fets", "source", "out"), "partitioning_1.csv with the columns Partition_ID and Subject_ID, or --partition"),
        *(
            ((name, "source", "out", "--split", "iopfl"), "--split iopfl: allowed is fedfms")
            for name in ("fundus", "nuclei", "fets")
        ),
        (("cxr", "source", "out", "--split", "fedfms"), "--split is an option of prostate, fundus, nuclei, fets"),
    ],
)
def test_wrong_words_and_places_are_refused_before_anything_is_written(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lungs(tmp_path / "source", {"a": 2})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    before = tree_hashes(tmp_path)
    assert prepare(*words) == 2
    assert message in capsys.readouterr().err
    assert tree_hashes(tmp_path) == before


def test_another_data_set_has_another_folder(tmp_path, capsys):
    lungs(tmp_path / "source", {"a": 2})
    assert prepare("folder", tmp_path / "source", tmp_path / "out") == 0
    before = tree_hashes(tmp_path / "out")
    assert prepare("prostate", prostate_volumes(tmp_path / "p", {"HK": [38, 39]}), tmp_path / "out") == 2
    assert "holds 'folder'; give 'prostate' another folder" in capsys.readouterr().err
    assert tree_hashes(tmp_path / "out") == before


def test_nothing_is_written_outside_of_out_not_through_a_link_either(tmp_path, capsys):
    source = lungs(tmp_path / "source", {"a": 2})
    (tmp_path / "elsewhere").mkdir()
    assert prepare("folder", source, tmp_path / "out") == 0
    for path in (tmp_path / "out" / "images" / "a").iterdir():
        path.unlink()
    (tmp_path / "out" / "images" / "a").rmdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "out" / "images" / "a")
    assert prepare("folder", source, tmp_path / "out") == 2
    assert "leads out of" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_full_disk_is_one_clear_line_and_is_gone_on_from(tmp_path, capsys, monkeypatch):
    source = lungs(tmp_path / "source", {"a": 4})
    write, left = writing.write, [3]

    def full(out, path, content):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(out, path, content)

    monkeypatch.setattr(writing, "write", full)
    assert prepare("folder", source, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "No space left on device" in told and "MB free" in told and "make room there" in told and "goes on" in told
    monkeypatch.setattr(writing, "write", write)
    assert prepare("folder", source, tmp_path / "out") == 0
    assert "1 of 4 cases were there already" in capsys.readouterr().out


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO])
def test_where_writing_is_not_allowed_room_is_no_way_out(number, tmp_path, capsys, monkeypatch):
    def refused(out, path, content):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writing, "write", refused)
    assert prepare("folder", lungs(tmp_path / "source", {"a": 2}), tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert os.strerror(number) in told and "give another OUT" in told and "room" not in told and "MB" not in told


def slices_of_prostates(root: Path) -> Path:
    return sliced(root, {f"{site}/{part}": ["00_00.png", "01_00.png"] for site in SITES for part in ("train", "test")})


def vessels(root: Path) -> Path:
    retina(root)
    return root


def scans(root: Path) -> Path:
    for number in range(3):
        save_nifti(root / "a" / "images" / f"{number}.nii.gz", noise(3, 12, 10, seed=number))
        save_nifti(root / "a" / "masks" / f"{number}.nii.gz", square(3, 12, 10, value=1))
    return root


def ward(root: Path) -> Path:
    pytest.importorskip("pydicom")
    from tests import test_preparation_dicom

    return test_preparation_dicom.ward(root)


PUBLISHED = {
    "prostate": ("prostate", drawn_sources.prostate),
    "prostate, slices": ("prostate", slices_of_prostates),
    "fundus": ("fundus", drawn_sources.whole_fundus),
    "fundus, regions": ("fundus", drawn_sources.cut_out_fundus),
    "nuclei": ("nuclei", drawn_sources.nuclei),
    "fets": ("fets", drawn_sources.fets, "--slices"),
    "cxr": ("cxr", drawn_sources.chest),
    "retina": ("retina", vessels),
    "nifti": ("nifti", scans, "--slices"),
    "dicom": ("dicom", ward),
}


@pytest.mark.parametrize("which", PUBLISHED)
def test_a_data_set_that_is_prepared_twice_gives_the_same_files(which, tmp_path, monkeypatch):
    """Whatever the folders are called: what is written tells neither when nor where."""
    monkeypatch.setattr(cxr, "JSRT_SIDE", 2 * drawn_sources.SIDE)
    name, write, *words = PUBLISHED[which]
    source = write(tmp_path / "source")
    assert prepare(name, source, tmp_path / "out", "--workers", 1, *words) == 0
    source = source.rename(tmp_path / "elsewhere")
    assert prepare(name, source, tmp_path / "again", "--workers", 1, *words) == 0
    first, second = tree_hashes(tmp_path / "out"), tree_hashes(tmp_path / "again")
    assert first == second and len(first) > 4


def test_the_journal_is_plain_json_lines(tmp_path):
    assert prepare("folder", lungs(tmp_path / "source", {"a": 2}), tmp_path / "out") == 0
    head, *lines = (tmp_path / "out" / ".prepared.jsonl").read_text().splitlines()
    assert json.loads(head)["prepared"] == "folder" and len(lines) == 2
    assert all(str(tmp_path) not in line for line in lines)
