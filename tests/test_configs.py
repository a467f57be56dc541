"""Every file in configs/ is as good as its word."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fedlit.config import check, load
from fedlit.schema import NAMED_GROUPS
from tests.conftest import REAL_DATA, fedlit, write_manifest

CONFIGS = Path(__file__).parent.parent / "configs"
WHOLE = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("papers/*.yaml")])
INNER = {"aggregation": "algorithm.aggregate"}
NODES = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.parent.name not in ("base", "papers"))


def test_there_are_some():
    assert {"quickstart", "cxr_lungs", "retina_vessels"} <= {path.stem for path in WHOLE} and NODES


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_whole_experiment_passes_check_as_shipped(path):
    loaded = load(path)
    checked = check(loaded)
    assert not checked.problems and not loaded.notices
    assert checked.config.name == path.stem
    assert set(checked.unset) <= {"data.root", "network.checkpoint"}
    assert {remark.partition(" ")[0] for remark in checked.remarks} == set(checked.unset)


@pytest.mark.parametrize("path", NODES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_part_can_be_chosen_by_its_name(path):
    group, name = path.parent.name, path.stem
    if group in INNER:
        checked = check(load("quickstart", [f"{INNER[group]}={name}"]))
        assert not checked.problems and OmegaConf.select(checked.config, INNER[group])
        return
    shared = ["algorithm=iopfl", "share_personal=true"] if group == "prediction" else []
    shared += ["algorithm.aggregate=uniform"] if group == "transform" else []
    checked = check(load("quickstart", [f"{group}={name}", *shared]))
    assert not checked.problems
    assert checked.config[group][name] if group in NAMED_GROUPS else checked.config[group]


@pytest.mark.parametrize("name", ["cxr_lungs", "retina_vessels"])
def test_an_experiment_passes_check_on_its_real_pictures(name):
    if not (REAL_DATA / name).is_dir():
        pytest.skip(f"no {REAL_DATA / name}; set FEDLIT_TEST_DATA to the folder that holds {name}")
    checked = check(load(name, [f"data.root={REAL_DATA / name}"]))
    assert not checked.problems and not checked.remarks


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_whole_experiment_runs_a_round_on_tiny_data(path, tmp_path):
    config = check(load(path)).config
    words = ["num_rounds=1", f"run_dir={tmp_path / 'run'}", "accelerator=cpu"]
    is_sam = config.network["_target_"].endswith("SAM")
    words += ["network.size=micro", "network.checkpoint=null"] if is_sam else ["network.base_channels=4"]
    if config.data["_target_"].endswith("Phantom"):
        words += ["data.size=32", "data.scale=0.05"]
    else:
        value = 255
        data = tmp_path / "data"
        data.mkdir()
        write_manifest(data, {"a": (4, 1, 1), "b": (3, 1, 1)}, size=256, value=value)
        words += [f"data.root={data}", "data.image_size=32" if not config.data.get("augment") else "local_steps=1"]
    assert fedlit("run", path, *words) == 0
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_network_of_another_library_trains(config_file, tmp_path):
    """By `_target_` alone; its arguments are checked like ours."""
    pytest.importorskip("monai")
    node = "{_target_: monai.networks.nets.UNet, spatial_dims: 2, channels: [4, 8], strides: [2], num_res_units: 1}"
    assert (
        fedlit("run", config_file, f"network={node}", "num_rounds=1") == 2
    )  # merged into the shipped network's arguments
    whole = config_file.read_text().replace("network.base_channels: 4\nnetwork.depth: 2\n", f"network: {node}\n")
    config_file.write_text(whole)
    assert fedlit("run", config_file, "num_rounds=1") == 0


@pytest.mark.parametrize(("name", "trained"), [("fedmsa", "11.03 M"), ("fedsam", "93.60 M")], ids=["fedmsa", "fedsam"])
@pytest.mark.parametrize("organ", ["prostate", "fundus", "nuclei"])
def test_a_plan_of_the_papers_protocol_prints_its_sizes(name, trained, organ, capsys, monkeypatch):
    """11.03 M and 93.6 M trained and sent; without pictures and weights."""
    monkeypatch.setenv("COLUMNS", "120")
    assert fedlit("plan", f"papers/fedfms_{name}_{organ}") == 0
    lines = capsys.readouterr().out.splitlines()
    found = {line[:18].strip(): line[18:28].strip() for line in lines}
    assert found["trained"] == found["sent"] == trained
    assert found["up in total"] == found["down in total"] == {"11.03 M": "4.4 GB", "93.60 M": "37.4 GB"}[trained]
