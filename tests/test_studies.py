"""A study: its file, its grid of runs, and how they are made, one after the other, until the tables are there."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from fedlit.errors import BadInput
from fedlit.studies import running
from fedlit.studies.grid import Asked, plan_of
from fedlit.studies.reproducing import FILES, lacks, missing_runs, write_tables
from fedlit.studies.running import DONE, FAILED, INTERRUPTED, REFUSED, Ended, Halted, conduct
from fedlit.studies.study import read_study
from tests.conftest import CONFIG, fedlit, write_manifest
from tests.test_report import Page

STUDY = """\
title: Discs
folds: unseen_sites
scores: unseen
metrics: [dice, hd95]
reference: FedAvg
methods:
  FedAvg: {config: discs.yaml}
  IOP-FL, global: {config: discs.yaml, set: [algorithm=iopfl], model: global}
  FedAvg again: {config: discs.yaml, model: global}
"""
TINY = ("num_rounds=2", "local_epochs=1", "report.pictures=false", "loggers={}")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("data"), {"a": (4, 1, 1), "b": (3, 1, 1), "c": (3, 1, 1)})


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A study of two different runs and three rows."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "discs.yaml").write_text(CONFIG.replace("num_rounds: 4\n", "num_rounds: 3\n") + "data.root: ???\n")
    (folder / "discs_study.yaml").write_text(STUDY)
    return folder / "discs_study.yaml"


def plan(file, out, data, **asked):
    asked = {"folds": ("a", "b"), "seeds": (0,), "words": TINY} | asked
    return plan_of(Asked(read_study(str(file)), out, data, **asked))


def here(run) -> Ended:
    """In the place of a process for each run: this one."""
    return Ended(fedlit("run", *run.words))


@pytest.fixture(scope="module")
def whole(file, data, tmp_path_factory):
    """The folder of the study, made without interruption."""
    out = tmp_path_factory.mktemp("whole") / "out"
    made = plan(file, out, data)
    assert conduct(made.standings(), here) == []
    write_tables(made, Console(quiet=True))
    return out


def scores_in(out: Path) -> list[dict[str, str]]:
    """The table without what depends on the clock and the machine."""
    with open(out / "table.csv", newline="") as table:
        return [{key: row[key] for key in row if key not in ("hours", "peak GB")} for row in csv.DictReader(table)]


def test_all_that_is_wrong_in_a_file_is_said_at_once(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "titel: x\nfolds: each\nmetrics: [dice, dice]\nreference: B\nmethods:\n"
        "  A: {config: quickstart, sets: [lr=1]}\n  C: {set: [lr=1]}\n"
        "  D: {config: quickstart, set: [seed=1, run_dir=x]}\n"
        "  E: {config: none.yaml}\n  F: {config: quickstart, set: lr=1}\n"
    )
    with pytest.raises(BadInput) as raised:
        read_study(str(path))
    for part in ("titel: unknown key; did you mean title?", "folds: is 'each'; allowed are null, unseen_sites",
                 "a name stands twice", "methods.A.sets: unknown key; did you mean set?",
                 "methods.C.config: is not set",
                 "methods.D.set: seed is set by the study itself", "methods.D.set: run_dir is set by",
                 "none.yaml: no such file", "methods.F.set: expected a list"):  # fmt: skip
        assert part in str(raised.value), part
    path.write_text("metrics: [dice]\nreference: FedAvgg\nmethods: {FedAvg: {config: quickstart}}\n")
    with pytest.raises(BadInput, match="reference: 'FedAvgg' is no method; did you mean FedAvg"):
        read_study(str(path))
    path.write_text("metrics: [dice]\nreference: FedAvg\nbounds: [pool]\nmethods: {FedAvg: {config: quickstart}}\n")
    with pytest.raises(BadInput, match="bounds: 'pool' is no method"):
        read_study(str(path))
    path.write_text("metrics: [dice]\nmethods: {FedAvg: {config: quickstart}}\n")
    with pytest.raises(BadInput, match="1 problem\n  reference: is not set"):
        read_study(str(path))


def test_methods_that_name_no_config_have_the_studys(tmp_path):
    (tmp_path / "mine.yaml").write_text("include: [base]\n")
    path = tmp_path / "study.yaml"
    path.write_text("metrics: [dice]\nreference: A\nconfig: mine.yaml\nmethods: {A: {}, B: {config: quickstart}}\n")
    assert [method.config for method in read_study(str(path)).methods] == [str(tmp_path / "mine.yaml"), "quickstart"]


def test_a_study_goes_on_from_another(tmp_path, monkeypatch):
    """Its own keys win, of methods each one by its name and in its place; paths are from the file that names them.

    What it sets comes after what they set.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    for name in ("theirs/first.yaml", "second.yaml"):
        Path(name).write_text("include: [base]\n")
    Path("theirs/study.yaml").write_text(
        "title: theirs\nmetrics: [dice]\nreference: A\nconfig: first.yaml\nset: [lr=3, batch_size=2]\n"
        "methods: {A: {}, B: {set: [lr=1]}, C: {config: first.yaml}}\n"
    )
    Path("mine.yaml").write_text(
        "include: theirs/study.yaml\nmetrics: [iou]\nconfig: second.yaml\nset: [lr=4]\n"
        "methods: {B: {set: [lr=2]}, D: {}}\n"
    )
    study, first, second = read_study("mine.yaml"), str(tmp_path / "theirs/first.yaml"), str(tmp_path / "second.yaml")
    assert (study.name, study.title, study.metrics, study.reference) == ("mine", "theirs", ("iou",), "A")
    assert study.set == ("lr=3", "batch_size=2", "lr=4")
    assert [(method.name, *method.words) for method in study.methods] == [
        ("A", second), ("B", second, "lr=2"), ("C", first), ("D", second)
    ]  # fmt: skip
    Path("theirs/study.yaml").write_text("include: ../mine.yaml\n")
    with pytest.raises(BadInput, match="include goes in a circle: mine"):
        read_study("mine.yaml")


