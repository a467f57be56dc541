"""The study of robustness: it counts what it says, does nothing twice, and knows where a rule is not defined."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fedlit.config import check, load
from tests.conftest import script


@pytest.fixture(scope="module")
def study():
    return script("robustness_study")


@pytest.fixture
def runs(study, monkeypatch):
    """In the place of `fedlit run`: 0.8 at one site and 0.6 at another, 0.1 less by seed; an attacked mean fails."""
    calls = []

    def run(command, check):
        settings = dict(word.partition("=")[::2] for word in command[5:])
        run_dir, is_attacked = Path(settings["run_dir"]), "Attacked" in settings["algorithm"]
        calls.append(settings)
        if is_attacked and settings["algorithm.aggregate"] == "mean":
            return subprocess.CompletedProcess(command, 1)
        run_dir.mkdir(parents=True)
        lines = ["round,site,role,model,split,metric,value,num_cases"]
        for number in (1, int(settings["num_rounds"])):
            for site, value in (("a", 0.8), ("b", 0.6), ("c", "")):
                value = value and value - 0.1 * int(settings["seed"]) if number > 1 else 0
                lines.append(f"{number},{site},member,global,test,dice,{value},3")
        lines.append("5,rural,unseen,global,test,dice,0.1,3")
        (run_dir / "metrics.csv").write_text("\n".join(lines) + "\n")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_its_table_is_what_the_runs_recorded_and_it_goes_on_where_it_was(study, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["study", "--quick", "--seeds", "2", "--out", str(tmp_path)])
    study.main()
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    rows = {
        cells[0]: cells[1:] for cells in ([c.strip() for c in line[1:-1].split("|")] for line in table.splitlines())
    }
    assert rows["rule"] == ["none", "sign flip, 3 of 15", "sign flip, 6 of 15"]
    value = "0.650 ± 0.071 / 0.550"
    assert rows["median"] == [value] * 3 and rows["mean"] == [value, *["a client failed"] * 2]
    assert rows["Bulyan"] == [value, value, "not defined"] and rows["Krum"] == [value] * 3
    assert len(runs) == 2 * (3 * len(study.RULES) - 1)
    runs.clear()
    study.main()
    assert not runs


def test_the_whole_study_has_every_rule_attack_and_number_thrice(study):
    asked = list(study.experiments(False, 3))
    assert len({run.folder for run in asked}) == len(asked) == len(study.RULES) * (1 + 2 * len(study.ATTACKS)) * 3


def test_every_cell_passes_check(study):
    for run in study.experiments(False, 1):
        if run.attack not in ("sign flip", study.NONE) and run.rule != "median":
            continue
        checked = check(load("quickstart", [*study.DATA, *run.words]))
        assert not checked.problems
        malicious = checked.config.algorithm.get("malicious", [])
        assert len(malicious) == run.num_malicious and set(malicious) <= set(study.MEMBERS)
