"""Optic disc and cup: every published layout with its own values, written as 128 and 255."""

import json
import shlex

import numpy as np
import pytest

from fedlit.data.reading import read_image, read_mask
from tests.conftest import REAL_DATA, fedlit
from tests.preparation_sources import check_and_plan, description, noise, prepare, rows_of, save

SAMPLES = REAL_DATA / "published_layouts" / "Fundus"
SIZE = 40


def nested(cup: int, rim: int, background: int, size: int = SIZE) -> np.ndarray:
    mask = np.full((size, size), background, np.uint8)
    mask[10:30, 10:30] = rim
    mask[16:24, 16:24] = cup
    return mask


WRITTEN = nested(255, 128, 0)


def photograph(seed: int, width: int = SIZE) -> np.ndarray:
    return noise(SIZE, width, 3, seed=seed)


def refuge(root):
    for number in range(1, 5):
        for kind, letter in (("Glaucoma", "g"), ("Non-Glaucoma", "n")):
            name = f"{letter}{number:04d}"
            save(root / "Training400" / kind / f"{name}.jpg", photograph(1000 + number + ord(letter)))
            folder = root / "Annotation-Training400" / "Annotation-Training400" / "Disc_Cup_Masks" / kind
            save(folder / f"{name}.bmp", nested(0, 128, 255))
        save(root / "REFUGE-Validation400" / f"V{number:04d}.jpg", photograph(50 + number))
        save(root / "REFUGE-Validation400-GT" / "Disc_Cup_Masks" / f"V{number:04d}.bmp", nested(0, 128, 255))
        save(root / "Test400" / f"T{number:04d}.jpg", photograph(70 + number))
        folder = root / "REFUGE-Test-GT" / "Disc_Cup_Masks" / ("G" if number == 1 else "N")
        save(folder / f"T{number:04d}.bmp", nested(0, 128, 255))


def origa_and_g1020(root):
    for number in range(1, 5):
        save(root / "ORIGA" / "Images" / f"{number:03d}.jpg", photograph(100 + number))
        save(root / "ORIGA" / "Images_Square" / f"{number:03d}.jpg", photograph(100 + number))
        save(root / "ORIGA" / "Masks" / f"{number:03d}.png", nested(2, 1, 0))
        save(root / "G1020" / "Images" / f"image_{number}.jpg", photograph(200 + number))
        save(root / "G1020" / "Masks" / f"image_{number}.png", nested(2, 1, 0))


def drishti(root):
    for number in range(1, 7):
        part, truth = ("Training", "GT") if number < 5 else ("Test", "Test_GT")
        name = f"drishtiGS_{number:03d}"
        kind = "GLAUCOMA" if number % 2 else "NORMAL"
        images = root / "Drishti-GS1_files" / part / "Images"
        save((images / kind if number < 6 else images) / f"{name}.png", photograph(300 + number))
        softmaps = root / "Drishti-GS1_files" / part / truth / name / "SoftMap"
        disc = np.where(nested(1, 1, 0) > 0, 255, 64).astype(np.uint8)  # one of four experts drew everything
        save(softmaps / f"{name}_ODsegSoftmap.png", disc)
        save(softmaps / f"{name}_cupsegSoftmap.png", np.where(nested(1, 0, 0) > 0, 191, 0).astype(np.uint8))


def rim_one(root):
    for kind, letter in (("Healthy", "N"), ("Glaucoma and suspects", "G")):
        for number, side in ((1, "L"), (1, "R"), (2, "L")):
            name = f"{letter}-{number}-{side}"
            folder = root / "RIM-ONE r3" / kind
            save(folder / "Stereo Images" / f"{name}.jpg", photograph(400 + number + ord(side) + ord(letter), 2 * SIZE))
            for part, inside in (("Disc", nested(255, 255, 0)), ("Cup", nested(255, 0, 0))):
                both = np.concatenate([inside, np.zeros_like(inside)], axis=1)
                save(folder / "Expert1_masks" / f"{name}-1-{part}-exp1.png", both)
                (folder / "Expert1_masks" / f"{name}-1-{part}-exp1.txt").write_text("points")
                save(folder / "Expert2_masks" / f"{name}-2-{part}-exp2.png", both)