def test_an_unknown_study_is_answered_with_those_there_are(capsys):
    assert fedlit("reproduce", "no_such_study") == 2
    assert "no such file" in capsys.readouterr().err


def test_the_grid_is_methods_by_folds_by_seeds_and_equal_rows_share_a_run(file, data, tmp_path):
    made = plan(file, tmp_path / "out", data, folds=None, seeds=(0, 5))
    assert made.folds == ("a", "b", "c") and len(made.points) == 2 * 3 * 2
    assert [point.seed for point in made.points] == [0] * 6 + [5] * 6, "a whole table is there as soon as can be"
    first = made.points[0]
    assert first.methods == ("FedAvg", "FedAvg again") and first.title == "FedAvg | without a | seed 0"
    assert [point.path.name for point in made.points[:2]] == [
        "discs,unseen_sites=a,seed=0",
        "discs,algorithm=iopfl,unseen_sites=a,seed=0",
    ]
    assert first.config.unseen_sites == ["a"] and first.config.num_rounds == 2 and first.config.data.root == str(data)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"folds": ("a", "z")}, "--folds: z is no site of the data; the sites are a, b, c"),
        ({"seeds": (1, 1)}, "--seeds: 1 stands there twice"),
        ({"data": None}, "needs --data DIR, the folder that holds sites.csv"),
        ({"data": Path("/nowhere")}, "--data /nowhere: no such folder"),
        ({"words": ("seed=3",)}, "seed is set by the study itself"),
        ({"words": ("lrr=3", "batch_size=0")}, "study discs_study: 2 problems"),
        ({"words": ("metrics.test=[dice]",)}, "does not hold hd95; add metrics.test=[dice,hd95]"),
        ({"words": ("algorithm=local",)}, "methods.FedAvg again.model: this run has no global; allowed are personal"),
    ],
)  # fmt: skip
def test_what_makes_no_grid_is_refused_before_any_run(file, data, tmp_path, asked, message):
    asked = {"data": data} | asked
    with pytest.raises(BadInput) as raised:
        plan(file, tmp_path / "out", asked.pop("data"), **asked)
    assert message in str(raised.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "scores", "message"),
    [
        (
            "{config: discs.yaml, set: [algorithm=local], model: personal}",
            "unseen",
            "methods.odd.model: personal is for member sites, and the study has scores: unseen; "
            "this run has no model for unseen sites; prediction=[best_member] with share_personal=true adds one",
        ),
        (
            "{config: discs.yaml, set: [algorithm=iopfl], model: personal}",
            "unseen",
            "methods.odd.model: personal is for member sites, and the study has scores: unseen; allowed are global",
        ),
        (
            "{config: discs.yaml, set: [algorithm=local]}",
            "unseen",
            "methods.odd.model: is not set, and personal of this run is not for unseen sites; this run has no model",
        ),
        (
            "{config: discs.yaml, set: ['prediction=[adabn]'], model: adabn}",
            "members",
            "methods.odd.model: adabn is for unseen sites, and the study has scores: members; allowed are global",
        ),
    ],
)
def test_a_row_whose_model_is_not_for_the_sites_of_the_study_is_refused(file, data, tmp_path, row, scores, message):
    path = file.with_name("odd.yaml")
    path.write_text(STUDY.replace("scores: unseen", f"scores: {scores}") + f"  odd: {row}\n")
    with pytest.raises(BadInput) as raised:
        plan(path, tmp_path / "out", data)
    assert message in str(raised.value) and str(raised.value).count("methods.") == 1


