"""FedBuff and its clock: who arrives when, of which version, and what the server makes of it."""

from __future__ import annotations

import math

import pytest
import torch

from fedlit.algorithms import Clock, FedAvg, FedBuff, Sampling
from fedlit.algorithms.clock import Job, as_scalars
from fedlit.errors import BadInput
from fedlit.messages import Server, header, restore, size, tensors
from fedlit.weights import sha256
from tests.conftest import fedlit, make_federation, run_rounds

ONE = Sampling(clients_per_round=1)
UNEVEN = FedBuff(clock=Clock(seconds={"a": 1.0, "b": 2.0, "c": 7.0}, spread=0.2, dropout=0.2))


def played(algorithm, sites, num_rounds, sampling=ONE):
    """The rounds of a run."""
    federation, server = make_federation(sites, sampling=sampling)
    return server, [*federation.run(algorithm, server, num_rounds)]


def test_with_everybody_in_the_buffer_it_is_fedavg_bit_for_bit(sites):
    _, rounds = played(FedBuff(), sites, 3, Sampling())
    assert sha256(rounds[-1].server.weights) == sha256(run_rounds(*make_federation(sites), 3, FedAvg()).weights)
    slow = FedBuff(clock=Clock(seconds={"a": 1, "b": 2, "c": 30}))
    _, waited = played(slow, sites, 3, Sampling())
    assert sha256(waited[-1].server.weights) == sha256(rounds[-1].server.weights)
    assert (rounds[-1].server.scalars["clock"], waited[-1].server.scalars["clock"]) == (3, 90)


def test_a_stale_change_counts_less_and_starts_from_its_own_version(sites):
    first, rounds = played(FedBuff(), sites, 2)
    assert [each.cohort for each in rounds] == [("a",), ("b",)]  # both have begun with the first model
    alone, server = make_federation(sites[1:2])
    (of_b,) = alone.run(FedAvg(), server, 1)
    for name, value in rounds[1].server.weights.items():
        change = of_b.server.weights[name] - first.weights[name]
        wanted = rounds[0].server.weights[name] + change / math.sqrt(2)
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-6)


def test_each_change_in_a_buffer_starts_from_its_own_version(sites):
    """w + lr / (n_a + n_c) (n_a (w_a - w) + n_c / sqrt(2) (w_c - w^0)): a began with this server, c with the first."""
    buffer = FedBuff(lr=0.5, clock=Clock(seconds={"a": 1.0, "b": 1.5, "c": 2.8}))
    first, rounds = played(buffer, sites, 2, Sampling(clients_per_round=2))
    assert [each.cohort for each in rounds] == [("a", "b"), ("a", "c")]
    before = rounds[0].server.weights

    def learnt(site, server):
        return run_rounds(make_federation([site])[0], server, server.round + 1, FedAvg()).weights

    site_a, _, site_c = sites
    of_a, of_c = learnt(site_a, Server(before, round=1)), learnt(site_c, first)
    n_a, n_c = len(site_a.train), len(site_c.train) / math.sqrt(2)
    for name, value in rounds[1].server.weights.items():
        change = n_a * (of_a[name] - before[name]) + n_c * (of_c[name] - first.weights[name])
        wanted = before[name] + 0.5 * change / (len(site_a.train) + len(site_c.train))
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-6)


def test_what_was_sent_for_lost_updates_is_counted(sites):
    models = []
    for dropout in (0.0, 0.4):
        server, rounds = played(FedBuff(clock=Clock(dropout=dropout)), sites, 6)
        models.append(sum(each.bytes_down for each in rounds) / size(Server(server.weights)))
    assert models[0] == 6 and models[1] in range(7, 20)


def test_nobody_waits_for_the_slow(sites):
    _, rounds = played(FedBuff(clock=Clock(seconds={"a": 1, "b": 1.1, "c": 5})), sites, 10)
    assert "".join(name for each in rounds for name in each.cohort) == "ababababac"
    assert rounds[-1].server.scalars["clock"] == pytest.approx(5)


