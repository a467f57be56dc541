"""Chest X-rays and retinal vessels: names, raw bytes and formats as published."""

import numpy as np
import pytest

from fedlit.data.reading import read_image, read_mask
from fedlit.errors import BadInput
from fedlit.preparation import cxr
from fedlit.preparation.decoding import bright
from tests.preparation_sources import (
    check_and_plan,
    description,
    noise,
    prepare,
    rows_of,
    save,
    save_ppm_gz,
    square,
)


def split_lungs(size: int) -> tuple[np.ndarray, np.ndarray]:
    left, right = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    left[size // 4 : size // 2, : size // 3] = 255
    right[size // 4 : size // 2, size // 2 :] = 255
    return left, right


def jsrt(root, monkeypatch, num: int = 4, side: int = 64):
    """JPCLN001.IMG: side x side big-endian 16 bits of which 12 are used; GIF masks of half the side in two folds."""
    monkeypatch.setattr(cxr, "JSRT_SIDE", side)
    left, right = split_lungs(side // 2)
    for number in range(1, num + 1):
        raw = np.random.default_rng(number).integers(0, 4096, (side, side)).astype(">u2")
        (root / "All247images").mkdir(parents=True, exist_ok=True)
        (root / "All247images" / f"JPCLN{number:03d}.IMG").write_bytes(raw.tobytes())
        for name, mask in (("left lung", left), ("right lung", right), ("heart", right)):
            save(root / "scratch" / f"fold{1 + number % 2}" / "masks" / name / f"JPCLN{number:03d}.gif", mask)
    return raw, (left | right)


def montgomery_and_shenzhen(root, size: int = 30):
    left, right = split_lungs(size)
    for number in range(1, 5):
        name = f"MCUCXR_{number:04d}_{number % 2}.png"
        save(root / "MontgomerySet" / "CXR_png" / name, noise(size, size, seed=number))
        save(root / "MontgomerySet" / "ManualMask" / "leftMask" / name, left)
        save(root / "MontgomerySet" / "ManualMask" / "rightMask" / name, right)
        name = f"CHNCXR_{number:04d}_{number % 2}"
        save(root / "ChinaSet_AllFiles" / "CXR_png" / f"{name}.png", noise(size, size, 3, seed=50 + number))
        if number < 4:
            save(root / "mask" / f"{name}_mask.png", left | right)


def covid_qu_ex(root):
    below = root / "COVID-QU-Ex" / "Lung Segmentation Data" / "Lung Segmentation Data"
    for place, part in enumerate(("Train", "Val", "Test")):
        for number, kind in enumerate(("COVID-19", "Non-COVID", "Normal")):
            name = f"{kind.lower()}_1.png"
            save(below / part / kind / "images" / name, noise(32, 32, seed=100 + 10 * place + number))
            save(below / part / kind / "lung masks" / name, square(32, 32))


def test_chest_x_rays(tmp_path, capsys, monkeypatch):
    source, out = tmp_path / "source", tmp_path / "out"
    raw, lungs = jsrt(source / "JSRT", monkeypatch)
    montgomery_and_shenzhen(source)
    assert prepare("cxr", source, out, "--workers", 1) == 0
    told = capsys.readouterr().out
    assert "masks of the left and the right lung are joined" in told
    rows = {row["image"]: row for row in rows_of(out)}
    assert len(rows) == 4 + 4 + 3
    row = rows["images/JSRT/JPCLN004.png"]
    assert row["spacing"] == "0.35 0.35"
    stored = read_image(out / row["image"]).array[0, ..., 0]
    means = (4095 - raw.astype(float)).reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert stored.dtype == np.uint16 and np.array_equal(stored, np.rint(means * 16))
    assert np.array_equal(read_mask(out / row["mask"]).array[0], lungs)
    joined = read_mask(out / rows["images/Montgomery/MCUCXR_0001_1.png"]["mask"]).array[0]
    assert np.array_equal(joined, np.maximum(*split_lungs(30)))
    assert rows["images/Montgomery/MCUCXR_0001_1.png"]["spacing"] == "0.0875 0.0875"
    check_and_plan(out, capsys, unseen=("Shenzhen",))


def test_raw_pictures_of_another_size_or_byte_order_are_named(tmp_path, monkeypatch):
    jsrt(tmp_path / "source", monkeypatch)
    folder = tmp_path / "source" / "All247images"
    (folder / "JPCLN001.IMG").write_bytes(b"\0" * 100)
    data = np.frombuffer((folder / "JPCLN002.IMG").read_bytes(), ">u2")
    (folder / "JPCLN002.IMG").write_bytes(data.astype("<u2").tobytes())
    assert prepare("cxr", tmp_path / "source", tmp_path / "out") == 3
    reasons = {each["what"]: each["reason"] for each in description(tmp_path / "out")["skipped"]}
    assert "100 bytes; a picture has 8192" in reasons["JSRT JPCLN001"]
    assert "12 bits, big-endian" in reasons["JSRT JPCLN002"]


def test_a_site_whose_pictures_are_all_refused_is_not_described(tmp_path, monkeypatch, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    jsrt(source, monkeypatch)
    montgomery_and_shenzhen(source)
    for path in (source / "All247images").iterdir():
        path.write_bytes(b"\0" * 100)
    assert prepare("cxr", source, out, "--workers", 1) == 3
    told, lines = capsys.readouterr().out, description(out)["conventions"]
    assert "split: 70/10/20 of the patients by seed 0 at Montgomery, Shenzhen" in lines
    assert "not found in SOURCE: cases of COVID-QU-Ex" in lines and all(line in told for line in lines)
    assert not [line for line in lines if "JSRT" in line] and "JSRT JPCLN001: JPCLN001.IMG: 100 bytes" in told


def test_covid_qu_ex_keeps_its_split(tmp_path, capsys):
    covid_qu_ex(tmp_path / "source")
    assert prepare("cxr", tmp_path / "source", tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out")
    assert sorted(row["split"] for row in rows) == ["test"] * 3 + ["train"] * 3 + ["val"] * 3
    check_and_plan(tmp_path / "out", capsys)


def test_one_lung_on_another_grid_is_named(tmp_path):
    montgomery_and_shenzhen(tmp_path / "source")
    name = "MCUCXR_0001_1.png"
    save(tmp_path / "source" / "MontgomerySet" / "ManualMask" / "rightMask" / name, square(20, 20))
    assert prepare("cxr", tmp_path / "source", tmp_path / "out") == 3
    (skipped,) = description(tmp_path / "out")["skipped"]
    assert "another grid" in skipped["reason"]


def retina(root):
    size = 36
    for number in range(1, 5):
        for part, offset in (("training", 20), ("test", 0)):
            base = root / "DRIVE" / part
            save(base / "images" / f"{number + offset:02d}_{part}.tif", noise(size, size, 3, seed=number + offset))
            save(base / "mask" / f"{number + offset:02d}_{part}_mask.gif", square(size, size))
            if part == "training" or number < 3:
                save(base / "1st_manual" / f"{number + offset:02d}_manual1.gif", square(size, size))
        for side in "LR":
            name = f"Image_{number:02d}{side}"
            save(root / "CHASEDB1" / f"{name}.jpg", noise(size, size, 3, seed=100 + number + ord(side)))
            for observer in ("1stHO", "2ndHO"):
                save(root / "CHASEDB1" / f"{name}_{observer}.png", square(size, size) > 0)
        save_ppm_gz(root / "stare-images" / f"im000{number}.ppm.gz", noise(size, size, 3, seed=300 + number))
        if number < 4:
            save_ppm_gz(root / "labels-ah" / f"im000{number}.ah.ppm.gz", square(size, size))
            save_ppm_gz(root / "labels-vk" / f"im000{number}.vk.ppm.gz", square(size, size))
        kind, ending = (("dr", "JPG"), ("g", "jpg"), ("h", "jpg"), ("h", "jpg"))[number - 1]
        save(
            root / "HRF" / "images" / f"{number:02d}_{kind}.{ending}",
            noise(size, size, 3, seed=400 + number),
            format="JPEG",
        )
        save(root / "HRF" / "manual1" / f"{number:02d}_{kind}.tif", square(size, size))
        save(root / "HRF" / "mask" / f"{number:02d}_{kind}_mask.tif", square(size, size))
        below = root / "FIVES A Fundus Image Dataset for AI-based Vessel Segmentation"
        for part in ("train", "test"):
            name = f"{number}_{'ADGN'[number - 1]}.png"
            save(below / part / "Original" / name, noise(size, size, 3, seed=500 + number + len(part) * 10))
            save(below / part / "Ground truth" / name, square(size, size)[..., None].repeat(3, axis=-1))


def test_retinal_vessels_of_five_sources(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    retina(source)
    assert prepare("retina", source, out) == 0
    assert "labels of Adam Hoover (ah)" in capsys.readouterr().out
    rows = rows_of(out)
    counts = {site: sum(row["site"] == site for row in rows) for site in {row["site"] for row in rows}}
    assert counts == {"DRIVE": 6, "CHASE_DB1": 8, "STARE": 3, "HRF": 4, "FIVES": 8}
    for row in rows:
        assert np.array_equal(read_mask(out / row["mask"]).array[0], square(36, 36)), row["mask"]
    assert {row["group"] for row in rows if row["site"] == "CHASE_DB1"} == {"01", "02", "03", "04"}
    assert sum(row["split"] == "test" for row in rows if row["site"] == "DRIVE") == 2
    assert {row["split"] for row in rows if row["site"] == "FIVES" and "test" in row["image"]} == {"test"}
    check_and_plan(out, capsys, unseen=("FIVES",))


def test_masks_of_0_and_1_are_white_too(tmp_path):
    save(tmp_path / "ones.png", square(8, 8, value=1))
    save(tmp_path / "smooth.png", square(8, 8, value=200, background=100))
    assert bright(tmp_path / "ones.png").sum() == bright(tmp_path / "smooth.png").sum() == 16
    save(tmp_path / "colour.ppm", noise(8, 8, 3))
    with pytest.raises(BadInput, match="in colour"):
        bright(tmp_path / "colour.ppm")