def test_data_without_a_manifest_are_refused(file, tmp_path):
    with pytest.raises(BadInput, match=r"sites\.csv does not exist"):
        plan(file, tmp_path / "out", tmp_path)


def test_sites_that_would_share_a_folder_are_refused(file, data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    table = (root / "sites.csv").read_text()
    (root / "sites.csv").write_text(table.replace("\na,", "\nx y,").replace("\nb,", "\nx-y,"))
    with pytest.raises(BadInput, match="--folds: x y and x-y would share a folder"):
        plan(file, tmp_path / "out", root, folds=("x y", "x-y"))


def test_folds_for_a_study_without_are_refused(file, data, tmp_path):
    path = file.with_name("flat.yaml")
    path.write_text(STUDY.replace("folds: unseen_sites\n", ""))
    with pytest.raises(BadInput, match="--folds: study flat leaves no site out"):
        plan(path, tmp_path, data)


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (0, 1, 2)), ("0,1", (0, 1)), ("7,", (7,)), ("0", None), ("x", None), ("1,,2", None)]
)
def test_seeds_are_a_number_or_a_list(text, seeds):
    from fedlit.study_commands import seeds_of

    if seeds is None:
        with pytest.raises(BadInput, match="needs how many"):
            seeds_of(text)
    else:
        assert seeds_of(text) == seeds


def test_the_table_names_every_row_and_fold_and_the_page_needs_nothing_else(whole):
    rows = scores_in(whole)
    assert [(row["metric"], row["method"]) for row in rows] == [
        (metric, name) for metric in ("dice", "hd95_px") for name in ("FedAvg", "IOP-FL, global", "FedAvg again")
    ]
    first, _, again = rows[:3]
    assert {**first, "method": "", "a p": "", "b p": "", "mean p": ""} == {
        **again, "method": "", "a p": "", "b p": "", "mean p": "", "worst p": first["worst p"], "gap p": first["gap p"]
    }  # fmt: skip
    summary = json.loads((whole / "discs,unseen_sites=a,seed=0" / "summary.json").read_text())
    assert float(first["a"]) == pytest.approx(summary["unseen_mean_dice"]) and summary["peak_bytes"] > 1e8
    assert float(first["mean"]) == pytest.approx((float(first["a"]) + float(first["b"])) / 2)
    page = Page(whole / "table.html")
    assert not re.search("https?:", page.source) and not {"script", "img", "link"} & set(page.tags)
    assert "Best mean Dice: " in page.text and "HD95 (px)" in page.text


def test_twice_runs_nothing_again_and_writes_the_same_bytes(whole, file, data):
    before = {name: (whole / name).read_bytes() for name in FILES}
    made = plan(file, whole, data)
    standings = made.standings()
    assert set(standings.values()) == {"complete"}
    assert conduct(standings, lambda run: pytest.fail(f"{run.run_dir} runs again")) == []
    write_tables(made, Console(quiet=True))
    assert {name: (whole / name).read_bytes() for name in FILES} == before


def test_what_is_recorded_of_runs_makes_their_tables(whole, file, data, tmp_path):
    (tmp_path / "launch").mkdir()
    script = shutil.copy(Path("launch/record.sh").resolve(), tmp_path / "launch")
    subprocess.run(["bash", script, whole], check=True)
    table, packed = sorted((tmp_path / "launch" / "results").iterdir())
    assert table.read_bytes() == (whole / "table.md").read_bytes()
    subprocess.run(["tar", "xf", packed, "-C", tmp_path], check=True)
    found = plan(file, tmp_path / whole.name, data)
    assert set(found.standings().values()) == {"complete"} and packed.stat().st_size < 50_000
    write_tables(found, Console())
    for name in ("table.csv", "table.md", "table.tex"):
        assert (tmp_path / whole.name / name).read_bytes() == (whole / name).read_bytes()
    (tmp_path / "empty").mkdir()
    assert subprocess.run(["bash", script, tmp_path / "empty"], stderr=subprocess.DEVNULL).returncode == 2