def test_the_server_keeps_the_versions_that_are_in_use_and_sends_one(sites):
    _, rounds = played(FedBuff(clock=Clock(seconds={"a": 1, "b": 1, "c": 4.5})), sites, 9)
    for each in rounds:
        begun = {int(value) for name, value in each.server.scalars.items() if name.startswith("round/")}
        old = {f"version_{round}" for round in begun if round < each.server.round}
        assert each.server.slots.keys() == old and len(old) <= 2
        assert each.bytes_down == size(Server(each.server.weights))
    assert "version_0" in rounds[7].server.slots and rounds[8].cohort == ("c",)
    assert "version_0" not in rounds[8].server.slots


def test_resumed_in_the_middle_it_goes_on_as_before(sites):
    _, whole = played(UNEVEN, sites, 7)
    federation, server = make_federation(sites, sampling=ONE)
    half = run_rounds(federation, server, 3, UNEVEN)
    saved = restore(Server, header(half), tensors(half))
    again = run_rounds(make_federation(sites, sampling=ONE)[0], saved, 7, UNEVEN)
    assert sha256(again.weights) == sha256(whole[-1].server.weights)
    assert again.scalars == whole[-1].server.scalars


def test_running_variances_stay_positive(sites):
    from tests.conftest import make_network

    federation, server = make_federation(sites, network=make_network("batch"), sampling=ONE)
    server = run_rounds(federation, server, 6, UNEVEN)
    assert all((value > 0).all() for name, value in server.weights.items() if name.endswith("running_var"))


def test_a_lost_update_is_begun_again_with_the_newest_model():
    jobs = {"a": Job(2, 10.0), "b": Job(5, 50.0)}
    server = Server({}, round=5, clients="ab", scalars=as_scalars(9.0, jobs))
    clocks = (Clock(seed=seed, dropout=0.5) for seed in range(50))
    lost = next(clock for clock in clocks if clock.is_lost("a", jobs["a"]) and not clock.is_lost("a", Job(5, 11.0)))
    assert lost.jobs(server) == jobs
    arrivals = lost.arrivals(server, 1)
    assert arrivals.names == ["a"] and arrivals.jobs["a"] == Job(5, 11.0, 0) and arrivals.now == 11.0


def test_the_clock_draws_what_it_is_told():
    clock, names = Clock(seconds=2.0, stragglers=0.5, slowdown=10), "abcd"
    slow = clock.slow(names)
    assert len(slow) == 2 and slow == clock.slow(names[::-1])
    took = {name: clock.begin(name, names, round=3, now=1.0).ends - 1.0 for name in names}
    assert took == {name: 20.0 if name in slow else 2.0 for name in names}
    spread = [math.log(Clock(spread=0.3).begin("a", names, round, 0.0).ends) for round in range(400)]
    assert torch.tensor(spread).std().item() == pytest.approx(0.3, rel=0.15)
    lost = [Clock(dropout=0.25).is_lost("a", Job(round, 0.0)) for round in range(400)]
    assert sum(lost) / 400 == pytest.approx(0.25, abs=0.07)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"seconds": 0}, {"seconds": {}}, {"seconds": {"a": -1}}),
        *({"spread": -1}, {"stragglers": 2}, {"slowdown": 0.5}, {"dropout": 1}),
    ],
)
def test_a_clock_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}=.* is not allowed; use"):
        Clock(**wrong)


def test_a_clock_for_other_clients_is_refused(sites):
    with pytest.raises(BadInput, match=r"algorithm\.clock\.seconds: b is missing; give a number for each of a, b, c"):
        FedBuff(clock=Clock(seconds={"a": 1, "c": 1})).participants(sites)


def test_a_run_tells_the_simulated_time(config_file, tmp_path):
    import json

    words = [
        "algorithm=fedbuff",
        "clients_per_round=1",
        "algorithm.clock.dropout=0.1",
        "num_rounds=3",
        "local_epochs=1",
    ]
    assert fedlit("run", config_file, *words) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["simulated_seconds"] > 0
