"""Every file in configs/ is as good as its word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fedlit.config import build, check, load
from fedlit.errors import BadInput
from fedlit.metrics import METRICS
from fedlit.schema import NAMED_GROUPS
from fedlit.structure import misfits_of
from fedlit.studies.asking import words_of_columns
from fedlit.studies.grid import Asked, plan_of, words_for
from fedlit.studies.study import read_study
from tests.conftest import REAL_DATA, fedlit, write_manifest

CONFIGS = Path(__file__).parent.parent / "configs"
PAPERS = sorted(CONFIGS.glob("papers/*.yaml"))  # a round of each: test_miniature_chain
OWN = sorted(CONFIGS.glob("*.yaml"))
WHOLE = sorted([*OWN, *PAPERS])
UNSET = {"data.root", "network.checkpoint", "start.teacher.checkpoint"}
INNER = {"aggregation": "algorithm.aggregate"}
NODES = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.parent.name not in ("base", "papers", "reproduce"))
STUDIES = sorted(CONFIGS.glob("reproduce/*.yaml"))
OF_ONE_ALGORITHM = {"compression", "robustness"}


def test_there_are_some():
    assert {"quickstart", "cxr_lungs", "retina_vessels"} <= {path.stem for path in WHOLE} and NODES


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_whole_experiment_passes_check_as_shipped(path):
    loaded = load(path)
    checked = check(loaded)
    assert not checked.problems and not loaded.notices
    assert checked.config.name == path.stem
    assert set(checked.unset) <= UNSET
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


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
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


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("fedfms_fedmsa_prostate", ("11.03 M", "4.4 GB")),
        ("fedfms_fedmsa_fundus", ("11.03 M", "4.4 GB")),
        ("fedfms_fedsam_nuclei", ("93.60 M", "37.4 GB")),
        ("fedfms_fedsam_fets", ("93.60 M", "37.4 GB")),
        ("fedfms_unet_nuclei", ("7.76 M", "3.1 GB")),
        ("where_to_begin_sam_cxr_honest", ("93.60 M", "18.7 GB")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_plan_of_the_papers_protocol_prints_its_sizes(name, sizes, capsys, monkeypatch):
    """Without pictures and weights."""
    trained, traffic = sizes
    monkeypatch.setenv("COLUMNS", "120")
    assert fedlit("plan", f"papers/{name}") == 0
    lines = capsys.readouterr().out.splitlines()
    found = {line[:18].strip(): line[18:28].strip() for line in lines}
    assert found["trained"] == found["sent"] == trained
    assert found["up in total"] == found["down in total"] == traffic


PLANNED = [path for path in PAPERS if not path.stem.endswith("_honest") or path.stem.endswith("fundus_honest")]


@pytest.mark.parametrize("path", PLANNED, ids=lambda path: path.stem)
def test_every_protocol_can_be_planned(path, capsys):
    """SAM at its small size: planning the large one takes a second. Of honest files those that train otherwise."""
    smaller = ["network.size=micro"] if load(path).config.network["_target_"].endswith("SAM") else []
    assert fedlit("plan", path, *smaller) == 0
    assert path.stem in capsys.readouterr().out


def test_every_paper_is_evaluated_honestly_too():
    """An honest file includes the paper's and no other score than those of case and slice."""
    stems = {path.stem for path in PAPERS}
    assert {stem for stem in stems if not stem.endswith("_honest")} == {
        stem.removesuffix("_honest") for stem in stems if stem.endswith("_honest")
    }
    for path in PAPERS:
        if path.stem.endswith("_honest"):
            assert OmegaConf.load(path)["include"][0] == f"papers/{path.stem.removesuffix('_honest')}"
            config = check(load(path)).config
            assert tuple(config.metrics.validation) == ("dice",) and config.keep_by == "worst"
            assert tuple(config.metrics.test) == (*METRICS, "dice_per_slice")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_asks_for_what_its_runs_make(path):
    """Every row is a shipped experiment without a problem that has the row's predictor and the study's scores.

    An honest study has the rows of the paper's, with the honest experiments.
    """
    study = read_study(path.stem)
    names = [method.name for method in study.methods]
    assert study.reference == names[0]
    if not path.stem.startswith(("unseen_", "routing_")) and path.stem not in OF_ONE_ALGORITHM:
        assert any("local" in name for name in names) and any("centralised" in name for name in names)
    if path.stem.endswith("_honest"):
        other = read_study(path.stem.removesuffix("_honest"))
        honest = tuple(replace(method, config=f"{method.config}_honest") for method in other.methods)
        assert study.methods == honest and study.title == f"{other.title}, honest"
        assert set(study.metrics) <= {*METRICS, "dice_per_slice"}
        return
    given = words_of_columns(Asked(study, Path()))[0] if study.columns else {}
    for method in study.methods:
        checked = check(load(method.config, (*study.set, *method.set, *given.get(method.name, ()))))
        assert not checked.problems and set(checked.unset) <= UNSET and not method.config.endswith("_honest")
        config = checked.config
        assert set(study.metrics) <= set(build(config.metrics).test)
        models = (*build(config.algorithm).models, *config.prediction)
        assert (method.model or models[0]) in models