def test_interrupted_is_uninterrupted_and_what_is_missing_is_named(whole, file, data, tmp_path, capsys):
    """Ctrl-C in the second run, after its first round; then the table of what there is; then the rest."""
    out = tmp_path / "out"

    def copied(run) -> Ended:
        shutil.copytree(whole / Path(run.run_dir).name, run.run_dir)
        return Ended(DONE)

    def until_the_second(run) -> Ended:
        if "iopfl" not in run.run_dir:
            return copied(run)
        assert fedlit("run", *run.words, "num_rounds=1") == 0  # as far as a run that was stopped
        (Path(run.run_dir) / "summary.json").unlink()
        raise KeyboardInterrupt

    made = plan(file, out, data)
    with pytest.raises(Halted, match="the same command goes on") as raised:
        conduct(made.standings(), until_the_second)
    assert raised.value.code == INTERRUPTED
    notes = write_tables(made, Console(quiet=True))
    assert notes == [
        "Not in the table: IOP-FL, global | without a | seed 0: not finished (round 1 of 1).",
        "Not in the table: FedAvg | without b | seed 0: not begun.",
        "Not in the table: IOP-FL, global | without b | seed 0: not begun.",
    ]
    assert [(row["a n"], row["b n"], row["mean"]) for row in scores_in(out)[:2]] == [("1", "0", ""), ("0", "0", "")]
    standings = made.standings()
    assert [*standings.values()] == ["complete", "continue", "new", "new"]
    standings_of = {point.run.run_dir: found for point, found in standings.items()}
    capsys.readouterr()
    assert conduct(standings, lambda run: (here if standings_of[run.run_dir] == "continue" else copied)(run)) == []
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run ")]
    assert lines[0].startswith("run 2 of 4 | IOP-FL, global | without a | seed 0 | ")
    assert write_tables(made, Console(quiet=True)) == []
    assert scores_in(out) == scores_in(whole)


