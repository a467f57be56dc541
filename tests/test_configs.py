"""Every file in configs/ is as good as its word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedlit.config import check, load
from fedlit.schema import NAMED_GROUPS

CONFIGS = Path(__file__).parent.parent / "configs"
WHOLE = sorted(CONFIGS.glob("*.yaml"))
NODES = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.parent.name != "base")
DATA = Path(os.environ.get("FEDLIT_TEST_DATA") or CONFIGS.parent.parent / "shared" / "data")


def test_there_are_some():
    assert {"quickstart", "cxr_lungs", "retina_vessels"} <= {path.stem for path in WHOLE} and NODES


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_whole_experiment_passes_check_as_shipped(path):
    loaded = load(path)
    checked = check(loaded)
    assert not checked.problems and not loaded.notices
    assert checked.config.name == path.stem
    assert all(remark == "data.root is not set: pictures not checked" for remark in checked.remarks)


@pytest.mark.parametrize("path", NODES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_part_can_be_chosen_by_its_name(path):
    group, name = path.parent.name, path.stem
    checked = check(load("quickstart", [f"{group}={name}"]))
    assert not checked.problems
    assert checked.config[group][name] if group in NAMED_GROUPS else checked.config[group]


@pytest.mark.parametrize("name", ["cxr_lungs", "retina_vessels"])
def test_an_experiment_passes_check_on_its_real_pictures(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"no {DATA / name}; set FEDLIT_TEST_DATA to the folder that holds {name}")
    checked = check(load(name, [f"data.root={DATA / name}"]))
    assert not checked.problems and not checked.remarks
