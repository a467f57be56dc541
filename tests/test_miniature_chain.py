"""The whole chain in miniature: data as published, prepared, checked, a round of every paper's config, the tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig

from fedlit.metrics import with_unit
from fedlit.preparation import cxr
from fedlit.record import Record
from fedlit.studies.grid import Asked, plan_of
from fedlit.studies.study import read_study
from tests import drawn_sources
from tests.conftest import fedlit
from tests.preparation_sources import prepare

CONFIGS = Path(__file__).parent.parent / "configs"
SOURCES = {  # what a protocol's name begins and ends with -> data set, its source, options of `fedlit prepare`
    "fedfms_prostate": ("prostate", drawn_sources.prostate, ("--split", "fedfms")),
    "fedfms_fundus": (
        "fundus",
        drawn_sources.whole_fundus,
        ("--sites", ",".join(drawn_sources.WHOLE_FUNDUS), "--split", "fedfms"),
    ),
    "fedfms_nuclei": ("nuclei", drawn_sources.nuclei, ("--split", "fedfms")),
    "fedfms_fets": ("fets", drawn_sources.fets, ("--slices", "--split", "fedfms")),
    "iopfl_prostate": ("prostate", drawn_sources.prostate, ("--neighbours",)),
    "iopfl_fundus": ("fundus", drawn_sources.cut_out_fundus, ()),
    "where_cxr": ("cxr", drawn_sources.chest, ()),
}
SITES = {
    "fedfms_prostate": {*drawn_sources.PROSTATE},
    "iopfl_prostate": {*drawn_sources.PROSTATE},
    "fedfms_fundus": {*drawn_sources.WHOLE_FUNDUS},
    "fedfms_nuclei": {
        *(f"PanNuke2 {tissue}" for tissue in ("Adrenal_gland", "Esophagus")),
        *(f"PanNuke3 {tissue}" for tissue in ("Bile-duct", "Uterus")),
        *("MoNuSAC", "MoNuSeg", "TNBC"),
    },
    "fedfms_fets": {f"institution {number}" for number in (1, 6, 18, 21)},
    "iopfl_fundus": {"Drishti-GS", "RIM-ONE_r3", "REFUGE_train", "REFUGE_val"},
    "where_cxr": {"JSRT", "Montgomery", "Shenzhen", "COVID-QU-Ex"},
}
TOY = (
    "data.image_size=64",
    "num_rounds=1",
    "accelerator=cpu",
    "precision=32-true",
    "report.pictures=false",
    "loggers={}",
)
SMALL_UNET = ("network.base_channels=4",)
SMALL_SAM = ("network.size=micro", "network.checkpoint=null")
WHOLE = {"iopfl_inside_prostate_honest": 4, "iopfl_outside_prostate": 3}  # all methods are run: so many runs
STUDIES = sorted((CONFIGS / "reproduce").glob("*.yaml"))
OF_PAPERS = [path.stem for path in STUDIES if path.stem.startswith(("fedfms", "iopfl", "where"))]


def source_of(name: str) -> str:
    """`fedfms_unet_prostate_honest` -> fedfms_prostate."""
    parts = name.removesuffix("_honest").split("_")
    return f"{parts[0]}_{parts[-1]}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folders with sites.csv, by their protocol."""
    root = tmp_path_factory.mktemp("published")
    made = {write: write(root / write.__name__) for write in dict.fromkeys(write for _, write, _ in SOURCES.values())}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cxr, "JSRT_SIDE", 2 * drawn_sources.SIDE)
        for key, (name, write, options) in SOURCES.items():
            code = prepare(name, made[write], root / key, "--workers", 1, *options)
            assert code == 0, "nothing is left out; of a brain's slices the blank ones are no loss"
    return {key: root / key for key in SOURCES}


def toy(method: dict[str, Any]) -> list[str]:
    """What makes the networks of a study's method small and their start short."""
    name = method["config"].removeprefix("papers/")
    words = [*(SMALL_SAM if "fedsam" in name or "fedmsa" in name else SMALL_UNET)]
    if name.startswith("where"):
        words = [*(SMALL_SAM[:1] if "_sam_" in name else SMALL_UNET)]
        if "set" not in method:
            words += ["start.teacher.size=micro", "start.teacher.checkpoint=null"]
            words += [] if "_sam_" in name else ["start.num_rounds=1"]
    return [*words, "prediction.routing.adaptation.passes=1"] if "outside" in name else words


def miniature(name: str, folder: Path) -> Path:
    """The file of a shipped study, with words that make its runs small."""
    study = yaml.safe_load((CONFIGS / "reproduce" / f"{name}.yaml").read_text())
    study["set"] = [*study.get("set", []), *TOY]
    for method in study["methods"].values():
        method["set"] = [*method.get("set", []), *toy(method)]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def left_out(name: str) -> str | None:
    """The site of the only fold, where the study has folds."""
    return sorted(SITES[source_of(name)])[1] if read_study(name).folds else None


