"""A study with columns of its own: which words a cell's run has, and the tables over all sites."""

from __future__ import annotations

import csv
import re

import pytest
from rich.console import Console

from fedlit.errors import BadInput
from fedlit.significance import paired_p
from fedlit.studies.grid import Asked, plan_of
from fedlit.studies.reproducing import write_tables
from fedlit.studies.running import FAILED, Ended, conduct
from fedlit.studies.study import read_study
from tests.conftest import CONFIG, fedlit
from tests.finished_runs import finished_run
from tests.test_report import Page

STUDY = """\
metrics: [dice]
reference: avg
costs: [MB up, times less]
columns:
  easy: [lr=0.1, algorithm.mu=0.5]
  hard: [lr=0.2, algorithm.mu=5]
methods:
  avg: {config: discs.yaml}
  prox: {config: discs.yaml, set: [algorithm=fedprox, algorithm.mu=???]}
  dyn: {config: discs.yaml, set: [algorithm=feddyn], not_defined: [hard]}
"""


@pytest.fixture
def plan(tmp_path, disc_data):
    """The study, which is in tmp_path, as it is asked for."""
    (tmp_path / "discs.yaml").write_text(CONFIG + "data.root: ???\n")
    (tmp_path / "columns.yaml").write_text(STUDY)

    def make(**asked):
        study = read_study(str(tmp_path / "columns.yaml"))
        return plan_of(Asked(study, tmp_path / "out", disc_data, **{"seeds": (0,), "words": ("num_rounds=3",)} | asked))

    return make


def test_a_cell_has_the_words_of_its_column_and_those_that_its_method_leaves_unset(plan):
    points = plan().points
    assert [(point.title, point.path.name) for point in points] == [
        ("avg | easy | seed 0", "discs,column=easy,seed=0"),
        ("prox | easy | seed 0", "discs,algorithm=fedprox,column=easy,seed=0"),
        ("dyn | easy | seed 0", "discs,algorithm=feddyn,column=easy,seed=0"),
        ("avg | hard | seed 0", "discs,column=hard,seed=0"),
        ("prox | hard | seed 0", "discs,algorithm=fedprox,column=hard,seed=0"),
    ]
    assert [point.config.lr for point in points] == [0.1, 0.1, 0.1, 0.2, 0.2]
    assert [point.config.algorithm.get("mu") for point in points] == [None, 0.5, None, None, 5]
    assert [point.fold for point in plan(folds=("hard",)).points] == ["hard", "hard"]


def test_a_column_may_have_data_of_its_own_and_no_run_within_it(plan):
    made = plan()
    for point in made.points:
        run = finished_run(point.path, {"a": [0.5] * 4})
        (run / "provenance.json").write_text(f'{{"manifest": "{point.fold}"}}')
    write_tables(made, Console(quiet=True))
    (run / "provenance.json").write_text('{"manifest": "another"}')
    with pytest.raises(BadInput, match="column=hard,seed=0 was made from other data than"):
        write_tables(made, Console(quiet=True))


def test_its_tables_are_the_mean_over_sites_and_the_worst_of_them(plan, tmp_path):
    """Tests are over the patients of all sites of one column, and corrected within it."""
    base = {"a": [0.5] * 4, "b": [0.7] * 4}
    gains = {"easy": [0.01, 0.02, 0.03, 0.04], "hard": [0.1, 0.2, -0.15, -0.25]}
    made = plan()
    for point in made.points:
        name, column = point.methods[0], point.fold
        more = [0.0] * 4 if name == "avg" else gains[column]
        cases = {site: [value + plus for value, plus in zip(of, more, strict=True)] for site, of in base.items()}
        if (name, column) != ("prox", "hard"):
            summary = {"bytes_up": 12_000_000 if name == "avg" else 3_000_000}
            finished_run(point.path, cases, summary=summary)
    ends = {"discs,algorithm=fedprox,column=hard,seed=0": Ended(FAILED, "error: client 'b' failed")}
    waiting = {point: "new" if point.path.name in ends else "complete" for point in made.points}
    assert len(conduct(waiting, lambda run: ends[run.run_dir.rpartition("/")[2]])) == 1
    notes = write_tables(made, Console(quiet=True))
    assert notes == ["Not in the table: prox | hard | seed 0: failed: error: client 'b' failed."]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "## Dice, mean over sites" in text and "## Dice, the worst site" in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0] == ["method", "easy", "hard", "MB up", "times less"]
    assert rows[2:6] == [
        ["avg", "0.600", "**0.600**", "2", "1.0"],
        ["prox", r"**0.625** \*", "failed", "0.5", "4.0"],
        ["dyn", r"**0.625** \*", "not defined", "0.5", "4.0"],
        ["patients", "8", "8", "", ""],
    ]
    assert rows[6][:3] == ["method", "easy", "hard"] and rows[8][1] == "0.500"
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["metric"] for line in lines] == ["dice mean"] * 3 + ["dice worst"] * 3
    assert float(lines[1]["easy p"]) == pytest.approx(2 * paired_p(gains["easy"] * 2))
    assert (lines[1]["hard p"], lines[2]["hard p"], lines[4]["easy p"]) == ("failed", "not defined", "no test")
    page = Page(tmp_path / "out" / "table.html")
    assert "Best Dice, mean over sites, of 2 columns: " in page.text and "Left out" not in page.text
    assert not re.search("https?:", page.source)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("easy:", "'easy, 3':", "columns.easy, 3: a comma in its name would divide it"),
        ("metrics:", "folds: unseen_sites\nmetrics:", "columns: are over all members; leave folds and scores out"),
        ("[hard]", "[harder]", "methods.dyn.not_defined: 'harder' is no column; did you mean hard?"),
        ("[hard]", "hard", "methods.dyn.not_defined: expected a list of columns, got 'hard'"),
        ("reference: avg", "reference: dyn", "reference: must be defined in every column"),
        ("[MB up,", "[MB down,", "costs: is ['MB down', 'times less']; allowed is a list of MB, MB up, times less,"),
        ("lr=0.1", "seed=1", "columns.easy: seed is set by the study itself"),
    ],
)
def test_columns_that_make_no_table_are_refused(tmp_path, old, new, message):
    (tmp_path / "discs.yaml").write_text(CONFIG)
    path = tmp_path / "columns.yaml"
    path.write_text(STUDY.replace(old, new))
    with pytest.raises(BadInput) as raised:
        read_study(str(path))
    assert message in str(raised.value)


def test_without_a_finished_run_there_is_no_table(plan):
    with pytest.raises(BadInput, match="is finished that scores a site: there is no table yet"):
        write_tables(plan(), Console(quiet=True))


def test_columns_are_chosen_by_name(plan, tmp_path, disc_data, capsys):
    with pytest.raises(BadInput, match="--columns: soft is no column of the study; they are easy, hard"):
        plan(folds=("soft",))
    words = ["reproduce", tmp_path / "columns.yaml", "--data", disc_data, "--dry-run", "--seeds", 1]
    assert fedlit(*words, "--columns", "hard", "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("2 runs: 2 to begin\n")
    assert fedlit(*words, "--folds", "hard") == 2 and "its columns are chosen by --columns" in capsys.readouterr().err
