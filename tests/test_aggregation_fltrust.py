"""FLTrust's root of trust: what the server trains itself is the work of no client, and is sent nowhere."""

from __future__ import annotations

import json
import math

import pytest

from fedlit.__main__ import checked
from fedlit.aggregation import ROOT, FLTrust
from fedlit.algorithms import FedAvg, Sampling
from fedlit.errors import ClientFailed
from fedlit.messages import size
from fedlit.plan import plan
from tests.conftest import fedlit, make_federation, make_site, run_rounds


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
    assert [each.name for each in found.clients] == ["a", "b"] and found.exchanges[0].num_clients == 2
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
