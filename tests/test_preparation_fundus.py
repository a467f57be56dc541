"""Optic disc and cup: every published layout with its own values, written as 128 and 255."""

import numpy as np
import pytest

from fedlit.data.reading import read_image, read_mask
from tests.conftest import REAL_DATA
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
    assert "are read as 0 is cup, 128 disc rim, 255 background" in capsys.readouterr().out
    rows = rows_of(out)
    assert {row["site"] for row in rows} == {"Drishti-GS", "RIM-ONE_r3", "REFUGE_train", "REFUGE_val"}
    assert sorted(row["split"] for row in rows) == ["test"] * 4 + ["train"] * 4
    for row in rows:
        mask = read_mask(out / row["mask"]).array[0]
        assert set(np.unique(mask)) == {0, 128, 255} and 0 < (mask == 255).sum() < (mask > 0).sum() < mask.size / 2
        assert (mask[[0, -1]] == 0).all()
    check_and_plan(out, capsys)
