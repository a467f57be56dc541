"""The study of personal models: it counts what it says, and does nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlit.studies import rounds
from fedlit.studies.running import Ended
from fedlit.text_table import Cell
from tests.conftest import script

ABOVE = {"global": 0.0, "personal": 0.02}
"""What a model has more than the global one."""
MORE_STEPS = 0.05
"""What a run with more than 10 steps a round has more."""


@pytest.fixture
def study():
    return script("personalization_study")


@pytest.fixture
def runs(study, monkeypatch):
    """In the place of `fedlit run`: its tables; site b is 0.1 worse, each re-split and each seed 0.01 better."""
    calls = []

    def run(asked):
        assert "eval_every=1000000" in asked.words
        settings = dict(word.partition("=")[::2] for word in asked.words[1:])
        run_dir = Path(settings["run_dir"])
        calls.append(run_dir.relative_to(run_dir.parents[2]).parts)
        is_published = settings.get("algorithm") == "iopfl_as_published"
        run_dir.mkdir(parents=True)
        lines = ["round,site,role,model,split,metric,value,num_cases"]
        for number in (3, 20):
            for place, site in enumerate("ab"):
                base = 0.5 + number / 100 - 0.1 * place + MORE_STEPS * (settings.get("local_steps") != "10")
                base += 0.01 * (int(settings["seed"]) + int(settings["data.resplit_seed"]))
                lines += [
                    f"{number},{site},member,{model},{split},dice,{base + more * (1 - 2.5 * is_published):.4f},3"
                    for model, more in ABOVE.items()
                    for split in ("val", "test")
                ]
        lines.append("20,u,unseen,global,test,dice,0.1,3")
        (run_dir / "metrics.csv").write_text("\n".join(lines) + "\n")
        (run_dir / "summary.json").write_text(json.dumps({"num_rounds": 20, "kept_round": 3}))
        (run_dir / "config.yaml").touch()
        return Ended(0)

    monkeypatch.setattr(rounds, "in_a_process", run)
    monkeypatch.setattr(study, "pooled_steps", lambda data_root, settings: 70)
    return calls


def test_its_table_is_what_the_runs_recorded_and_it_goes_on_where_it_was(study, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["study", "DATA", "--resplits", "2", "--seeds", "2", "--out", str(tmp_path)])
    study.main()
    table = (tmp_path / "table.md").read_text()
    assert len(runs) == len(set(runs)) == len(study.RUNS) * 4 and table in capsys.readouterr().out
    first, second = table.split("## Difference")
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in first.splitlines()}
    assert rows["FedAvg"][1:] == ["4", "0.660 ± 0.008", "0.610 ± 0.008", "0.710 ± 0.008", "0.610 ± 0.008"]
    assert rows["IOP-FL"][2].startswith("0.680") and rows["IOP-FL, as published"][2].startswith("0.630")
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in second.splitlines()}
    assert rows["IOP-FL"][1:3] == ["2", "+0.020 (+0.020 to +0.020)"] and "FedAvg" not in rows
    assert rows["IOP-FL, as published"][2] == r"-0.030 (-0.030 to -0.030) \*"
    assert rows["FedAvg, 40 steps a round"][2].startswith("+0.050")
    assert rows["IOP-FL, 40 steps a round"][2].startswith("+0.020"), "against FedAvg with as many steps"
    runs.clear()
    study.main()
    assert not runs
    monkeypatch.setattr("sys.argv", ["study", "--table-only", "--out", str(tmp_path)])
    capsys.readouterr()
    study.main()
    assert table in capsys.readouterr().out and not runs


def test_some_runs_can_be_asked_for(study, runs, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["study", "DATA", "--quick", "--only", "iopfl", "--out", str(tmp_path)])
    study.main()
    assert runs == [("iopfl", "resplit0", "seed0")]
    assert "+0.020 |" in (tmp_path / "table.md").read_text()  # of one re-split no interval


def test_an_interval_is_students_over_resplits(study):
    differences = {(0, 0): 0.0, (0, 1): 0.02, (1, 0): 0.03, (2, 0): 0.05}  # means 0.01, 0.03, 0.05: deviation 0.02
    half = 4.303 * 0.02 / 3**0.5
    assert study.interval(differences) == Cell(f"+0.030 ({0.03 - half:+.3f} to {0.03 + half:+.3f})", mark="*")


@pytest.mark.parametrize(
    "kind", ["iopfl", "iopfl_as_published", "centralized", "finetuning", "fedbn", "ditto", "fedavg"]
)
def test_every_run_passes_check(study, kind):
    from fedlit.config import check, load

    assert not check(load(study.CONFIG, study.RUNS[kind])).problems