def test_all_sources_are_read_by_their_own_values(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    for write in (refuge, origa_and_g1020, drishti, rim_one):
        write(source)
    assert prepare("fundus", source, out) == 0
    told = capsys.readouterr().out
    assert "masks of REFUGE are read as 0 is cup, 128 disc rim, 255 background" in told
    assert "masks of G1020, ORIGA are read as 0 is background, 1 disc rim, 2 cup" in told
    rows = rows_of(out)
    counts = {site: sum(row["site"] == site for row in rows) for site in sorted({row["site"] for row in rows})}
    assert counts == {"Drishti-GS1": 6, "G1020": 4, "ORIGA": 4, "REFUGE": 16, "RIM-ONE_r3": 6}
    for row in rows:
        assert np.array_equal(read_mask(out / row["mask"]).array[0], WRITTEN), row["mask"]
        assert read_image(out / row["image"]).array.shape == (1, SIZE, SIZE, 3)
    splits = {row["image"].split("/")[-1][:-4]: row["split"] for row in rows if row["site"] == "REFUGE"}
    assert {splits[f"V000{n}"] for n in range(1, 5)} == {"val"} and splits["T0003"] == "test"
    assert {splits[f"{letter}000{n}"] for letter in "gn" for n in range(1, 5)} == {"train"}
    assert {row["split"] for row in rows if "drishtiGS_005" in row["image"]} == {"test"}
    assert {row["group"] for row in rows if row["site"] == "RIM-ONE_r3"} == {"N-1", "N-2", "G-1", "G-2"}
    check_and_plan(out, capsys, unseen=("ORIGA",))
    assert "not found in SOURCE: cases of RIM-ONE_DL\n" in told, "whole pictures were found: nothing of ROIs"
    words = ("--split", "fedfms", "--sites", "REFUGE,Drishti-GS1")
    assert prepare("fundus", source, out, *words) == 0
    told = capsys.readouterr().out
    assert "split: FedFMS, a tenth of a site's patients" in told and "masks of Drishti-GS1 are" in told
    assert not [word for word in ("ORIGA", "RIM-ONE", "not found", "as published") if word in told]
    counts = {site: [sum(row["site"] == site and row["split"] == split for row in rows_of(out))
                     for split in ("train", "val", "test")] for site in ("REFUGE", "Drishti-GS1")}  # fmt: skip
    assert counts == {"REFUGE": [14, 2, 0], "Drishti-GS1": [5, 1, 0]}


def refuge_repacked(root, masks: str, *, test: bool):
    """{train,val,test}/Images with the owner's values in gts/*.bmp, or with 0, 1, 2 in Masks/*.png."""
    name, mask = (".bmp", nested(0, 128, 255)) if masks == "gts" else (".png", nested(2, 1, 0))
    for number in range(1, 5):
        for part, letter in (("train", "g"), ("train", "n"), ("val", "V"), ("test", "T")):
            case = f"{letter}{number:04d}"
            save(root / "REFUGE" / part / "Images" / f"{case}.jpg", photograph(7 * number + ord(letter)))
            if test or part != "test":
                save(root / "REFUGE" / part / masks / f"{case}{name}", mask)
        (root / "REFUGE" / "train" / "index.json").write_text("{}")


def rim_one_dl(root):
    seed = 0
    for part, cases in (
        ("training_set", ("r1_Im001", "r2_Im003", "r3_G-1-L", "r3_G-1-R")),
        ("test_set", ("r1_Im002",)),
    ):
        for case in cases:
            seed += 1
            for partition in ("partitioned_by_hospital", "partitioned_randomly"):
                folder = "test_set" if partition == "partitioned_randomly" else part
                images = root / "RIM-ONE_DL_images" / partition / folder / "glaucoma"
                save(images / f"{case}.png", photograph(900 + seed))
            masks = root / "RIM-ONE_DL_reference_segmentations" / "glaucoma"
            save(masks / f"{case}-1-Disc-T.png", nested(255, 255, 0))
            save(masks / f"{case}-1-Cup-T.png", nested(255, 0, 0))


def origa_matrices(root, number: int = 4):
    from scipy.io import savemat

    for case in range(1, number + 1):
        save(root / "ORIGA" / "Images" / f"{case:03d}.jpg", photograph(100 + case))
        (root / "ORIGA" / "Semi-automatic-annotations").mkdir(exist_ok=True)
        values = nested(2, 1, 0)
        savemat(root / "ORIGA" / "Semi-automatic-annotations" / f"{case:03d}.mat", {"mask": values})


def g1020_outlines(root):
    """LabelMe beside the pictures: disc, cup (not in every picture) and discLoc, a box."""
    box = [[10, 10], [29, 10], [29, 29], [10, 29]]
    for number in range(4):
        save(root / "G1020" / "Images" / f"image_{number}.jpg", photograph(200 + number))
        shapes = [{"label": "discLoc", "points": [[5, 5], [35, 35]], "shape_type": "rectangle"},
                  {"label": "disc", "points": box, "shape_type": "polygon"}]  # fmt: skip
        if number:
            inner = [[16.2, 16], [23, 15.8], [23, 23], [16, 23]]
            shapes.append({"label": "cup", "points": inner, "shape_type": "polygon"})
        told = {"shapes": shapes, "imagePath": f"image_{number}.jpg", "imageData": None}
        (root / "G1020" / "Images" / f"image_{number}.json").write_text(json.dumps(told))


def test_further_copies_of_the_same_sets(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    refuge_repacked(source, "gts", test=False)
    rim_one_dl(source)
    origa_matrices(source)
    g1020_outlines(source)
    assert prepare("fundus", source, out, "--workers", 1) == 0
    told = capsys.readouterr().out
    assert "masks of ORIGA are read as 0 is background, 1 disc rim, 2 cup, from `mask` of the .mat files" in told
    assert "masks of G1020 are read as the polygons disc and cup of the .json files, filled" in told
    assert "masks of RIM-ONE_DL are read as one mask of the disc and one of the cup" in told
    rows = rows_of(out)
    counts = {site: sum(row["site"] == site for row in rows) for site in sorted({row["site"] for row in rows})}
    assert counts == {"G1020": 4, "ORIGA": 4, "REFUGE": 12, "RIM-ONE_DL": 5}, "pictures for test have no masks"
    for row in rows:
        expected = nested(128, 128, 0) if row["image"].endswith("image_0.png") else WRITTEN
        assert np.array_equal(read_mask(out / row["mask"]).array[0], expected), row["mask"]
    by_name = {row["image"].split("/")[-1][:-4]: row for row in rows}
    assert by_name["V0001"]["split"] == "val" and by_name["r1_Im002"]["split"] == "test", "divided by hospital"
    assert by_name["r3_G-1-L"]["group"] == by_name["r3_G-1-R"]["group"] == "r3_G-1"


def test_of_two_copies_one_is_taken(tmp_path):
    source = tmp_path / "source"
    refuge(source / "original")
    refuge_repacked(source / "other", "gts", test=True)
    assert prepare("fundus", source, tmp_path / "out", "--workers", 1) == 0
    assert len(rows_of(tmp_path / "out")) == 16
    refuge_repacked(source / "again", "Masks", test=True)
    refuge_repacked(source / "again", "gts", test=False)
    assert prepare("fundus", source / "again", tmp_path / "out2", "--workers", 1) == 0
    rows = rows_of(tmp_path / "out2")
    assert {split: sum(row["split"] == split for row in rows) for split in ("train", "val", "test")} == {
        "train": 8, "val": 4, "test": 4}  # fmt: skip
    assert all(np.array_equal(read_mask(tmp_path / "out2" / row["mask"]).array[0], WRITTEN) for row in rows)


def test_damaged_matrices_and_outlines_are_named(tmp_path):
    from scipy.io import savemat

    source = tmp_path / "source"
    origa_matrices(source, 5)
    g1020_outlines(source)
    (source / "ORIGA" / "Semi-automatic-annotations" / "001.mat").write_bytes(b"MATLAB no more")
    savemat(source / "ORIGA" / "Semi-automatic-annotations" / "002.mat", {"other": nested(2, 1, 0)})
    (source / "G1020" / "Images" / "image_1.json").write_text('{"shapes": [{"label": "cup", "points": [[1, 1]]}]}')
    (source / "G1020" / "Images" / "image_2.json").write_text("[]")
    assert prepare("fundus", source, tmp_path / "out", "--workers", 1) == 3
    reasons = {each["what"]: each["reason"] for each in description(tmp_path / "out")["skipped"]}
    assert "001.mat: unreadable or truncated" in reasons["ORIGA 001"]
    assert reasons["ORIGA 002"] == "002.mat: has no variable `mask`"
    assert reasons["G1020 image_1"] == "image_1.json: holds no polygon `disc`"
    assert "image_2.json: no list of outlines" in reasons["G1020 image_2"] and len(reasons) == 4


def test_a_layout_that_is_not_read_is_named_with_what_to_do(tmp_path, capsys):
    for number in range(4):
        save(tmp_path / "source" / "Images_Square" / f"{number:03d}.jpg", photograph(number))
        save(tmp_path / "source" / "Masks_Square" / f"{number:03d}.png", nested(2, 1, 0))
    assert prepare("fundus", tmp_path / "source", tmp_path / "out") == 2
    said = capsys.readouterr().err
    told = "the square and cropped copies of ORIGA, G1020 and REFUGE (Images_Square, Images_Cropped): not read; "
    assert told in said and "SMDG" not in said
    words = said.split(told)[1].split("`")[1].replace("SOURCE", f"{tmp_path}/source").replace("OUT", f"{tmp_path}/out")
    assert fedlit(*shlex.split(words)[1:]) == 0, "what the message says works"
    assert description(tmp_path / "out")["labels"] == {"disc": [1, 2], "cup": 2}
    capsys.readouterr()
    assert fedlit("prepare", "fundus", "--help") == 0
    said = capsys.readouterr().out
    assert "- G1020: Images/{case}.jpg with Images/{case}.json\n" in said
    assert "- SMDG (full-fundus, optic-disc, optic-cup): join the two masks" in said and "Exit codes" in said


def test_the_ring_is_another_reading_of_the_same_files(tmp_path):
    refuge(tmp_path / "source")
    assert prepare("fundus", tmp_path / "source", tmp_path / "out") == 0
    assert description(tmp_path / "out")["labels"] == {"disc": [128, 255], "cup": 255}
    before = (tmp_path / "out" / "sites.csv").read_bytes()
    assert prepare("fundus", tmp_path / "source", tmp_path / "out", "--ring") == 0
    assert description(tmp_path / "out")["labels"] == {"disc": 128, "cup": 255}
    assert (tmp_path / "out" / "sites.csv").read_bytes() == before


def test_other_values_other_sizes_and_lost_partners_are_named(tmp_path, capsys):
    refuge(tmp_path / "source")
    save(tmp_path / "source" / "REFUGE-Validation400-GT" / "Disc_Cup_Masks" / "V0001.bmp", nested(2, 1, 0))
    save(tmp_path / "source" / "Test400" / "T0002.jpg", photograph(1, 30))
    (tmp_path / "source" / "Test400" / "T0003.jpg").unlink()
    (tmp_path / "source" / "ORIGA" / "Masks").mkdir(parents=True)
    save(tmp_path / "source" / "ORIGA" / "Masks" / "001.png", nested(2, 1, 0))
    assert prepare("fundus", tmp_path / "source", tmp_path / "out") == 3
    reasons = {each["what"]: each["reason"] for each in description(tmp_path / "out")["skipped"]}
    assert reasons["REFUGE V0001"] == "V0001.bmp: values [1, 2]; known are 255, 128, 0"
    assert "another grid than its image, 40x30 and 40x40" in reasons["REFUGE T0002"]
    assert "a mask without a picture" in reasons["REFUGE-Test-GT/Disc_Cup_Masks/N/T0003.bmp"]
    assert "but no picture as ORIGA/Images/{case}.jpg" in reasons["ORIGA"]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples are not here")
def test_the_real_regions_of_interest(tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare("fundus", SAMPLES, out) == 0
    told = capsys.readouterr().out
    assert "are read as 0 is cup, 128 disc rim, 255 background" in told
    assert "became val" not in told and "too few patients for a val at Drishti-GS, REFUGE_train" in told
    assert "not found" not in told
    rows = rows_of(out)
    assert {row["site"] for row in rows} == {"Drishti-GS", "RIM-ONE_r3", "REFUGE_train", "REFUGE_val"}
    assert sorted(row["split"] for row in rows) == ["test"] * 4 + ["train"] * 4
    for row in rows:
        mask = read_mask(out / row["mask"]).array[0]
        assert set(np.unique(mask)) == {0, 128, 255} and 0 < (mask == 255).sum() < (mask > 0).sum() < mask.size / 2
        assert (mask[[0, -1]] == 0).all()
    check_and_plan(out, capsys)