def test_runs_that_noted_no_patients_have_them_from_the_manifest(whole, file, data, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    for noted in out.glob("*/patients.csv"):
        noted.unlink()
    assert write_tables(plan(file, out, data), Console(quiet=True)) == []
    assert (out / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()
    for noted in out.glob("*/provenance.json"):
        noted.write_text("{}")
    (note,) = write_tables(plan(file, out, data), Console(quiet=True))
    assert note.startswith("the runs do not say which pictures are of one patient")


def test_the_order_of_methods_is_the_order_of_rows_and_nothing_else(whole, file, data):
    head, *methods = STUDY.splitlines(keepends=True)[-4:]
    path = file.with_name("turned.yaml")
    path.write_text(STUDY[: STUDY.index(head)] + head + "".join(reversed(methods)))
    made = plan(path, whole, data)
    assert set(made.standings().values()) == {"complete"}
    before, kept = scores_in(whole), (whole / "table.csv").read_bytes()
    write_tables(made, Console(quiet=True))
    assert scores_in(whole) == [before[place] for place in (2, 1, 0, 5, 4, 3)]
    write_tables(plan(file, whole, data), Console(quiet=True))
    assert (whole / "table.csv").read_bytes() == kept


def test_a_run_with_other_settings_is_refused_in_one_line(whole, file, data):
    with pytest.raises(BadInput) as raised:
        plan(file, whole, data, words=(*TINY, "lr=0.5")).standings()
    first = str(raised.value).splitlines()[1]
    assert "discs,unseen_sites=a,seed=0: lr: 0.01 -> 0.5; optimizer.lr: 0.01 -> 0.5; set this back" in first


def test_a_finished_run_with_other_settings_of_its_predictor_is_refused(whole, file, data, tmp_path):
    """A further one is not, which `fedlit evaluate` may have added."""
    out = shutil.copytree(whole, tmp_path / "out")
    made = plan(file, out, data, words=(*TINY, "prediction.x={_target_: fedlit.prediction.TENT}"))
    assert set(made.standings().values()) == {"complete"}
    refused = r"seed=0: prediction\.x\._target_: y -> fedlit\.prediction\.TENT; set this back"
    for path in out.glob("*/summary.json"):
        since = {"evaluated": {"x": {"_target_": "y"}, "z": {"passes": 1}}}
        path.write_text(json.dumps(json.loads(path.read_text()) | since))
    with pytest.raises(BadInput, match=refused):
        made.standings()
    out = shutil.copytree(whole, tmp_path / "of_the_run")
    made = plan(file, out, data, words=(*TINY, "prediction.x={_target_: fedlit.prediction.TENT}"))
    for path in out.glob("*/config.yaml"):
        path.write_text(
            path.read_text().replace("prediction: {}\n", "prediction: {x: {_target_: y}, z: {passes: 1}}\n")
        )
    with pytest.raises(BadInput, match=refused):
        made.standings()


def test_runs_made_from_other_data_are_refused_and_moved_ones_are_not(whole, file, data, tmp_path):
    moved = shutil.copytree(data, tmp_path / "moved")
    assert set(plan(file, whole, moved).standings().values()) == {"complete"}
    table = (moved / "sites.csv").read_text()
    (moved / "sites.csv").write_text(table.replace(",p0\n", ",q0\n", 1))
    with pytest.raises(BadInput) as raised:
        plan(file, whole, moved).standings()
    assert str(raised.value) == (
        f"{whole / 'discs,unseen_sites=a,seed=0'} was made from other data than --data {moved} holds (and so were 3 "
        "more runs): pictures, masks, splits or patients of the manifest differ; give the folder that it was made "
        "from, or another --out for runs on these data"
    )


def test_runs_with_fewer_rounds_than_asked_go_on_and_stand_in_no_table(whole, file, data, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    more = plan(file, out, data, words=(*TINY, "num_rounds=3"))
    assert set(more.standings().values()) == {"continue"}
    with pytest.raises(BadInput, match="there is no table yet"):
        write_tables(more, Console(quiet=True))
    assert missing_runs(lacks(more))[0] == "FedAvg | without a | seed 0: finished with 2 rounds, and 3 are asked"


def test_the_command_says_where_it_stands_and_hands_the_rest_to_slurm(whole, file, data, capsys):
    words = ["reproduce", file, "--data", data, "--folds", "a,b", "--out", whole, *TINY]
    assert fedlit(*words, "--seeds", 2, "--submit", "--dry-run", "--gpus", 2) == 0
    said = capsys.readouterr().out
    assert said.startswith("8 runs: 4 complete, 4 to begin\n") and "#SBATCH --array=0-3\n" in said
    assert "#SBATCH --gpus-per-node=2\n" in said and said.count("fedlit run ") == 4 and "seed=0" not in said
    assert fedlit(*words, "--seeds", 1) == 0
    said = capsys.readouterr().out
    assert said.startswith("4 runs: 4 complete\n") and str(whole / "table.html") in said
    assert fedlit(*words, "--gpus", 2) == 2 and "add --submit" in capsys.readouterr().err


def test_failed_runs_are_a_failure_where_there_is_no_table_yet(file, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(running, "conduct", lambda standings: ["x: error: client 'b' failed"])
    assert fedlit("reproduce", file, "--data", data, "--folds", "a", "--seeds", 1, "--out", tmp_path, *TINY) == FAILED
    said = capsys.readouterr().err
    assert "error: x: error: client 'b' failed" in said and "there is no table yet" in said


class Clock:
    """Every run takes so many seconds."""

    def __init__(self, *seconds):
        self.times = iter([moment for second in seconds for moment in (0.0, second)])

    def monotonic(self):
        return next(self.times)


def test_a_line_for_each_run_estimates_by_method_and_goes_on_past_a_failure(file, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(running, "time", Clock(10.0, 100.0, 10.0, 100.0))
    ends = iter([Ended(DONE), Ended(DONE), Ended(FAILED, "error: client 'b' failed"), Ended(DONE)])
    failures = conduct(plan(file, tmp_path / "out", data).standings(), lambda run: next(ends))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "run 1 of 4 | FedAvg | without a | seed 0 | 10 s | 3 remain, about 30 s",
        "run 2 of 4 | IOP-FL, global | without a | seed 0 | 100 s | 2 remain, about 110 s",
        "run 3 of 4 | FedAvg | without b | seed 0 | failed after 10 s | 1 remain, about 100 s",
        "run 4 of 4 | IOP-FL, global | without b | seed 0 | 100 s",
    ]
    assert failures == [f"{tmp_path}/out/discs,unseen_sites=b,seed=0: error: client 'b' failed"]


def test_a_run_that_is_refused_ends_the_study(file, data, tmp_path):
    with pytest.raises(Halted, match=r"(?s)error: no data.*no further run was begun") as raised:
        conduct(plan(file, tmp_path / "out", data).standings(), lambda run: Ended(REFUSED, "error: no data"))
    assert raised.value.code == REFUSED
