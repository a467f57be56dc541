"""Fairness: clients with a higher loss count more, and how a loss is measured without training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedlit.aggregation import Mean
from fedlit.algorithms import AFL, FedAvg, QFedAvg, Sampling
from fedlit.algorithms.afl import nearest_shares
from fedlit.errors import BadInput, ClientFailed
from fedlit.messages import Update
from fedlit.weights import sha256
from tests.conftest import make_federation, make_network, make_site, run_rounds


def test_without_fairness_it_is_uniform_fedavg(sites):
    plain = run_rounds(*make_federation(sites), 2, FedAvg(aggregate=Mean(by="uniform"))).weights
    assert sha256(run_rounds(*make_federation(sites), 2, QFedAvg(q=0)).weights) == sha256(plain)


def test_a_fair_step_is_the_sum_of_the_paper(sites):
    """w - sum F^q L (w - w_k) / sum h_k, F at the weights that clients were sent."""
    q, lipschitz = 2.0, 5.0
    federation, server = make_federation(sites)
    found = run_rounds(federation, server, 1, QFedAvg(q=q, lipschitz=lipschitz)).weights
    start = {name: value.double() for name, value in server.weights.items()}
    above, below = dict.fromkeys(start, 0.0), 0.0
    for site in sites:
        alone, _ = make_federation([site])
        client = alone.fleet.clients[site.name]
        client.load(server.weights)
        loss = client.loss_over(site.train) + 1e-10
        local = run_rounds(alone, server, 1).weights
        steps = {name: lipschitz * (start[name] - local[name]) for name in start}
        square = sum(step.square().sum().item() for step in steps.values())
        above = {name: above[name] + loss**q * steps[name] for name in start}
        below += q * loss ** (q - 1) * square + lipschitz * loss**q
    for name, value in found.items():
        torch.testing.assert_close(value.double(), start[name] - above[name] / below, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "floor", "wanted"),
    [
        ({"a": 0.2, "b": 0.8}, 0.0, {"a": 0.2, "b": 0.8}),
        ({"a": 0.5, "b": 0.9, "c": 0.1}, 0.0, {"a": 0.3, "b": 0.7, "c": 0.0}),
        ({"a": 5.0, "b": 0.0}, 0.0, {"a": 1.0, "b": 0.0}),
        ({"a": 5.0, "b": 0.0}, 0.2, {"a": 0.9, "b": 0.1}),
        ({"a": 3.0}, 0.001, {"a": 1.0}),
        ({"a": 9.0, "b": 1.0}, 1.0, {"a": 0.5, "b": 0.5}),
    ],
)
def test_the_nearest_shares(values, floor, wanted):
    assert nearest_shares(values, floor) == pytest.approx(wanted)


@pytest.mark.parametrize("lr", [0.1, 10.0])
def test_shares_stay_on_the_simplex(sites, lr):
    federation, server = make_federation(sites, sampling=Sampling(clients_per_round=2))
    rounds = list(federation.run(AFL(lr=lr), server, 4))
    for round in rounds:
        assert round.server.scalars.keys() == {"a", "b", "c"}
        assert sum(round.server.scalars.values()) == pytest.approx(1)
        assert all(share >= 0.001 / 3 * (1 - 1e-9) for share in round.server.scalars.values())


def test_the_worst_off_gain_shares(sites):
    """The order of the shares after a round is that of the losses at the weights that were sent."""
    federation, server = make_federation(sites)
    (round,) = federation.run(AFL(), server, 1)
    losses = {report.client: report.scalars["global_loss"] for report in round.aggregate.reports}
    for name, client in federation.fleet.clients.items():
        client.load(server.weights)
        assert losses[name] == pytest.approx(client.loss_over(client.site.train))
    shares = round.server.scalars
    assert sorted(shares, key=shares.get) == sorted(losses, key=losses.get)
    mean = sum(losses.values()) / 3
    assert all(shares[name] == pytest.approx(1 / 3 + 0.1 * (losses[name] - mean)) for name in losses)


def test_clients_count_by_their_shares(sites):
    """w <- sum_k s_k w_k, whatever the numbers of their pictures."""
    shares = {"a": 0.1, "b": 0.3, "c": 0.6}
    federation, server = make_federation(sites)
    found = run_rounds(federation, replace(server, scalars=shares), 1, AFL()).weights["head.weight"]
    local = {site.name: run_rounds(*make_federation([site]), 1).weights["head.weight"].double() for site in sites}
    wanted = sum(shares[name] * value for name, value in local.items())
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-6)


def test_a_loss_counts_for_those_who_were_not_drawn(sites):
    """Of three clients two take part: N / m is 3 / 2."""
    federation, server = make_federation(sites, sampling=Sampling(clients_per_round=2))
    (round,) = federation.run(AFL(lr=0.01), server, 1)
    losses = {report.client: report.scalars["global_loss"] for report in round.aggregate.reports}
    assert len(losses) == 2
    wanted = nearest_shares({name: 1 / 3 + 0.01 * 3 / 2 * losses.get(name, 0.0) for name in "abc"}, 0.001)
    assert round.server.scalars == pytest.approx(wanted)


def test_a_loss_is_the_mean_over_pictures_and_changes_nothing():
    """Batches of 4 and 3 make the mean over 7; dropout is off and no running statistic moves."""
    site = make_site("a", (7, 2, 2))
    federation, server = make_federation([site], network=make_network(norm="batch", dropout=0.5))
    client = federation.fleet.clients["a"]
    client.load(server.weights)
    found, before = client.loss_over(site.train), sha256(client.weights())
    batch, network = site.train.batch(range(7)), client.network.eval()
    with torch.no_grad():
        each = [client.loss(network(batch["image"][k : k + 1]), batch["target"][k : k + 1]).item() for k in range(7)]
    assert found == pytest.approx(sum(each) / 7, abs=1e-5) and found == client.loss_over(site.train)
    assert sha256(client.weights()) == before
    client.fit(0)
    assert client.network.training


def test_clients_that_do_better_on_their_validation_pictures_count_more(sites):
    federation, server = make_federation(sites)
    (round,) = federation.run(FedAvg(aggregate=Mean(by="validation_loss")), server, 1)
    numbers = {}
    for site in sites:
        alone, _ = make_federation([site])
        local = run_rounds(alone, server, 1).weights
        client = alone.fleet.clients[site.name]
        client.load(local)
        numbers[site.name] = 1 / client.loss_over(site.val), local
    total = sum(number for number, _ in numbers.values())
    wanted = sum(number / total * local["head.weight"].double() for number, local in numbers.values())
    torch.testing.assert_close(round.server.weights["head.weight"].double(), wanted, atol=1e-6, rtol=1e-6)
    (plain,) = federation.run(FedAvg(), server, 1)
    assert all(report.scalars.keys() == {"loss"} for report in plain.aggregate.reports)


def test_a_site_without_validation_pictures_cannot_be_weighed_by_them():
    federation, server = make_federation([make_site("a", (4, 0, 1))])
    with pytest.raises(ClientFailed, match="client 'a' failed in round 1: it has none of the pictures"):
        run_rounds(federation, server, 1, FedAvg(aggregate=Mean(by="validation_loss")))


def test_coefficients_by_size_and_by_loss():
    update = Update("a", 9, {}, {}, {"loss": 0.5, "validation_loss": 0.25})
    found = {by: Mean(by=by).coefficients({"a": 9})(update) for by in ("sqrt_samples", "loss", "validation_loss")}
    assert found == {"sqrt_samples": 3, "loss": 4.5, "validation_loss": 4}
    with pytest.raises(ClientFailed, match=r"its loss is -1.0, by which it cannot be weighed"):
        Mean(by="loss").coefficients({"a": 9})(Update("a", 9, {}, {}, {"loss": -1.0}))


def test_a_coefficient_that_nobody_reports_is_asked_for_in_vain(sites):
    with pytest.raises(BadInput, match="by=reported is for algorithms whose clients report"):
        run_rounds(*make_federation(sites), 1, FedAvg(aggregate=Mean(by="reported")))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: QFedAvg(q=-1), "q=-1 is not allowed; use 0 or more"),
        (lambda: QFedAvg(lipschitz=0), "lipschitz=0 is not allowed; use above 0"),
        (lambda: QFedAvg(aggregate=Mean()), "QFedAvg weighs updates by its own formula; leave it out"),
        (lambda: AFL(floor=0), "floor=0 is not allowed; use above 0, at most 1"),
        (lambda: AFL(lr=-1), "lr=-1 is not allowed"),
        (lambda: AFL(aggregate=Mean(by="uniform")), "AFL weighs updates by its own formula"),
    ],
)
def test_what_cannot_be_is_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()
