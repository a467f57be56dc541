"""Phantoms: the same pictures whenever and wherever they are drawn, and hospitals that differ."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedlit.data.phantom import Phantom
from fedlit.data.phantom_drawing import HEART, LEFT_LUNG, RIGHT_LUNG, draw
from fedlit.data.phantom_hospitals import MEMBERS, SERVER, UNSEEN, members
from fedlit.errors import BadInput

EVERYWHERE = (*members(15), UNSEEN, SERVER)


def small(cache: Path, **changes) -> Phantom:
    return Phantom(**{"size": 48, "scale": 0.1, "cache_dir": str(cache), **changes})


def drawing(cache: Path) -> Path:
    (folder,) = (path for path in (cache / "phantoms").iterdir() if path.is_dir())
    return folder


def content(folder: Path) -> dict[str, str]:
    """File -> sha256 of all pictures and masks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.png")
    }


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sites.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> Path:
    """All of the default federation but small: drawn once for this file."""
    cache = tmp_path_factory.mktemp("phantoms")
    Phantom(size=48, cache_dir=str(cache)).load()
    return drawing(cache)


def test_two_draws_are_equal_bit_for_bit(tmp_path):
    first, second = small(tmp_path / "a"), small(tmp_path / "b")
    assert first.fingerprint() == second.fingerprint()
    assert content(drawing(tmp_path / "a")) == content(drawing(tmp_path / "b"))


def test_another_seed_draws_other_patients(tmp_path):
    assert small(tmp_path / "a").fingerprint() != small(tmp_path / "b", seed=1).fingerprint()


