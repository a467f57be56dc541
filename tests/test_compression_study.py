"""The study of compression: its table is what the runs recorded, and it does nothing twice."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from fedlit.config import check, load
from tests.conftest import script


@pytest.fixture(scope="module")
def study():
    return script("compression_study")


@pytest.fixture
def runs(monkeypatch):
    """In the place of `fedlit run`: Dice 0.8, 0.1 less by seed; a tenth of the bytes with a transform."""
    calls = []

    def run(command, check):
        settings = dict(word.partition("=")[::2] for word in command[5:])
        calls.append(settings)
        run_dir = Path(settings["run_dir"])
        run_dir.mkdir(parents=True)
        mean = 0.8 - 0.1 * int(settings["seed"])
        num_bytes = 20_000_000 if "transform" not in settings else 2_000_000
        sites = {"a": {"role": "member"}, "b": {"role": "member"}, "u": {"role": "unseen"}}
        summary = {"mean_dice": mean, "worst_dice": 0.5, "bytes_up": num_bytes, "num_rounds": 5, "sites": sites}
        (run_dir / "summary.json").write_text(json.dumps(summary))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_its_table_is_what_the_runs_recorded_and_it_goes_on_where_it_was(study, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["study", "--quick", "--seeds", "2", "--out", str(tmp_path)])
    study.main()
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    rows = {line.split(" | ")[0][2:]: line.split(" | ")[1:] for line in table.splitlines()}
    assert rows["whole"] == ["2.000", "1.0", "0.750 ± 0.071", "0.500 |"]
    assert rows["top 1 %"] == ["0.200", "10.0", "0.750 ± 0.071", "0.500 |"]
    assert len(runs) == 2 * len(study.WAYS) == len({settings["run_dir"] for settings in runs})
    runs.clear()
    study.main()
    assert not runs


def test_every_way_passes_check_and_no_two_are_one(study):
    assert len({str(words) for words in study.WAYS.values()}) == len(study.WAYS)
    for words in study.WAYS.values():
        checked = check(load("quickstart", [*study.DATA, *study.QUICK, *words]))
        assert not checked.problems and bool(checked.config.transform) is bool(words)
