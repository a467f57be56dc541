"""FLTrust's root of trust: what the server trains itself is the work of no client, and is sent nowhere."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fedlit.__main__ import checked
from fedlit.aggregation import ROOT, FLTrust, Median, NormClipping, UpdateGuard
from fedlit.algorithms import FedAvg, Sampling
from fedlit.errors import ClientFailed
from fedlit.messages import size
from fedlit.plan import plan
from fedlit.weights import sha256
from tests.conftest import fedlit, make_federation, make_site, run_rounds
from tests.rounds import make_fleet, play, vectors

ZERO = {"w": torch.zeros(2)}
QUIET = {"a": [1, 0], "b": [0.9, 0.2], "c": [1.1, 0]}


@pytest.fixture(scope="module")
def fleet():
    return make_fleet([*"abcd", ROOT])


def test_what_the_server_trains_itself_is_no_client_and_costs_no_byte(config_file, tmp_path):
    words = ["num_rounds=2", "local_epochs=1", "server_site=c", "algorithm=feddyn", "transform=top_k"]
    assert fedlit("run", config_file, *words, "algorithm.aggregate=uniform", f"run_dir={tmp_path / 'mean'}") == 0
    words.append("algorithm.aggregate=fltrust")
    assert fedlit("run", config_file, *words) == 0
    mean, trust = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("mean", "run"))
    assert [mean[key] for key in ("bytes_up", "bytes_down")] == [trust[key] for key in ("bytes_up", "bytes_down")] > [0]
    found = plan(checked(config_file, words).require())
    assert found.in_all_rounds(lambda each: each.bytes_up) == trust["bytes_up"]
    assert found.in_all_rounds(lambda each: each.bytes_down) == trust["bytes_down"]
    assert sorted(each.name for each in found.clients) == ["a", "b"] and found.exchanges[0].num_clients == 2
    state = json.loads((tmp_path / "run" / "checkpoint" / "round-00002.json").read_text())
    assert state["server"]["header"]["clients"] == ["a", "b"]


def test_the_server_s_own_training_is_in_no_count_of_clients():
    sites = [make_site("a"), make_site("b"), make_site(ROOT)]
    federation, server = make_federation(sites, sampling=Sampling(clients_per_round=1))
    (round,) = federation.run(FedAvg(aggregate=FLTrust()), server, 1)
    assert server.clients == ["a", "b"] == federation.fleet.members and len(round.cohort) == 2
    (report,) = round.aggregate.reports
    assert report.client in "ab" and round.aggregate.root.client == ROOT and round.aggregate.root.num_bytes == 0
    assert round.bytes_up == round.bytes_down == size(server)
    failing, server = make_federation(sites, on_client_error="drop")
    failing.fleet.clients["a"].loss = failing.fleet.clients["b"].loss = lambda logits, target: logits.mean() * math.nan
    with pytest.raises(ClientFailed, match="client 'a' failed"):
        run_rounds(failing, server, 1, FedAvg(aggregate=FLTrust()))


@pytest.mark.parametrize("limit", [None, 0.5])
def test_norm_clipping_leaves_the_server_s_own_update_as_it_is(fleet, limit):
    """FLTrust gives every update the server's length, here 5: clipping the clients changes nothing of it."""
    updates = vectors(**QUIET, d=[3, 1], root_of_trust=[3, 4])
    rules = FLTrust(), NormClipping(limit, rule=FLTrust())
    plain, clipped = (play(fleet, rule, updates, start=ZERO).weights["w"] for rule in rules)
    torch.testing.assert_close(clipped, plain, atol=1e-6, rtol=1e-6)
    assert plain.norm() > 3


@pytest.mark.parametrize("policy", ["drop", "clip", "fail"])
@pytest.mark.parametrize("length", [40.0, 1e-3])
def test_a_guard_leaves_the_server_s_own_update_as_it_is(fleet, policy, length):
    updates = vectors(**QUIET, root_of_trust=[length, 0])
    found = play(fleet, UpdateGuard(policy, rule=FLTrust()), updates, start=ZERO)
    assert sha256(found.weights) == sha256(play(fleet, FLTrust(), updates, start=ZERO).weights)
    assert found.weights["w"].norm() == pytest.approx(length, rel=0.05) and not found.dropped and not found.screened


def test_a_guard_counts_the_norms_of_clients_alone(fleet):
    updates = vectors(**QUIET, d=[40, 0], root_of_trust=[40, 0])
    found = play(fleet, UpdateGuard(rule=FLTrust()), updates, start=ZERO)
    assert [*found.dropped] == ["d"] and "(the median of 4 is 1.05)" in found.dropped["d"]
    left = {name: value for name, value in updates.items() if name != "d"}
    assert sha256(found.weights) == sha256(play(fleet, FLTrust(), left, start=ZERO).weights)
    assert found.screened == {"d": "dropped"}


@pytest.mark.parametrize("policy", ["drop", "clip", "fail"])
def test_a_guard_fails_the_round_where_the_server_s_own_update_is_not_finite(fleet, policy):
    updates = vectors(**QUIET, root_of_trust=[math.nan, 0])
    with pytest.raises(ClientFailed, match="the update of the server's own site holds NaN or Inf"):
        play(fleet, UpdateGuard(policy, rule=FLTrust()), updates, start=ZERO)


def test_that_nobody_is_trusted_is_no_work_of_the_guard(fleet):
    updates = vectors(**QUIET, root_of_trust=[-1, 0])
    found = play(fleet, UpdateGuard(rule=FLTrust()), updates, start=ZERO)
    assert not found.weights["w"].any() and not found.screened


def test_a_guard_drops_and_clips_in_numbers(fleet):
    loud = vectors(**QUIET, d=[40, 0])
    assert play(fleet, UpdateGuard("clip", rule=Median()), loud, start=ZERO).screened == {"d": "clipped"}
    broken = vectors(**QUIET, d=[math.inf, 0])
    assert play(fleet, UpdateGuard("clip", rule=Median()), broken, start=ZERO).screened == {"d": "dropped"}