def test_processes_that_draw_at_once_share_one_drawing(tmp_path):
    """Two other processes start together; the result is also what this process draws elsewhere."""
    program = (
        "import sys; from fedlit.data.phantom import Phantom; import logging; logging.basicConfig(level='INFO');"
        "print(Phantom(size=48, scale=0.1, cache_dir=sys.argv[1]).fingerprint())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "shared")]
    running = [subprocess.Popen(command, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=600) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert {out.strip() for out, _ in outputs} == {small(tmp_path / "own").fingerprint()}
    assert sum("drew" in err for _, err in outputs) == 1


def test_a_drawing_is_used_again(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    small(tmp_path).load()
    small(tmp_path, image_size=32, channels=3).load()
    assert sum(record.message.startswith("drew") for record in caplog.records) == 1


def test_what_a_killed_process_left_is_cleared(tmp_path):
    phantom = small(tmp_path)
    partial = phantom._folder().with_suffix(".partial")
    (partial / "images").mkdir(parents=True)
    (partial / "images" / "half.png").write_bytes(b"half")
    phantom.load()
    assert not partial.exists() and not (drawing(tmp_path) / "images" / "half.png").exists()


def test_roles_and_very_unequal_sizes(federation):
    sites = Phantom(size=48, cache_dir=str(federation.parent.parent)).load()
    roles = {site.name: site.role for site in sites}
    assert roles == {hospital.name: "member" for hospital in MEMBERS} | {"rural": "unseen", "server": "server"}
    sizes = {site.name: len(site.train) for site in sites if site.role == "member"}
    assert sizes == {"north": 96, "harbour": 40, "valley": 20, "children": 12, "icu": 8}
    assert all(len(site.test) >= 8 for site in sites)


def test_who_names_sites_decides_the_roles(tmp_path):
    sites = small(tmp_path).load(unseen_sites=("icu",), server_site="north")
    roles = {site.name: site.role for site in sites}
    assert (roles["icu"], roles["north"], roles["rural"], roles["server"]) == ("unseen", "server", "member", "member")
    assert {site.role for site in small(tmp_path).load(unseen_sites=[]) if site.name != "server"} == {"member"}


def test_a_patient_stays_in_one_split(federation):
    splits, pictures = defaultdict(set), defaultdict(int)
    for row in rows(federation):
        splits[row["site"], row["group"]].add(row["split"])
        pictures[row["site"], row["group"]] += 1
    assert {len(found) for found in splits.values()} == {1}
    assert set(pictures.values()) == {1, 2}  # some come twice


@pytest.mark.parametrize("hospital", EVERYWHERE, ids=lambda hospital: hospital.name)
def test_organs_are_where_they_belong(hospital):
    for seed in range(6):
        image, mask = draw(hospital, seed, seed, 96)
        centre = {code: np.argwhere(mask == code).mean(axis=0) for code in (RIGHT_LUNG, LEFT_LUNG, HEART)}
        share = {code: (mask == code).mean() for code in centre}
        assert 0.03 < share[RIGHT_LUNG] < 0.3 and 0.03 < share[LEFT_LUNG] < 0.3 and 0.01 < share[HEART] < 0.2, share
        assert centre[RIGHT_LUNG][1] < centre[HEART][1] < centre[LEFT_LUNG][1]  # the patient's right is on our left
        assert centre[HEART][0] > max(centre[RIGHT_LUNG][0], centre[LEFT_LUNG][0])
        assert image.dtype == mask.dtype == np.uint8 and image.std() > 10


def test_the_same_patient_at_every_size():
    for hospital in MEMBERS:
        _, small_mask = draw(hospital, 3, 4, 64)
        _, large_mask = draw(hospital, 3, 4, 192)
        assert (small_mask == large_mask[1::3, 1::3]).mean() > 0.98


def test_visits_of_one_patient_differ():
    for hospital in MEMBERS:
        (first, mask), (second, other) = draw(hospital, 3, 4, 64), draw(hospital, 3, 5, 64)
        assert (first != second).mean() > 0.5 and (mask != other).any()


def test_every_site_looks_different(federation):
    """Each pair of sites differs in the mean or spread of grey, in grain or in the share of lung."""
    seen = defaultdict(list)
    for row in rows(federation):
        grey = np.asarray(Image.open(federation / row["image"]), np.float64)
        lung = np.asarray(Image.open(federation / row["mask"])) > 0
        seen[row["site"]].append((grey.mean(), grey.std(), np.abs(np.diff(grey, 2)).mean(), lung.mean()))
    mean = {site: np.mean(values, axis=0) for site, values in seen.items()}
    error = {site: np.std(values, axis=0) / len(values) ** 0.5 for site, values in seen.items()}
    for one in mean:
        for other in mean:
            apart = np.abs(mean[one] - mean[other]) / np.hypot(error[one], error[other])
            assert one == other or apart.max() > 3, (one, other, apart)


def test_more_cases_keep_the_first_ones(tmp_path):
    small(tmp_path / "few").load()
    small(tmp_path / "many", scale=0.3).load()
    few, many = content(drawing(tmp_path / "few")), content(drawing(tmp_path / "many"))
    assert few.items() < many.items()
    counts = [sum(row["split"] == "train" and row["site"] == "north" for row in rows(drawing(tmp_path / scale)))
              for scale in ("few", "many")]  # fmt: skip
    assert counts == [10, 29]


def test_fifteen_members_keep_the_first_five(tmp_path):
    small(tmp_path / "5").load()
    sites = small(tmp_path / "15", num_members=15).load()
    five, fifteen = content(drawing(tmp_path / "5")), content(drawing(tmp_path / "15"))
    assert five.items() < fifteen.items()
    assert sum(site.role == "member" for site in sites) == 15
    assert len({hospital.num_cases[0] for hospital in members(15)}) > 7


def test_labels_choose_the_classes(tmp_path):
    phantom = small(tmp_path / "three", labels={"right": 1, "left": [2], "heart": 3})
    lungs = small(tmp_path / "lungs")
    assert (phantom.classes, lungs.classes) == (("right", "left", "heart"), ("lung",))
    three, both = (each.load()[0].train.batch([0]) for each in (phantom, lungs))
    assert three["image"].equal(both["image"])
    assert three["target"].shape == (1, 3, 48, 48) and three["target"].sum((2, 3)).min() > 0
    assert three["target"][:, :2].sum(1).equal(both["target"][:, 0])


def test_spacing_is_the_field_of_view(federation):
    spacing = {row["site"]: float(row["spacing"]) for row in rows(federation)}
    assert spacing["north"] == pytest.approx(400 / 48, abs=1e-4) and len(set(spacing.values())) >= 5
    assert json.loads((federation / "phantom.json").read_text())["size"] == 48


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_members": 16}, "data.num_members=16; allowed are 1 to 15"),
        ({"size": 8}, "data.size=8; allowed are 32 to 1024"),
        ({"scale": 0}, "data.scale=0; allowed are numbers above 0"),
        ({"labels": {"liver": 7}}, "no value 7; it has 1 right lung, 2 left lung, 3 heart"),
        ({"channels": 2}, "data.channels=2"),
    ],
)
def test_wrong_settings_are_named_and_nothing_is_drawn(tmp_path, wrong, message):
    phantom = small(tmp_path, **wrong)
    assert any(message in problem for problem in phantom.check())
    with pytest.raises(BadInput, match=message.split(";")[0].replace(".", r"\.")):
        phantom.load()
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cache .*file/inside cannot be written"):
        small(tmp_path / "file" / "inside").load()
