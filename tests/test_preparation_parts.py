"""The parts of preparation: splits, patterns, trees, and cases on the disk."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fedlit.data.reading import read_image, read_mask
from fedlit.errors import BadInput
from fedlit.preparation import writing
from fedlit.preparation.cases import Case, Decoded
from fedlit.preparation.decoding import drawn, picture
from fedlit.preparation.patterns import Pattern, tree
from fedlit.preparation.splits import as_fedfms, assigned
from tests.preparation_sources import noise, save, save_ppm_gz, square


def patients(*parts: tuple[str, str, str | None]) -> list[Case]:
    """Cases of (site, group, split)."""
    return [
        Case(site, f"{group}_{number}", group, drawn, (), split) for number, (site, group, split) in enumerate(parts)
    ]


def splits_of(cases) -> dict[str, str]:
    return {f"{case.site}/{case.name}": case.split for case in cases}


def test_no_split_separates_a_patient_and_none_depends_on_the_order():
    given = patients(*[("a", f"p{number // 3}", None) for number in range(30)])
    split = assigned(given, seed=0)
    done = split.cases
    assert splits_of(done) == splits_of(assigned(given[::-1], seed=0).cases)
    by_patient = {case.group: {each.split for each in done if each.group == case.group} for case in done}
    assert all(len(found) == 1 for found in by_patient.values())
    assert sorted(next(iter(found)) for found in by_patient.values()) == ["test"] * 2 + ["train"] * 7 + ["val"]
    assert split.notes(["a"]) == ["split: 70/10/20 of the patients by seed 0 at a"]
    assert splits_of(done) != splits_of(assigned(given, seed=1).cases)


def test_a_published_split_is_kept_validation_is_taken_from_training_and_torn_patients_go_to_the_later_split():
    given = patients(*[("a", f"p{number}", "train") for number in range(8)], ("a", "t", "test"), ("a", "p0", "test"))
    split = assigned(given, seed=0)
    found, notes = splits_of(split.cases), split.notes(["a"])
    assert found["a/p0_0"] == found["a/p0_9"] == found["a/t_8"] == "test"
    assert sorted(split for name, split in found.items() if not name.startswith(("a/p0", "a/t"))) == (
        ["train"] * 6 + ["val"]
    )
    assert "a p0" in notes[0] and "an eighth of the training patients" in notes[1]
    kept = [replace(case, split="val") if case.group == "p1" else case for case in given]
    assert splits_of(assigned(kept, seed=0).cases)["a/p1_1"] == "val"
    assert sum(split == "val" for split in splits_of(assigned(kept, seed=0).cases).values()) == 1


def test_a_split_is_said_only_of_sites_that_have_it():
    """A site with too few training patients gives none of them to val."""
    few, many = ("small", "p0", "train"), [("large", f"p{number}", "train") for number in range(8)]
    split = assigned(patients(few, *many, ("tiny", "p0", None)), seed=0)
    assert {case.site for case in split.cases if case.split == "val"} == {"large"}
    assert split.notes(["large"]) == [
        "split: as published; an eighth of the training patients, by seed 0, became val at large"
    ]
    assert split.notes(["small", "large", "tiny"]) == [
        "split: 70/10/20 of the patients by seed 0 at tiny",
        "split: as published; an eighth of the training patients, by seed 0, became val at large",
        "split: too few patients for a val at small, tiny",
    ]


def test_pictures_without_a_split_follow_their_patient():
    done = assigned(patients(*[("a", f"p{number}", None) for number in range(9)], ("a", "p4", "test")), seed=0).cases
    assert {case.split for case in done if case.group == "p4"} == {"test"}


def test_fedfms_pools_what_was_published_and_keeps_a_tenth_of_the_patients():
    given = [("a", f"p{number // 2}", (None, "train", "val", "test")[number % 4]) for number in range(40)]
    done = as_fedfms(patients(*given, *[("b", f"p{number}", "test") for number in range(3)]))
    assert splits_of(done) == splits_of(as_fedfms(done[::-1]))
    by_patient = {(case.site, case.group): set() for case in done}
    for case in done:
        by_patient[case.site, case.group].add(case.split)
    assert all(len(found) == 1 for found in by_patient.values())
    held_out = [site for (site, _), found in by_patient.items() if found == {"val"}]
    assert sorted(held_out) == ["a", "a", "b"] and {case.split for case in done} == {"train", "val"}
    assert assigned(done, seed=5).notes(["a", "b"]) == []


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        (
            "{site}/images/{case}_{slice}.png",
            "x/RUNMC/images/a_b_03.PNG",
            {"site": "RUNMC", "case": "a_b", "slice": "03"},
        ),
        ("{part:training|test}/{case}_{part}.tif", "training/21_training.tif", {"part": "training", "case": "21"}),
        ("{part:training|test}/{case}_{part}.tif", "training/21_test.tif", None),
        ("mask*/{case}.png", "masks/1.png", {"case": "1"}),
        ("mask*/{case}.png", "masks/x/1.png", None),
        ("a+b/{case}.png", "aab/1.png", None),
    ],
)
def test_patterns_read_paths(pattern, path, found):
    assert Pattern(pattern).match(path) == found


def test_a_tree_is_sorted_without_hidden_files_and_follows_links_once(tmp_path):
    save(tmp_path / "root" / "b" / "1.png", noise(4, 4))
    save(tmp_path / "root" / "a" / "1.png", noise(4, 4))
    save(tmp_path / "root" / "__MACOSX" / "1.png", noise(4, 4))
    (tmp_path / "root" / ".DS_Store").write_text("")
    os.symlink(tmp_path / "root", tmp_path / "root" / "a" / "loop")
    assert tree(tmp_path / "root").files == ("a/1.png", "b/1.png")


def test_a_source_that_cannot_be_listed_or_named_is_refused(tmp_path, monkeypatch):
    (tmp_path / "root" / "secret").mkdir(parents=True)
    (tmp_path / "root" / "1.png").write_bytes(b"")
    listed = os.scandir

    def forbidden(folder):
        if str(folder).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(BadInput, match="secret cannot be listed"):
        tree(tmp_path / "root")
    monkeypatch.undo()
    (Path(os.fsdecode(os.fsencode(tmp_path / "root") + b"/\xff.png"))).write_bytes(b"")
    with pytest.raises(BadInput, match="a name that is not UTF-8"):
        tree(tmp_path / "root")


def test_pictures_of_16_bits_keep_them_and_floats_become_npy(tmp_path):
    wide = (noise(9, 7).astype(np.uint16) * 257)[..., None].repeat(3, axis=-1)
    wide[..., 1] += 1
    for image, ending in ((wide, ".png"), (wide[..., 0], ".png"), (wide[..., 0].astype(np.float32), ".npy")):
        found, content = writing.encoded(image)
        assert found == ending
        path = tmp_path / f"x{ending}"
        path.write_bytes(content)
        assert np.array_equal(picture(path), image)


def test_ppm_and_gzip_are_read_and_damage_is_named(tmp_path):
    image = noise(6, 5, 3)
    save_ppm_gz(tmp_path / "a.ppm.gz", image)
    assert np.array_equal(picture(tmp_path / "a.ppm.gz"), image)
    (tmp_path / "b.ppm.gz").write_bytes((tmp_path / "a.ppm.gz").read_bytes()[:40])
    with pytest.raises(BadInput, match=r"b\.ppm\.gz: unreadable or truncated"):
        picture(tmp_path / "b.ppm.gz")


def test_a_volume_is_its_slices(tmp_path):
    """Slices -> volume -> slices is the identity; a slice of one value cannot be trained on and is left out, named."""
    image, mask = noise(5, 8, 6), square(5, 8, 6)
    image[2] = 0
    case = Case("s", "v", "v", partial(decoded, image, mask), ())
    whole = writing.write_case(case, (tmp_path / "a").resolve())
    parts = writing.write_case(replace(case, as_slices=True), (tmp_path / "b").resolve())
    (row,) = whole.rows
    stored = read_image(tmp_path / "a" / row["image"])
    assert stored.spacing == (3.0, 0.5, 0.25) and row["spacing"] == "3 0.5 0.25"
    assert np.array_equal(stored.array[..., 0], image)
    assert np.array_equal(read_mask(tmp_path / "a" / row["mask"]).array, mask)
    assert [row["slice"] for row in parts.rows] == ["0", "1", "3", "4"]
    assert {(row["volume"], row["slice_spacing"], row["spacing"]) for row in parts.rows} == {("v", "3", "0.5 0.25")}
    for row in parts.rows:
        number = int(row["slice"])
        assert np.array_equal(picture(tmp_path / "b" / row["image"]), stored.array[number, ..., 0])
        assert np.array_equal(picture(tmp_path / "b" / row["mask"]), mask[number])
    assert [each.what for each in parts.skipped] == ["s v slice 2"]


def decoded(image, mask) -> Decoded:
    return Decoded(image, mask, (3.0, 0.5, 0.25))


def test_names_from_files_cannot_leave_out(tmp_path):
    case = Case("a", "../../x", "g", partial(drawn), ())
    assert ".." not in writing.stem(case).split("/")
    assert writing.file_name("..") == "_.."
