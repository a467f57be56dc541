"""Placement changes no result: side by side not a bit, together in a team no more than rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedlit.errors import BadInput
from fedlit.fleet.placement import desks, pack, team_size
from fedlit.weights import load
from tests import scenarios
from tests.conftest import make_world

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", params=[2, 4])
def outcomes(request, tmp_path_factory):
    """(number of processes, folder with what each of them found): one group of processes for all tests."""
    out = tmp_path_factory.mktemp(f"processes{request.param}")
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={request.param}", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*words, "tests/scenarios.py", str(out)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return request.param, out


def found(outcomes, name, team):
    """What every process found; of several processes' parts the union where they differ in names."""
    size, out = outcomes
    return [load(out / f"{name}-{team}-{place}.safetensors")[0] for place in range(size)]


@pytest.mark.parametrize(
    "scenario", [*scenarios.SIDE_BY_SIDE, *scenarios.WITH_BATCH_NORM], ids=lambda each: each.__name__
)
def test_side_by_side_equals_one_process_bit_for_bit(outcomes, scenario):
    one = scenario(make_world())
    parts = found(outcomes, scenario.__name__, 1)
    together = {name: value for part in parts for name, value in part.items()}
    assert together.keys() == one.keys()
    assert all(torch.equal(value, one[name]) for part in parts for name, value in part.items())


@pytest.mark.parametrize("scenario", scenarios.TOGETHER, ids=lambda each: each.__name__)
def test_a_team_equals_one_process_but_for_rounding(outcomes, scenario):
    one = scenario(make_world())
    for part in found(outcomes, scenario.__name__, outcomes[0]):
        assert part.keys() == one.keys()
        for name, value in part.items():
            torch.testing.assert_close(
                value, one[name], rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_a_teams_processes_stay_equal_and_fail_as_one(outcomes):
    size, out = outcomes
    for place in range(size):
        words = json.loads((out / f"words-{place}.json").read_text())
        assert words["in_sync"] is True
        assert words["failing"] == "ClientFailed: client 'b' failed in round 1: disk on fire"
        assert words["unreached"].startswith(
            "BadInput: network: the loss never reaches 1 trained parameters, such as idle"
        )


def test_teams_are_formed_where_they_end_a_round_much_sooner():
    equal = dict.fromkeys("abcdefgh", 1.0)
    assert team_size("auto", equal, 8) == 1
    assert team_size("auto", {"pooled": 5.0}, 8) == 8
    assert team_size("auto", {"a": 1.0, "b": 1.0}, 8) == 4
    assert team_size("auto", equal, 8, at_once=2) == 4
    assert team_size("auto", {"pooled": 5.0}, 8, most=4) == 4
    assert team_size("auto", equal, 1) == team_size("world", equal, 1) == 1
    assert team_size("world", equal, 6) == 6 and team_size(3, equal, 6) == 3


@pytest.mark.parametrize(
    "asked, most, message", [(3, 8, "cannot be divided so; allowed are 1, 2, 4, 8"), (8, 4, "raise batch_size")]
)
def test_teams_that_cannot_be_are_refused(asked, most, message):
    with pytest.raises(BadInput, match=message):
        team_size(asked, {"a": 1.0}, 8, most=most)


def test_a_site_is_scored_where_its_memory_is_and_others_where_there_is_time():
    homes = pack({"a": 3, "b": 2, "c": 1}, 2)
    found = desks({"a": 4, "b": 4, "c": 4, "unseen": 4}, 4, homes, 2)
    assert all(found[name] // 2 == homes[name] for name in homes) and sorted(found.values()) == [0, 1, 2, 3]
