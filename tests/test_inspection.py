"""Laws of fedlit/inspection: every planted fault is found, clean data have none, and the page gives away no picture."""

from __future__ import annotations

import csv
import io
import random
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fedlit.data.manifest import read_manifest
from fedlit.errors import BadInput
from fedlit.inspection import inspect, write_page
from fedlit.inspection.alikeness import NUM_BITS, close_pairs
from fedlit.inspection.findings import robust_scores
from fedlit.inspection.gathering import each
from fedlit.inspection.measuring import FEATURES, NUM_BINS, fingerprint, look
from fedlit.inspection.summarising import distance
from fedlit.inspection.telling import tell
from tests.conftest import fedlit
from tests.test_report import Page

COLUMNS = ["site", "image", "mask", "split", "group", "spacing"]


def scene(seed: int, *, size: int = 64, level: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Blobs that differ from seed to seed, and a disc as the mask: uint8 [H, W] each."""
    noise = np.random.default_rng(seed)
    blobs = Image.fromarray(noise.integers(40, 200, (17, 17), np.uint8))
    coarse = blobs.resize((size, size), Image.Resampling.BICUBIC)
    rows, columns = np.mgrid[:size, :size]
    height, width = size * noise.uniform(0.4, 0.6, 2)
    disc = (rows - height) ** 2 + (columns - width) ** 2 < (size * noise.uniform(0.2, 0.22)) ** 2
    return (np.asarray(coarse) * 0.7 + 20 + level).clip(0, 255).astype(np.uint8), disc.astype(np.uint8) * 255


class Data:
    """A manifest under construction."""

    def __init__(self, root: Path):
        self.root, self.rows = root, []

    def add(self, site, name, split, group, image, mask, spacing="") -> None:
        for prefix, array in (("", image), ("mask_", mask)):
            Image.fromarray(array).save(self.root / f"{prefix}{name}.png")
        self.rows.append([site, f"{name}.png", f"mask_{name}.png", split, group, spacing])

    def write(self) -> Path:
        with (self.root / "sites.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([COLUMNS, *self.rows])
        return self.root


@pytest.fixture
def data(tmp_path):
    """Two sites of ten cases, `b` brighter than `a`, with nothing to complain about."""
    (tmp_path / "data").mkdir()
    made = Data(tmp_path / "data")
    for place, site in enumerate("ab"):
        for number in range(10):
            split = ("train", "train", "train", "val", "test")[number % 5]
            made.add(site, f"{site}{number}", split, f"p{number}", *scene(100 * place + number, level=50 * place))
    made.write()
    return made


def texts(found, kind=None) -> str:
    return "\n".join(finding.text for finding in found.findings if kind in (None, finding.kind))


def test_clean_data_have_no_finding_and_right_numbers(data):
    found = inspect(data.root)
    assert found.findings == ()
    one, two = found.sites
    assert {one.name, two.name} == {"a", "b"} and (one.num_cases, one.splits, one.num_patients) == (10, (6, 2, 2), 10)
    assert one.distance == pytest.approx(two.distance) == pytest.approx(50 / 255, abs=0.02)
    for seen in found.looks:
        image, mask = (np.asarray(Image.open(path)) for path in (seen.row.image, seen.row.mask))
        assert seen.brightness == pytest.approx(image.mean() / 255, abs=1e-6)
        assert seen.features[1] == pytest.approx(image.std() / 255, abs=1e-6)
        assert seen.features[FEATURES.index("50 % quantile")] == pytest.approx(np.median(image) / 255, abs=1 / 255)
        assert seen.foreground == pytest.approx((mask > 0).mean())
        assert (seen.size, seen.values, seen.low, seen.high) == ((64, 64), (0, 255), image.min(), image.max())
    assert found.map is not None and found.map.places.shape == (20, 2)


def test_the_order_of_rows_is_irrelevant(data):
    before = inspect(data.root)
    random.Random(0).shuffle(data.rows)
    data.write()
    after = inspect(data.root)
    assert [site.name for site in before.sites] == [site.name for site in after.sites]
    numbers = {seen.row.name: seen.features.tolist() for seen in before.looks}
    assert numbers == {seen.row.name: seen.features.tolist() for seen in after.looks}


def test_copies_are_found_however_they_are_hidden(data):
    image, mask = scene(0)  # a0, a training picture
    packed = io.BytesIO()
    Image.fromarray(image).resize((48, 48)).save(packed, "JPEG", quality=60)
    faded = (np.asarray(Image.open(packed)) * 0.8 + 20).astype(np.uint8)
    data.add("b", "copy", "test", "stranger", faded, np.asarray(Image.fromarray(mask).resize((48, 48))))
    data.write()
    found = inspect(data.root)
    assert not found.errors
    assert "a0.png (a, train, line 2) and copy.png (b, test, line 22) are nearly the same picture" in texts(found)
    assert "in two splits and at two sites and of two patients" in texts(found)
    data.rows[-1][3:5] = ["train", "p0"]  # a second look at a patient of the same name at b is still another patient
    data.rows[-1][0] = "a"
    data.write()
    assert "nearly the same" not in texts(inspect(data.root)), "two pictures of one patient may be alike"


def test_what_a_run_refuses_is_an_error(data):
    shutil.copy(data.root / "a0.png", data.root / "b0.png")
    (data.root / "a1.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(data.root / "mask_a2.png")
    data.rows[4][4] = data.rows[0][4]  # a4 is a test picture
    data.write()
    found = inspect(data.root)
    said = texts(found, "error")
    assert len(found.errors) == 4
    assert "sites.csv line 3" in said and "unreadable" in said
    assert "sites.csv line 4" in said and "differ in size, 64x64 and 9x9" in said
    assert "patient 'p0' of site 'a' is in train (line 2) and test (line 6)" in said
    assert "the same picture is a0.png (a, train, line 2) and b0.png (b, train, line 12)" in said
    assert len(found.looks) == 18 and found.num_rows == 20


def test_labels_that_cannot_be_meant_are_named(data):
    for name in ("a1", "a3"):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(data.root / f"mask_{name}.png")
    for number in range(10):
        path = data.root / f"mask_b{number}.png"
        Image.fromarray((np.asarray(Image.open(path)) == 0).astype(np.uint8)).save(path)
    found = inspect(data.root)
    said = texts(found)
    assert "site a: 2 of 10 cases have an empty mask: a1.png, a3.png" in said
    assert "site b: foreground fills 8" in said and "looks inverted; is 0 the value of no class" in said
    assert "mask values differ between sites: a 255; b 1; data.labels must name all" in said
    assert "site b: foreground fills" not in texts(inspect(data.root, background=1))
    smooth = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    Image.fromarray(smooth).save(data.root / "mask_a5.png")
    assert "the masks of 1 cases hold more than 16 values, as JPEG makes them: a5.png" in texts(inspect(data.root))


def test_one_mask_for_two_pictures_and_a_picture_twice_are_named(data):
    shutil.copy(data.root / "mask_a0.png", data.root / "mask_b7.png")
    shutil.copy(data.root / "a1.png", data.root / "a2.png")
    said = texts(inspect(data.root), "alike")
    assert "a0.png (a, train, line 2), b7.png (b, train, line 19) are different pictures with the same mask" in said
    assert "a1.png (a, train, line 3), a2.png (a, train, line 4) are the same picture" in said


def test_outliers_and_mixtures_are_named(data):
    image, _ = scene(3)
    Image.fromarray((image * 0.1).astype(np.uint8)).save(data.root / "a3.png")
    large = np.zeros((64, 64), np.uint8)
    large[4:50] = 255
    Image.fromarray(large).save(data.root / "mask_a4.png")
    Image.fromarray(np.stack([scene(107)[0]] * 3, -1)).save(data.root / "b7.png")
    data.add("b", "huge", "train", "p99", *scene(77, size=512, level=50), spacing="0.5")
    data.write()
    found = inspect(data.root)
    assert {finding.rows[0].name for finding in found.findings if finding.kind == "outlier"} >= {
        "a3.png", "a4.png", "huge.png"}  # fmt: skip
    assert "unusual brightness at a: 0.0" in texts(found) and "512 x 512, usual 64 a side" in texts(found)
    assert "grey pictures at a, b, colour at b" in texts(found)
    assert "no spacing is known for cases of a, b" in texts(found)


def test_a_volume_is_one_case_of_many_pictures(tmp_path):
    noise = np.random.default_rng(0)
    for number in range(3):
        voxels = noise.integers(0, 900, (20, 16, 5)).astype(np.int16)
        labels = np.zeros((20, 16, 5), np.uint8)
        labels[4:9, 4:9, 1:3] = 1
        for name, array in (("v", voxels), ("m", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([0.5, 0.6, 3.0, 1])), tmp_path / f"{name}{number}.nii.gz")
    rows = [["s", f"v{number}.nii.gz", f"m{number}.nii.gz", "train", f"p{number}", ""] for number in range(3)]
    made = Data(tmp_path)
    made.rows = rows
    (site,) = inspect(made.write()).sites
    assert (site.num_cases, site.num_pictures, site.num_empty) == (3, 15, 0)
    assert (site.sizes, site.spacing, site.distance) == ("16 × 20", "3 × 0.6 × 0.5", None)
    found, histogram = look(read_manifest(tmp_path)[0])
    assert found.num_empty == 3 and histogram.sum() == pytest.approx(1) and len(histogram) == NUM_BINS
    write_page(inspect(tmp_path), tmp_path / "page.html")
    assert "3 × 0.6 × 0.5" in (tmp_path / "page.html").read_text()


def nine_volumes(whole: Path, apart: Path) -> list[list]:
    """In files of 5 slices, and slice by slice, of which the rows are returned. p0 is dark, of p3 nothing is drawn."""
    noise = np.random.default_rng(0)
    rows, slices = [COLUMNS], [[*COLUMNS, "slice", "slice_spacing"]]
    for root in (whole, apart):
        root.mkdir()
    for number in range(9):
        voxels = noise.integers(1, 256, (5, 20, 16)).astype(np.uint8) if number else np.full((5, 20, 16), 7, np.uint8)
        voxels[:, 0, 0] = 0
        labels = np.zeros_like(voxels)
        labels[1:3, 4:9, 4 : 8 + number % 2] = number != 3
        for name, array in (("v", voxels), ("m", labels)):
            np.save(whole / f"{name}{number}.npy", array)
            for place, plane in enumerate(array):
                Image.fromarray(plane).save(apart / f"{name}{number}_{place}.png")
        rows.append(["s", f"v{number}.npy", f"m{number}.npy", "train", f"p{number}", "3 0.5 0.5"])
        for place in (3, 1, 0, 2, 4):
            files = [f"v{number}_{place}.png", f"m{number}_{place}.png"]
            slices.append(["s", *files, "train", f"p{number}", "0.5 0.5", place, 3])
    write_rows(whole, rows)
    write_rows(apart, slices)
    return slices


def write_rows(root: Path, rows: list[list]) -> None:
    with (root / "sites.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def test_slices_in_files_of_their_own_are_the_volume_that_they_were(tmp_path):
    """Whatever is told of cases is the same as where one file holds them; an empty slice is no empty case."""
    nine_volumes(tmp_path / "whole", tmp_path / "apart")
    whole, apart = (inspect(tmp_path / name) for name in ("whole", "apart"))
    assert (len(apart.looks), len(apart.cases), apart.num_rows) == (45, 9, 45) and not apart.errors
    (one,), (two,) = whole.sites, apart.sites
    for name in ("num_cases", "num_volumes", "num_pictures", "num_patients", "num_empty", "splits", "sizes", "spacing",
                 "stored", "values"):  # fmt: skip
        assert getattr(one, name) == getattr(two, name), name
    assert (two.num_cases, two.num_volumes, two.num_pictures, two.num_empty) == (9, 9, 45, 1)
    assert two.foreground == pytest.approx(one.foreground) and two.histogram == pytest.approx(one.histogram)
    assert "site s: 1 of 9 cases have an empty mask: p3" in texts(apart)
    assert "p0 (s, train, line " in texts(apart, "outlier").split("\n")[0], "named as the volume"
    console = Console(width=120, file=io.StringIO())
    tell(apart, console)
    assert console.file.getvalue().split()[:5] == ["site", "cases", "volumes", "pictures", "patients"]
    narrow = Console(width=64, file=io.StringIO())
    tell(apart, narrow)
    heads, row = narrow.file.getvalue().splitlines()[:2]
    assert heads.split() == ["site", "cases", "volumes", "pictures", "patients", "foreground", "distance"]
    assert row.split()[:4] == ["s", "9", "9", "45"], "what there is no room for gives way, not the site"
    write_page(apart, tmp_path / "page.html")
    page = Page(tmp_path / "page.html").source
    assert "<dt>Cases</dt><dd>9</dd>" in page and "<dt>Volumes</dt><dd>9</dd>" in page
    assert "<dt>Pictures</dt><dd>45</dd>" in page


def test_slices_that_are_no_volume_are_an_error(tmp_path):
    slices = nine_volumes(tmp_path / "whole", tmp_path / "apart")
    (tmp_path / "apart" / "v4_2.png").write_bytes(b"no picture")
    slices[1][6] = 1  # slice 3 of p0 is numbered 1 a second time
    write_rows(tmp_path / "apart", slices)
    found = inspect(tmp_path / "apart")
    said = texts(found, "error")
    assert "volume 'p0' of site 's' has slice 1 twice" in said and "v4_2.png" in said and len(found.errors) == 2
    write_page(found, tmp_path / "page.html", with_pictures=False)
    assert "44 of 45 rows could be read" in Page(tmp_path / "page.html").source


def test_a_fingerprint_survives_what_a_copy_suffers_and_tells_pictures_apart():
    images = [scene(seed, size=128)[0] for seed in range(40)]
    marks = [fingerprint(image.astype(np.float32)) for image in images]
    half = [fingerprint(np.asarray(Image.fromarray(image).resize((64, 64))).astype(np.float32)) for image in images]
    pairs = list(close_pairs(marks + half, list(range(80))))
    assert [(pair.first, pair.second) for pair in pairs] == [(seed, seed + 40) for seed in range(40)]
    assert list(close_pairs(marks + half, list(range(40)) * 2)) == [], "the same patient"
    assert list(close_pairs([], [])) == []
    assert len(list(close_pairs(marks[:2], [0, 1], most=NUM_BITS))) == 1


def test_pairs_are_found_across_blocks(monkeypatch):
    import fedlit.inspection.alikeness as alikeness

    marks = [fingerprint(scene(seed)[0].astype(np.float32)) for seed in (1, 2, 3, 4, 1, 5, 3)]
    whole = list(close_pairs(marks, range(7)))
    monkeypatch.setattr(alikeness, "BLOCK", 2)
    assert sorted(close_pairs(marks, range(7))) == sorted(whole) == [(0, 4, 0), (2, 6, 0)]


def test_distance_is_how_far_intensities_move():
    point = np.eye(NUM_BINS)
    assert distance(point[3], point[3]) == 0
    assert distance(point[0], point[32]) == distance(point[32], point[0]) == 0.5


def test_robust_scores_are_in_units_of_the_spread():
    values = np.random.default_rng(0).normal(5, 2, 4001)
    assert robust_scores(values).std() == pytest.approx(1, abs=0.05)
    assert robust_scores([1, 1, 1, 1, 1, 1, 1, 9])[-1] > 3.5, "when most values are equal"
    assert not robust_scores([1] * 9).any() and not robust_scores([1, 2, 900]).any()


def test_processes_see_what_one_process_sees(data):
    rows = read_manifest(data.root)
    (data.root / "a1.png").write_bytes(b"no picture")
    alone, together = (list(each(look, rows, num_workers=number)) for number in (1, 2))
    for one, two in zip(alone, together, strict=True):
        if isinstance(one, BadInput):
            assert str(one).split("(")[0] == str(two).split("(")[0]
        else:
            assert one[0].row == two[0].row and one[0].features.tobytes() == two[0].features.tobytes()
            assert one[1].tobytes() == two[1].tobytes()
    assert sum(isinstance(one, BadInput) for one in alone) == 1


def test_the_page_needs_nothing_else_and_is_the_same_every_time(data, tmp_path):
    shutil.copy(data.root / "mask_a0.png", data.root / "mask_b7.png")
    found = inspect(data.root)
    write_page(found, tmp_path / "one.html")
    write_page(found, tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    page = Page(tmp_path / "one.html")
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert sum(link.startswith("data:") for link in page.links) == 8 + 2, "four of each site and the pair"
    assert "20" in page.text and "1 warning" in page.text and "with the same mask" in page.text


def test_without_pictures_there_is_none(data, tmp_path):
    write_page(inspect(data.root), tmp_path / "page.html", with_pictures=False)
    page = Page(tmp_path / "page.html")
    assert "base64" not in page.source and "image" not in page.tags and "Left out on request" in page.text
    assert "Intensities" in page.text and "Foreground" in page.text


def test_names_are_text_on_the_page(data, tmp_path):
    name = "x<script>alert(1)<"
    data.add("a", name, "train", "p50", *scene(50))
    data.write()
    write_page(inspect(data.root), tmp_path / "page.html")
    assert "script" not in Page(tmp_path / "page.html").tags


def test_many_sites_give_a_small_page(tmp_path):
    made = Data(tmp_path)
    for number in range(24):
        made.add(f"site {number}", f"c{number}", "train", "p", *scene(number, size=24))
    made.write()
    write_page(inspect(tmp_path), tmp_path / "page.html", with_pictures=False)
    assert (tmp_path / "page.html").stat().st_size < 3e6


def test_the_command_writes_the_page_beside_the_data_and_tells(data, capsys, tmp_path):
    assert fedlit("inspect", data.root) == 0
    said = capsys.readouterr().out
    assert "nothing suspicious was found" in said and "brightness" in said
    assert (data.root / "inspection.html").is_file()
    (data.root / "a1.png").write_bytes(b"no picture")
    out = tmp_path / "page.html"
    assert fedlit("inspect", data.root, "--out", out, "--no-pictures") == 2
    said = capsys.readouterr()
    assert "error | sites.csv line 3" in said.out and "1 error in" in said.err and out.is_file()


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere"], "is no folder"),
        (["data", "--file", "other.csv"], "other.csv does not exist"),
        (["data", "--out", "nowhere/page.html"], "is no folder; make it, or give --out another place"),
        (["data", "--out", "data"], "is a folder; give --out the name of a file"),
        (["data", "--intensity", "log"], "allowed are auto, range, percentile, minmax"),
    ],
)
def test_wrong_words_are_answered_before_any_picture_is_read(data, words, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (data.root / "a1.png").write_bytes(b"no picture")
    assert fedlit("inspect", *words) == 2
    said = capsys.readouterr()
    assert message in said.err.replace("\n", " ") and "line 3" not in said.out + said.err


def test_nothing_that_can_be_read_still_gives_a_page(data, tmp_path):
    for row in data.rows:
        (data.root / row[1]).write_bytes(b"no picture" + row[1].encode())
    found = inspect(data.root)
    write_page(found, tmp_path / "page.html")
    assert not found.sites and "20 errors" in Page(tmp_path / "page.html").text


def test_a_run_warns_of_labels_that_look_inverted(config_file, disc_data, tmp_path, capsys):
    root = tmp_path / "inverted"
    shutil.copytree(disc_data, root)
    for path in root.glob("mask_b*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert fedlit("run", config_file, f"data.root={root}", "num_rounds=1", "local_epochs=1") == 0
    assert "warning | site b: foreground fills" in capsys.readouterr().out.replace("\n", " ")