def test_there_is_a_study_for_each_table():
    tables = {
        *(f"fedfms_{organ}" for organ in ("prostate", "fundus", "nuclei", "fets")),
        *(f"iopfl_{side}_{organ}" for side in ("inside", "outside") for organ in ("prostate", "fundus")),
        "where_to_begin_cxr",
    }
    shelves = {f"algorithms_{data}" for data in ("cxr_lungs", "phantom")}
    further = {f"unseen_{data}" for data in ("cxr_lungs", "retina_vessels", "phantom")} | {"routing_parts"}
    honest = {f"{name}_honest" for name in tables}
    assert {path.stem for path in STUDIES} == tables | honest | shelves | further | OF_ONE_ALGORITHM


@pytest.mark.parametrize("data", ["cxr_lungs", "phantom"])
def test_the_shelf_is_compared_whole(data):
    """Every algorithm that ships has a row, each as it ships; FedBuff with a buffer that does not hold all."""
    asked = [word for method in read_study(f"algorithms_{data}").methods for word in method.set]
    shipped = {f"algorithm={path.stem}" for path in (CONFIGS / "algorithm").glob("*.yaml")}
    assert {word for word in asked if word.startswith("algorithm=")} == shipped
    assert not any(word.startswith("algorithm.") for word in asked)


@pytest.mark.parametrize("data", ["cxr_lungs", "retina_vessels", "phantom"])
def test_every_predictor_for_unseen_sites_is_compared(data):
    """One run serves all rows; softmax gates and AdaBN batch by batch, which needs BatchNorm, are not beside them."""
    study = read_study(f"unseen_{data}")
    assert len({method.words for method in study.methods}) == 1
    shipped = {path.stem for path in (CONFIGS / "prediction").glob("*.yaml")}
    left_out = {"personal", "routing_softmax", "adabn_online"}
    assert {method.model for method in study.methods} == shipped - left_out


def test_what_a_study_sets_holds_in_every_run_and_is_in_no_name(tmp_path):
    plan = plan_of(Asked(read_study("unseen_phantom"), tmp_path, folds=("icu",), seeds=(0,)))
    (point,) = plan.points
    assert point.config.share_personal and point.path == tmp_path / "phantom_iopfl,unseen_sites=icu,seed=0"
    file = tmp_path / "mine.yaml"
    wrong = "set: [seed=1]\nmetrics: [dice]\nreference: a\nmethods: {a: {config: quickstart}}\n"
    file.write_text(wrong)
    with pytest.raises(BadInput, match="set: seed is set by the study itself"):
        read_study(str(file))


def test_a_checkpoint_is_given_to_the_rows_that_ask_for_it():
    """A key that some rows of a study leave unset is for those alone; any other word is for all."""
    for name, key, without in (
        ("fedfms_fets", "network.checkpoint", {"U-Net", "U-Net, centralised", "U-Net, best local model"}),
        ("where_to_begin_cxr", "start.teacher.checkpoint", {"U-Net, random start", "U-Net, local only"}),
    ):
        methods = read_study(name).methods
        words = (f"{key}=sam.pth", "lr=0.1")
        given = {method.name: found for method, found in zip(methods, words_for(methods, words), strict=True)}
        assert without <= {name for name, found in given.items() if found == words[1:]}
        assert set(given.values()) == {words, words[1:]}


def test_every_compression_and_every_rule_is_compared():
    words = [word for name in OF_ONE_ALGORITHM for method in read_study(name).methods for word in method.set]
    rules = {f"algorithm.aggregate={path.stem}" for path in (CONFIGS / "aggregation").glob("*.yaml")}
    assert {word for word in words if word.startswith("algorithm.aggregate=")} == rules - {
        "algorithm.aggregate=uniform"
    }
    assert {"transform=low_precision", "transform=top_k", "transform=low_rank"} <= set(words)


def test_a_rule_is_told_the_true_number_of_malicious_members_and_a_seed_draws_them(tmp_path):
    """A cell for which a rule is not defined has no run; the others fit together."""
    asked = Asked(read_study("robustness"), tmp_path, folds=("none", "a little is enough by 6"), seeds=(0, 7))
    points = plan_of(asked).points
    assert len(points) == 2 * (10 + 9)
    found = {(point.methods[0], point.fold, point.seed): point.config.algorithm for point in points}
    assert ("Bulyan", "none", 7) in found and ("Bulyan", "a little is enough by 6", 7) not in found
    krum, trimmed = found["Krum", "a little is enough by 6", 7], found["trimmed mean", "a little is enough by 6", 7]
    assert (krum.malicious, krum.seed, krum.aggregate.num_malicious) == (6, 7, 6) and trimmed.aggregate.fraction == 0.4
    assert found["Krum", "none", 7].aggregate.num_malicious == 3
    assert not any(misfits_of(point.config) for point in points if point.methods[0] == "Multi-Krum" and not point.seed)
