"""Placement changes no result: side by side not a bit, together in a team no more than rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from fedlit.assembly import training_costs
from fedlit.data.site import num_pictures
from fedlit.errors import BadInput
from fedlit.fleet import Team, exchange
from fedlit.fleet.placement import desks, pack, team_size
from fedlit.networks.amplitudes import AmplitudeNorm
from fedlit.weights import load
from tests import scenarios
from tests.conftest import fedlit, make_network, make_site, make_world

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", params=[2, pytest.param(4, marks=pytest.mark.long)])
def outcomes(request, tmp_path_factory):
    """(number of processes, folder with what each of them found): one group of processes for all tests."""
    out = tmp_path_factory.mktemp(f"processes{request.param}")
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={request.param}", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*words, "tests/scenarios.py", str(out)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return request.param, out


def found(outcomes, name, team):
    """What every process found; of several processes' parts the union where they differ in names."""
    size, out = outcomes
    return [load(out / f"{name}-{team}-{place}.safetensors")[0] for place in range(size)]


@cache
def alone(scenario):
    """What one process finds, the same beside two and beside four."""
    return scenario(make_world())


@pytest.mark.parametrize(
    "scenario", [*scenarios.SIDE_BY_SIDE, *scenarios.WITH_BATCH_NORM], ids=lambda each: each.__name__
)
def test_side_by_side_equals_one_process_bit_for_bit(outcomes, scenario):
    one = alone(scenario)
    parts = found(outcomes, scenario.__name__, 1)
    together = {name: value for part in parts for name, value in part.items()}
    assert together.keys() == one.keys()
    assert not [name for part in parts for name, value in part.items() if not torch.equal(value, one[name])]


@pytest.mark.parametrize("scenario", scenarios.TOGETHER, ids=lambda each: each.__name__)
def test_a_team_equals_one_process_but_for_rounding(outcomes, scenario):
    one = alone(scenario)
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


def test_a_teams_batch_is_divided_and_its_mean_is_the_batchs():
    from fedlit.training import Request

    batch = Request([4, 9, 2, 7, 5], [40, 90, 20, 70, 50])
    teams = [Team(size=2, place=place) for place in range(2)]
    assert [team.part(batch) for team in teams] == [([4, 2, 5], [40, 20, 50]), ([9, 7], [90, 70])]
    losses = {4: 1.0, 9: 2.0, 2: 3.0, 7: 4.0, 5: 10.0}
    shares = [
        team.weighted(torch.tensor([losses[index] for index in team.part(batch).indices]).mean(), batch)
        for team in teams
    ]
    assert torch.stack(shares).mean() == sum(losses.values()) / 5
    alone = Request([4], None)
    assert teams[1].part(alone) == alone and teams[1].num_own(alone) == 0
    assert teams[1].weighted(torch.tensor(3.0), alone) == 0 and teams[0].weighted(torch.tensor(3.0), alone) == 6


def test_batch_norm_in_a_team_is_warned_of_on_the_cpu_and_synchronised_on_gpus():
    warnings: list[str] = []
    team = Team(size=2)
    network = team.normalising_together(make_network(norm="batch"), torch.device("cpu"), warnings.append)
    assert len(warnings) == 1 and "norm=group" in warnings[0] and "BatchNorm" in repr(network)
    team.normalising_together(make_network(norm="group"), torch.device("cpu"), warnings.append)
    Team().normalising_together(make_network(norm="batch"), torch.device("cpu"), warnings.append)
    assert len(warnings) == 1
    names = make_network(norm="batch").state_dict().keys()
    synced = team.normalising_together(make_network(norm="batch"), torch.device("cuda"), warnings.append)
    assert "SyncBatchNorm" in repr(synced) and synced.state_dict().keys() == names
    alike = nn.Sequential(AmplitudeNorm(1, 2), make_network(norm="group"))
    assert team.normalising_together(alike, torch.device("cuda"), warnings.append) is alike
    assert len(warnings) == 2 and "amplitude_norm sees a 2th of each batch" in warnings[1]


@pytest.mark.parametrize("num_elements, num_processes", [(1, 2), (10_000_000, 3), (1 << 22, 4), (0, 2)])
def test_every_element_is_in_one_block_and_every_round_has_a_block_for_each(num_elements, num_processes):
    rounds = exchange.blocks(num_elements, num_processes)
    covered = [(block.start, block.stop) for of_round in rounds for block in of_round]
    assert all(len(of_round) == num_processes for of_round in rounds)
    assert covered[0][0] == 0 and covered[-1][1] == num_elements
    assert all(before[1] == after[0] for before, after in pairwise(covered))


def test_costs_are_pictures_until_an_earlier_part_of_the_run_has_measured_seconds(config_file, tmp_path):
    sites = [make_site("a", (7, 1, 1)), make_site("b", (5, 1, 1)), make_site("c", (4, 1, 1))]
    checkpoints = tmp_path / "run" / "checkpoint"
    assert training_costs(sites, checkpoints) == {"a": 7, "b": 5, "c": 4}
    assert fedlit("run", config_file, "num_rounds=1") == 0
    measured = training_costs(sites, checkpoints)
    assert measured.keys() == {"a", "b", "c"} and all(0 < value < 60 for value in measured.values())
    work = json.loads((checkpoints / "round-00001.json").read_text())["progress"]["work"]
    assert measured["b"] == work["b"][0] / work["b"][1] * 5
    assert num_pictures(sites) == {"a": 7, "b": 5, "c": 4}, "by which teams are formed, also of a run that goes on"
    assert training_costs([*sites, make_site("d", (2, 1, 1))], checkpoints) == {"a": 7, "b": 5, "c": 4, "d": 2}
    (idle,) = json.loads((tmp_path / "run" / "summary.json").read_text())["idle_fraction"]
    assert 0 <= idle < 1
