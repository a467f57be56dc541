"""Laws of fedlit/data/manifest.py, checks.py and source.py."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedlit.data import Manifest
from fedlit.data.manifest import Row, dealt, read_manifest, split_by_group
from fedlit.errors import BadInput

COLUMNS = ["site", "image", "mask", "split", "group"]


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write(root: Path, rows: list[dict], columns: list[str] = COLUMNS) -> None:
    with (root / "sites.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def hospitals(tmp_path):
    """Two sites a and b of 4 training, 1 val and 1 test pictures of 16 px: (root, rows)."""
    random = np.random.default_rng(0)
    rows = []
    for site in "ab":
        for number, split in enumerate(["train"] * 4 + ["val", "test"]):
            name = f"{site}{number}.png"
            save(tmp_path / "images" / name, random.integers(0, 256, (16, 16), np.uint8))
            save(tmp_path / "masks" / name, random.integers(0, 2, (16, 16), np.uint8) * 255)
            where = {"image": f"images/{name}", "mask": f"masks/{name}"}
            rows.append({"site": site, **where, "split": split, "group": f"p{number}"})
    write(tmp_path, rows)
    return tmp_path, rows


def manifest(root: Path, **settings) -> Manifest:
    return Manifest(str(root), **{"labels": {"lung": 255}, **settings})


def message(root: Path, *, unseen_sites=(), server_site=None, **settings) -> str:
    with pytest.raises(BadInput) as caught:
        manifest(root, **settings).load(unseen_sites=unseen_sites, server_site=server_site)
    return str(caught.value)


def same(left, right) -> bool:
    return len(left) == len(right) and all(
        one.cases == two.cases and all(torch.equal(a, b) for a, b in zip(everything(one), everything(two), strict=True))
        for one, two in (
            (getattr(left_site, s), getattr(right_site, s))
            for left_site, right_site in zip(left, right, strict=True)
            for s in ("train", "val", "test")
        )
    )


def everything(pictures):
    batch = pictures.batch(range(len(pictures)))
    return batch["image"], batch["target"]


def test_sites_have_their_pictures_in_roles_and_splits(hospitals):
    root, _ = hospitals
    a, b = manifest(root).load()
    assert [(site.name, site.role, site.seed_name, site.num_samples) for site in (a, b)] == [
        ("a", "member", "a", 4),
        ("b", "member", "b", 4),
    ]
    assert [case.id for case in a.train.cases] == [f"images/a{number}.png" for number in range(4)]
    expected = np.asarray(Image.open(root / "images/a2.png")) / np.float32(255)
    assert np.array_equal(a.train.batch([2])["image"][0, 0].numpy(), expected.astype(np.float32))


def test_an_unseen_site_has_only_test_cases_and_the_server_keeps_its_splits(hospitals):
    a, b = manifest(hospitals[0]).load(unseen_sites=["a"], server_site=None)
    assert (a.role, len(a.train), len(a.val), len(a.test)) == ("unseen", 0, 0, 6)
    a, b = manifest(hospitals[0], seed_names={"a": "b"}).load(server_site="b")
    assert (b.role, len(b.train), len(b.test), a.seed_name) == ("server", 4, 1, "b")


def test_the_order_of_rows_is_irrelevant(hospitals):
    root, rows = hospitals
    before, fingerprint = manifest(root).load(), manifest(root).fingerprint()
    random.Random(0).shuffle(rows)
    write(root, rows)
    assert same(before, manifest(root).load())
    assert fingerprint == manifest(root).fingerprint()


def test_fingerprint_follows_content_and_rows(hospitals):
    root, rows = hospitals
    before = manifest(root).fingerprint()
    save(root / "masks/a0.png", np.zeros((16, 16), np.uint8))
    after = manifest(root).fingerprint()
    write(root, rows[:-1])
    assert len({before, after, manifest(root).fingerprint()}) == 3


def test_columns_may_be_in_any_order_with_others_between_and_a_byte_order_mark(hospitals):
    root, rows = hospitals
    write(root, [{**row, "license": "x, y"} for row in rows], ["license", *reversed(COLUMNS)])
    text = (root / "sites.csv").read_text()
    (root / "sites.csv").write_text("\ufeff" + text + "\n", encoding="utf-8")
    assert len(read_manifest(root)) == 12


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.5", (0.5, 0.5)), ("0.5 2", (0.5, 2.0)), ("0.5 x 2", (0.5, 2.0)), ("", None), ("0.5x2", (0.5, 2))],
)
def test_spacing_is_row_column(hospitals, text, expected):
    root, rows = hospitals
    write(root, [{**row, "spacing": text} for row in rows], [*COLUMNS, "spacing"])
    assert manifest(root).load()[0].train.cases[0].spacing == expected


def test_spacing_follows_the_size(hospitals):
    root, rows = hospitals
    write(root, [{**row, "spacing": "1 3"} for row in rows], [*COLUMNS, "spacing"])
    pictures = manifest(root, image_size=(8, 32)).load()[0].train
    assert pictures.size == (8, 32)
    assert pictures.cases[0].spacing == (2.0, 1.5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image": "images/none.png"}, ["sites.csv line 2", "images/none.png", "does not exist"]),
        ({"mask": ""}, ["sites.csv line 2: mask='' is empty"]),
        ({"mask": "/etc/hostname"}, ["line 2", "outside of"]),
        ({"image": "../../outside.png"}, ["line 2", "outside of"]),
        ({"split": "training"}, ["split='training'", "train, val, test"]),
        ({"site": "../a"}, ["site='../a'", "letters"]),
        ({"site": ""}, ["line 2: site is empty"]),
        ({"group": ""}, ["line 2: group is empty"]),
        ({"image": "images/a1.png"}, ["line 3", "already in line 2"]),
        ({"image": "images"}, ["line 2", "does not exist"]),
        ({"group": "p5"}, ["patient 'p5' of site 'a'", "train (line 2) and test (line 7)"]),
        ({"image": "images/b0.png"}, ["same picture", "a, train, line 2", "b, train, line 8", "allow_duplicates"]),
        ({"image": "images/a5.png"}, ["same picture", "a, train, line 2", "a, test, line 7"]),
    ],
)
def test_a_bad_row_is_named(hospitals, change, expected):
    root, rows = hospitals
    write(root, [{**rows[0], **change}, *rows[1:]])
    found = message(root)
    assert all(part in found for part in expected), found


@pytest.mark.parametrize("spacing", ["0", "-1 2", "nan", "a", "1 2 3 4", "1 2 3"])
def test_a_bad_spacing_is_named(hospitals, spacing):
    root, rows = hospitals
    write(root, [{**row, "spacing": spacing} for row in rows], [*COLUMNS, "spacing"])
    assert "sites.csv line" in (found := message(root)) and "spacing" in found


def test_a_link_out_of_the_root_is_refused_and_one_inside_is_followed(hospitals, tmp_path_factory):
    root, rows = hospitals
    outside = tmp_path_factory.mktemp("outside") / "a0.png"
    os.rename(root / "images/a0.png", outside)
    os.symlink(outside, root / "images/a0.png")
    assert "outside of" in message(root)
    (root / "images/a0.png").unlink()
    os.rename(outside, root / "other.png")
    os.symlink(root / "other.png", root / "images/a0.png")
    assert manifest(root).load()[0].train.cases[0].id == "images/a0.png"
    write(root, [*rows, {**rows[0], "image": "other.png"}])
    assert "already in line 2" in message(root)


def test_all_problems_come_at_once_and_after_twenty_their_number(hospitals):
    root, rows = hospitals
    write(root, [{**row, "image": f"none{number}.png"} for number, row in enumerate(rows * 3)])
    lines = message(root).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1].strip() == "and 16 more"


def test_problems_of_files_and_of_rows_come_together(hospitals):
    root, rows = hospitals
    save(root / "images/a1.png", np.full((16, 16), 7, np.uint8))
    save(root / "masks/b1.png", np.full((16, 16), 3, np.uint8))
    save(root / "masks/b2.png", np.zeros((8, 16), np.uint8))
    write(root, [{**row, "group": "p0"} if row["site"] == "b" else row for row in rows])
    found = message(root)
    parts = ["line 3", "every pixel is [7]", "line 9", "mask values 3", "line 10", "16x16 and 8x16", "patient 'p0'"]
    assert all(part in found for part in parts), found


def test_sites_must_exist_and_train(hospitals):
    root, rows = hospitals
    assert "unseen_sites: 'aa' is no site; did you mean 'a'?" in message(root, unseen_sites=["aa"])
    assert "the sites are a, b" in message(root, server_site="zurich")
    assert "one role" in message(root, unseen_sites=["a"], server_site="a")
    assert "no site is left" in message(root, unseen_sites=["a", "b"])
    assert "data.seed_names" in message(root, seed_names={"q": "a"})
    write(root, [row for row in rows if row["site"] == "a" or row["split"] != "train"])
    assert "site 'b' has no training case" in message(root)
    assert len(manifest(root).load(unseen_sites=["b"])) == 2


def test_duplicates_can_be_allowed(hospitals):
    root, rows = hospitals
    write(root, [*rows[:6], *({**row, "site": "b"} for row in rows[:6])])
    assert "same picture" in message(root)
    a, b = manifest(root, allow_duplicates=True).load()
    assert same([a], [b])


def test_a_picture_listed_in_two_splits_of_an_unseen_site_is_refused(hospitals):
    root, rows = hospitals
    write(root, [*rows, {**rows[0], "split": "test"}])
    assert "already in line 2" in message(root, unseen_sites=["a"], allow_duplicates=True)


def test_the_file_itself_can_be_wrong(tmp_path):
    assert "is no folder" in message(tmp_path / "none")
    assert "does not exist" in message(tmp_path)
    (tmp_path / "sites.csv").write_text("site;image;mask;split;group\n")
    assert "separated by ;" in message(tmp_path)
    (tmp_path / "sites.csv").write_text("site,image,mask\na,b,c\n")
    assert "column 'group' is missing" in message(tmp_path)
    (tmp_path / "sites.csv").write_text("site,image,group\na,b,c\n")
    assert "fedlit predict" in message(tmp_path)
    (tmp_path / "sites.csv").write_text("site,image,mask,group\n")
    assert "has no rows" in message(tmp_path)
    (tmp_path / "sites.csv").write_text("site,image,mask,group\na,b\n")
    assert "line 2: 2 cells, but the header has 4" in message(tmp_path)
    (tmp_path / "sites.csv").write_bytes(b"site,image,mask,group\n\xff\xfe,b,c,d\n")
    assert "UTF-8" in message(tmp_path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"labels": {}}, "data.labels"),
        ({"labels": {"lung": "255"}}, "data.labels"),
        ({"labels": [255]}, "data.labels"),
        ({"labels": {"lung": 0}}, "data.background=0 is also a value of lung"),
        ({"channels": 2}, "data.channels=2; allowed are 1 and 3"),
        ({"intensity": "window"}, "allowed are auto, range, percentile, minmax"),
        ({"image_size": 0}, "data.image_size"),
        ({"image_size": "128"}, "data.image_size"),
        ({"image_size": [1, 2, 3]}, "data.image_size"),
        ({"augment": [{"_target_": "os.system", "command": "true"}]}, "data.augment[0]"),
    ],
)
def test_settings_are_checked(hospitals, settings, expected):
    problems = manifest(hospitals[0], **settings).check()
    assert len(problems) == 1 and expected in problems[0]


def test_settings_may_be_nodes_of_omegaconf(hospitals):
    from omegaconf import OmegaConf

    node = OmegaConf.create(
        {
            "labels": {"lung": [255]},
            "image_size": [8, 8],
            "augment": [{"_target_": "albumentations.VerticalFlip", "p": 1.0}],
        }
    )
    pictures = manifest(hospitals[0], **{str(key): node[key] for key in node}).load()[0].train
    assert torch.equal(pictures.batch([0], seeds=[1])["image"], pictures.batch([0])["image"].flip(2))


def test_classes_may_share_values_and_any_value_may_be_background(hospitals):
    root, _ = hospitals
    values = np.array([0, 128, 255], np.uint8)
    random = np.random.default_rng(1)
    masks = {path: values[random.integers(0, 3, (16, 16))] for path in (root / "masks").iterdir()}
    for path, mask in masks.items():
        save(path, mask)
    fundus = manifest(root, labels={"cup": 0, "disc": [0, 128]}, background=255)
    assert fundus.classes == ("cup", "disc")
    target = fundus.load()[0].train.batch([1])["target"][0].numpy()
    mask = masks[root / "masks/a1.png"]
    assert np.array_equal(target, np.stack([mask == 0, mask != 255]))


def rows_of(num_groups: dict[str, int], per_group: int = 2) -> list[Row]:
    return [
        Row(site, Path(f"{site}{group}{number}"), Path("m"), None, str(group), None, 0, "")
        for site, count in num_groups.items()
        for group in range(count)
        for number in range(per_group)
    ]


def test_splits_keep_patients_whole_and_reach_every_site():
    rows = rows_of({"large": 100, "three": 3, "two": 2, "one": 1})
    split = split_by_group(rows)
    found = {(row.site, row.group): set() for row in rows}
    for row in split:
        found[row.site, row.group].add(row.split)
    assert all(len(splits) == 1 for splits in found.values())
    sites = {
        site: sorted(next(iter(found[key])) for key in found if key[0] == site)
        for site in ("large", "three", "two", "one")
    }
    assert [sites["large"].count(name) for name in ("train", "val", "test")] == [70, 10, 20]
    assert (sites["three"], sites["two"], sites["one"]) == (["test", "train", "val"], ["test", "train"], ["train"])


def test_splits_do_not_depend_on_the_order_of_rows_or_on_other_sites():
    rows = rows_of({"a": 10, "b": 7})
    shuffled = random.Random(1).sample(rows, len(rows))
    as_dict = [
        {row.image: row.split for row in split_by_group(order)} for order in (rows, shuffled, rows_of({"a": 10}))
    ]
    assert as_dict[0] == as_dict[1]
    assert as_dict[2].items() <= as_dict[0].items()
    assert as_dict[0] != {row.image: row.split for row in split_by_group(rows, seed=1)}


@pytest.mark.parametrize("fractions", [(0, 0.5, 0.5), (0.5, 0.2, 0.2), (1.2, -0.1, -0.1), (0.5, 0.5)])
def test_bad_fractions_are_refused(fractions):
    with pytest.raises(BadInput, match=r"data\.fractions"):
        split_by_group(rows_of({"a": 3}), fractions=fractions)


def test_a_fraction_of_zero_is_kept():
    assert {row.split for row in split_by_group(rows_of({"a": 9}), fractions=(0.8, 0, 0.2))} == {"train", "test"}


def test_without_a_split_column_the_manifest_is_split(hospitals):
    root, rows = hospitals
    write(
        root,
        [{key: row[key] for key in COLUMNS if key != "split"} for row in rows],
        [name for name in COLUMNS if name != "split"],
    )
    a, b = manifest(root).load()
    assert all(min(len(site.train), len(site.val), len(site.test)) > 0 for site in (a, b))
    assert sum(map(len, (a.train, a.val, a.test))) == 6


@pytest.mark.parametrize("name", ["cxr_lungs", "retina_vessels"])
def test_the_real_sets_load(name, tmp_path):
    place = os.environ.get("FEDLIT_TEST_DATA", str(Path(__file__).parents[2] / "shared" / "data"))
    root = Path(place) / name
    if not root.is_dir():
        pytest.skip(f"{root} is not on this machine (set FEDLIT_TEST_DATA)")
    sites = manifest(root, image_size=32, cache_dir=str(tmp_path)).load()
    assert len(sites) == (7 if name == "cxr_lungs" else 5)
    assert sum(len(part.cases) for site in sites for part in (site.train, site.val, site.test)) == (
        345 if name == "cxr_lungs" else 104
    )


def test_dealt_patients_stay_whole_and_every_member_keeps_its_number():
    rows = [
        Row(
            site, Path(f"{site}{patient}{number}"), Path("m"), split, f"p{patient}", None, 1, f"{site}{patient}{number}"
        )
        for site, count in (("a", 9), ("b", 3), ("u", 4))
        for patient in range(count)
        for number, split in enumerate(["train"] * 2 if patient else ["test"] * 2)
    ]
    found = dealt(rows, ["a", "b"], seed=0)
    assert sorted(row.name for row in found) == sorted(row.name for row in rows)
    before, after = ({row.name: row for row in part} for part in (rows, found))
    moved = [name for name in before if before[name].site != after[name].site]
    assert moved and all(before[name].split == "train" and before[name].site != "u" for name in moved)
    homes = {}
    for name, row in after.items():
        homes.setdefault((before[name].site, before[name].group), set()).add(row.site)
    assert all(len(places) == 1 for places in homes.values())
    for site in "abu":
        count = [
            len({row.group for row in part if row.site == site and row.split == "train"}) for part in (rows, found)
        ]
        assert count[0] == count[1]
    assert [row.name for row in dealt(rows[::-1], ["b", "a"], seed=0)][::-1] == [row.name for row in found]
    assert {row.name: row.site for row in dealt(rows[::-1], ["b", "a"], seed=0)} == {
        row.name: row.site for row in found
    }
    assert {row.name: row.site for row in dealt(rows, ["a", "b"], seed=1)} != {row.name: row.site for row in found}


@pytest.mark.parametrize("settings", [{}, {"deal_seed": 1}], ids=["plain", "dealt"])
def test_a_patient_in_two_splits_is_refused_also_where_patients_are_dealt(hospitals, settings):
    root, rows = hospitals
    patient = next(row["group"] for row in rows if row["split"] == "train")
    moved = next(row for row in rows if row["split"] == "test")
    write(root, [{**row, "group": patient} if row is moved else row for row in rows])
    assert f"patient '{patient}' of site" in message(root, **settings)


def test_a_dealt_manifest_loads_and_leaves_val_and_test_where_they_are(hospitals):
    root, _ = hospitals
    plain, mixed = (manifest(root, **settings).load() for settings in ({}, {"deal_seed": 3}))
    for before, after in zip(plain, mixed, strict=True):
        assert (len(before.train), before.val.cases, before.test.cases) == (
            len(after.train),
            after.val.cases,
            after.test.cases,
        )
    assert {case.id for case in plain[0].train.cases} != {case.id for case in mixed[0].train.cases}


@pytest.mark.parametrize(
    "share, words", [(0.0, "site a: no mask has any foreground"), (0.8, "fills 80%"), (0.3, None)], ids=str
)
def test_labels_that_look_wrong_are_remarked_and_not_refused(hospitals, share, words):
    root, _ = hospitals
    for path in (root / "masks").glob("a*"):
        mask = np.zeros((20, 20), np.uint8)
        mask.reshape(-1)[: round(400 * share)] = 255
        save(path, mask)
        save(root / "images" / path.name, np.arange(400).reshape(20, 20).astype(np.uint8) + np.uint8(int(path.stem[1])))
    a, b = manifest(root).load()
    assert b.remarks == () and [words in text for text in a.remarks] == ([True] if words else [])


def test_colour_that_is_lost_is_remarked(hospitals):
    """Three equal channels, as grey pictures are often saved, lose nothing."""
    root, _ = hospitals
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    pictures = sorted((root / "images").glob("a*"))
    for number, path in enumerate(pictures):
        save(path, grey + np.uint8(number) if number else np.dstack([grey[..., 0], grey[..., 0].T, grey[..., 0]]))
    for _ in range(2):  # decoded and from the cache
        a, b = manifest(root).load()
        text = f"site a: 1 of {len(pictures)} cases are in colour and become grey; data.channels=3 keeps it"
        assert a.remarks == (text,) and b.remarks == ()
    assert all(site.remarks == () for site in manifest(root, channels=3).load())


def test_who_only_reads_a_manifest_loads_no_torch():
    """Nor OpenCV nor SciPy: `prepare`, `inspect`, `partition` and tools of a study begin in a tenth of a second."""
    modules = "fedlit.data.manifest, fedlit.data.checks, fedlit.preparation.prepare, fedlit.inspection.inspecting"
    heavy = "{'torch', 'lightning', 'cv2', 'scipy', 'albumentations', 'matplotlib'}"
    code = f"import sys, fedlit.data, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        from fedlit.data import Nothing  # noqa: F401