def refuse_wrong_cases(run: Path, config: DictConfig, key: str, root: Path, unseen: str | None) -> None:
    """Every site is scored by all scores of the protocol; volumes as one case, in mm."""
    rows = [row for row in Record(run).cases() if row.split == "test"]
    with (root / "sites.csv").open(newline="") as stream:
        manifest = list(csv.DictReader(stream))
    assert {row["site"] for row in manifest} == SITES[key]
    tested = [row for row in manifest if row["split"] == "test" or row["site"] == unseen]
    expected = {(row["site"], row.get("volume") or row["image"]) for row in tested}
    assert {(row.site, row.case) for row in rows if row.metric == "dice"} == expected
    in_mm = any(row["spacing"] for row in tested)
    for site, case in expected:
        spacing = (1.0, 1.0) if in_mm and not (key == "where_cxr" and site not in ("JSRT", "Montgomery")) else None
        found = {row.metric for row in rows if (row.site, row.case) == (site, case)}
        assert found == {with_unit(metric, spacing) for metric in config.metrics.test}
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["sites"]) == {site for site, _ in expected} and summary["num_rounds"] == 1
    if "routing" in config.prediction:
        assert {row.model for row in rows if row.site == unseen} == {"global", "routing"}


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in OF_PAPERS if name not in WHOLE])
def test_a_round_of_a_papers_methods_from_published_data_to_the_table(name, prepared, tmp_path, capsys):
    """A run of each of the paper's own configs, and the table that they make; what is not run is named."""
    key, unseen = source_of(name), left_out(name)
    file, out = miniature(name, tmp_path), tmp_path / "out"
    plain = {method.name for method in read_study(name).methods if not method.set}
    plan = plan_of(Asked(read_study(str(file)), out, prepared[key], (unseen,) if unseen else None, (0,)))
    points = [point for point in plan.points if plain & {*point.methods}]
    for point in points:
        assert fedlit("run", *point.run.words) == 0, capsys.readouterr().err
        refuse_wrong_cases(point.path, point.config, key, prepared[key], unseen)
    capsys.readouterr()
    words = ["--data", prepared[key], "--seeds", "0,", "--out", out, *(["--folds", unseen] if unseen else [])]
    assert fedlit("reproduce", file, *words, "--table-only") == 0
    text = (out / "table.md").read_text()
    assert text.count("Not in the table: ") == len(plan.points) - len(points)
    with (out / "table.csv").open(newline="") as stream:
        main = [row for row in csv.DictReader(stream) if row["metric"].startswith(plan.asked.study.metrics[0])]
    run = {name for point in points for name in point.methods}
    for row in main:
        for site in {unseen} if unseen else SITES[key] - {points[0].config.server_site}:
            assert bool(row[site]) == (row["method"] in run), "its number is there, and no other"


def test_every_config_of_the_papers_is_a_method_of_its_own_in_a_study():
    configs = {
        method.config for name in OF_PAPERS for method in read_study(name).methods if name in WHOLE or not method.set
    }
    assert configs >= {f"papers/{path.stem}" for path in (CONFIGS / "papers").glob("*.yaml")}


@pytest.mark.long
@pytest.mark.parametrize("name", WHOLE)
def test_a_study_from_published_data_to_its_table(name, prepared, tmp_path, capsys):
    """The runs are made here, one after the other; `fedlit reproduce` finds them complete and writes the tables."""
    key, unseen = source_of(name), left_out(name)
    toys = [*TOY, *SMALL_UNET, "network.norm=group", "lr=0.03"]  # a step with running statistics would change no mask
    asked = Asked(read_study(name), tmp_path, prepared[key], (unseen,) if unseen else None, (0,), tuple(toys))
    plan = plan_of(asked)
    assert len(plan.points) == WHOLE[name]
    for point in plan.points:
        assert fedlit("run", *point.run.words) == 0, capsys.readouterr().err
    capsys.readouterr()
    words = ["--data", prepared[key], "--seeds", "0,", "--out", tmp_path, *(["--folds", unseen] if unseen else [])]
    assert fedlit("reproduce", name, *toys, *words) == 0
    assert f"{WHOLE[name]} runs: {WHOLE[name]} complete" in capsys.readouterr().out
    with (tmp_path / "table.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    text = (tmp_path / "table.md").read_text()
    main = {row["method"]: row for row in table if row["metric"] == asked.study.metrics[0]}
    assert [*main] == [method.name for method in asked.study.methods] and all(f"| {name} |" in text for name in main)
    sites = {unseen} if unseen else SITES[key]
    for site in sites:
        assert all(0 <= float(row[site]) <= 1 for row in main.values())
        assert main[asked.study.reference][f"{site} p"] == "reference"
    assert len({tuple(row[site] for site in sorted(sites)) for row in main.values()}) > 1
    assert (tmp_path / "table.html").stat().st_size > 0 and r"\begin{tabular}" in (tmp_path / "table.tex").read_text()
