"""Attacks do what they say, to a malicious member alone; robust rules withstand what the mean does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedlit.aggregation import Bulyan, GeometricMedian, Krum, Mean, Median, MultiKrum, TrimmedMean, UpdateGuard
from fedlit.algorithms import FedAvg
from fedlit.attacks import ALittleIsEnough, Attacked, Gaussian, LabelFlip, MaskErosion, Scaled, SignFlip
from fedlit.attacks.base import Conspirator, Plot
from fedlit.attacks.collusion import most_deviations
from fedlit.errors import BadInput
from fedlit.weights import add, sha256, subtract
from tests.conftest import fedlit, make_federation, make_site, run_rounds

ATTACKS = (SignFlip(), Scaled(), Gaussian(), LabelFlip(), MaskErosion(), ALittleIsEnough(1.5))


@pytest.fixture
def members():
    return [make_site(name, (4, 1, 1)) for name in "abcde"]


def updates_of(algorithm, sites):
    """What each client sends in the first round."""
    federation, server = make_federation(algorithm.participants(sites))
    broadcast = algorithm.broadcast(server)
    clients = federation.fleet.clients
    return {name: algorithm.local_update(clients[name], broadcast)[0] for name in sorted(clients)}, server.weights


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_only_the_malicious_send_something_else(members, attack):
    honest, _ = updates_of(FedAvg(), members)
    attacked, _ = updates_of(Attacked(attack=attack, malicious=("b", "d")), members)
    for name, update in attacked.items():
        assert (sha256(update.weights) == sha256(honest[name].weights)) == (name not in "bd")
        assert (
            update.client == name
            and update.num_samples == 4
            and all(value.isfinite().all() for value in update.weights.values())
        )
    again, _ = updates_of(Attacked(attack=attack, malicious=("d", "b")), members[::-1])
    assert {name: sha256(update.weights) for name, update in again.items()} == {
        name: sha256(update.weights) for name, update in attacked.items()
    }


@pytest.mark.parametrize(("attack", "factor"), [(SignFlip(), -1), (SignFlip(5.0), -5), (Scaled(), 10)])
def test_a_change_is_sent_times_a_number(members, attack, factor):
    honest, start = updates_of(FedAvg(), members)
    attacked, _ = updates_of(Attacked(attack=attack, malicious=("b",)), members)
    wanted = add(start, subtract(honest["b"].weights, start), scale=factor)
    for name, value in attacked["b"].weights.items():
        torch.testing.assert_close(value, wanted[name], atol=1e-6, rtol=1e-5)


def test_noise_has_its_deviation_and_is_another_in_every_round(members):
    algorithm = Attacked(attack=Gaussian(0.3), malicious=("a",))
    federation, server = make_federation(algorithm.participants(members))
    rounds = [replace(algorithm.broadcast(server), round=round) for round in (0, 0, 1)]
    first, again, other = (algorithm.local_update(federation.fleet.clients["a"], each)[0].weights for each in rounds)
    changes = torch.cat([value.flatten() for value in subtract(first, server.weights).values()])
    assert changes.std().item() == pytest.approx(0.3, rel=0.05)
    assert sha256(first) == sha256(again) != sha256(other)


def test_labels_are_flipped_to_the_next_class():
    target = torch.zeros(1, 2, 1, 3)
    target[0, 0, 0, 0] = target[0, 1, 0, 1] = 1  # first class, second class, background
    flipped = LabelFlip().falsify(target)
    assert flipped[0, :, 0].tolist() == [[0, 0, 1], [1, 0, 0]]
    one = torch.tensor([[[[1.0, 0.0]]]])
    assert torch.equal(LabelFlip().falsify(one), 1 - one)


def test_masks_lose_their_border():
    target = torch.zeros(1, 1, 9, 9)
    target[..., 2:7, 2:7] = 1
    assert MaskErosion(1).falsify(target).sum() == 9 and MaskErosion(2).falsify(target).sum() == 1
    assert MaskErosion(3).falsify(target).sum() == 0


def test_false_labels_change_neither_the_pictures_nor_what_the_client_is(members):
    algorithm = Attacked(attack=LabelFlip(), malicious=("a",))
    federation, server = make_federation(algorithm.participants(members))
    client = federation.fleet.clients["a"]
    before = client.site.train.batch([0])["target"]
    algorithm.local_update(client, algorithm.broadcast(server))
    assert torch.equal(client.site.train.batch([0])["target"], before)
    assert "objective" not in vars(client)


def test_colluders_send_the_mean_less_so_many_deviations_of_their_honest_updates(members):
    honest, _ = updates_of(FedAvg(), members)
    attacked, _ = updates_of(Attacked(attack=ALittleIsEnough(1.5), malicious=("b", "d", "e")), members)
    for entry in honest["a"].weights:
        stacked = torch.stack([honest[name].weights[entry].double() for name in "bde"])
        wanted = (stacked.mean(0) - 1.5 * stacked.std(0, correction=0)).float()
        for name in "bde":
            assert torch.equal(attacked[name].weights[entry], wanted)


@pytest.mark.parametrize(
    ("num_members", "num_malicious", "z"),
    [(50, 24, 1.426), (51, 24, 1.446), (15, 6, 0.7647), (15, 3, 0.2104), (15, 1, 0.0)],
)
def test_the_deviations_are_those_of_the_papers_formula(members, num_members, num_malicious, z):
    plot = Plot(tuple(members[0] for _ in range(num_malicious)), num_members)
    assert most_deviations(plot) == pytest.approx(z, abs=1e-3)


def test_so_many_are_drawn_by_the_seed_fewer_among_more(members):
    drawn = {
        (seed, count): {site.name for site in Attacked(malicious=count, seed=seed).participants(members)
                        if isinstance(site, Conspirator)}
        for seed in range(5) for count in (0, 1, 3)
    }  # fmt: skip
    assert all(len(names) == count for (_, count), names in drawn.items())
    assert all(drawn[seed, 1] < drawn[seed, 3] for seed in range(5)) and len({*map(frozenset, drawn.values())}) > 4
    with pytest.raises(ValueError, match="malicious=-1 needs names, or how many"):
        Attacked(malicious=-1)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (Attacked(malicious=("x",)), "algorithm.malicious: x is no member; they are a, b, c, d, e"),
        (Attacked(malicious=6), "algorithm.malicious=6: there are 5 members"),
        (Attacked(attack=ALittleIsEnough(), malicious=("a",)), "needs 2 colluders or more, and there are 1"),
        (Attacked(attack=ALittleIsEnough(), malicious=("a", "b", "c")), "3 of 5 members are the majority"),
    ],
)
def test_plots_that_cannot_be_are_refused(members, algorithm, message):
    with pytest.raises(BadInput, match=message):
        algorithm.participants(members)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scaled(float("nan")),
        lambda: SignFlip(float("inf")),
        lambda: Gaussian(-1.0),
        lambda: MaskErosion(0),
        lambda: ALittleIsEnough(float("nan")),
    ],
)
def test_arguments_that_cannot_be_are_refused(make):
    with pytest.raises(ValueError, match="is not allowed"):
        make()


def test_without_the_malicious_it_is_fedavg(members):
    federation, server = make_federation(members)
    wanted = sha256(run_rounds(federation, server, 2).weights)
    algorithm = Attacked()
    federation, server = make_federation(algorithm.participants(members))
    assert sha256(run_rounds(federation, server, 2, algorithm).weights) == wanted


@pytest.mark.parametrize(
    "rule",
    [Median(), TrimmedMean(0.3), GeometricMedian(weigh=Mean("uniform")), Krum(2), MultiKrum(2), UpdateGuard()],
    ids=lambda rule: type(rule).__name__,
)
@pytest.mark.parametrize("attack", [Scaled(-100.0), Gaussian(5.0)], ids=lambda attack: type(attack).__name__)
def test_robust_rules_stay_near_the_honest_mean_and_the_mean_does_not(rule, attack):
    sites = [make_site(name, (4, 1, 1)) for name in "abcdefg"]

    def distance(aggregate, malicious=("b", "f")):
        algorithm = Attacked(aggregate=aggregate, attack=attack, malicious=malicious)
        federation, server = make_federation(algorithm.participants(sites))
        after = run_rounds(federation, server, 1, algorithm).weights
        return sum(value.square().sum() for value in subtract(after, honest).values()).sqrt().item()

    federation, server = make_federation([site for site in sites if site.name not in "bf"])
    honest = run_rounds(federation, server, 1).weights
    moved = sum(value.square().sum() for value in subtract(honest, server.weights).values()).sqrt().item()
    assert distance(rule) < 1.5 * moved < 10 * moved < distance(Mean())


def test_bulyan_withstands_a_colluding_minority_that_the_mean_follows():
    sites = [make_site(name, (4, 1, 1)) for name in "abcdefghijk"]
    honest_federation, server = make_federation([site for site in sites if site.name not in "bf"])
    honest = run_rounds(honest_federation, server, 1).weights

    def distance(aggregate):
        algorithm = Attacked(aggregate=aggregate, attack=ALittleIsEnough(30.0), malicious=("b", "f"))
        federation, server = make_federation(algorithm.participants(sites))
        after = run_rounds(federation, server, 1, algorithm).weights
        return sum(value.square().sum() for value in subtract(after, honest).values()).sqrt().item()

    assert distance(Bulyan(2)) < distance(Mean()) / 2


def test_a_config_names_the_attack(config_file, capsys):
    node = "algorithm={_target_: fedlit.attacks.Attacked, malicious: [%s], attack: {_target_: fedlit.attacks.%s}}"
    words = ["num_rounds=1", "local_epochs=1", "algorithm.aggregate=median"]
    assert fedlit("run", config_file, node % ("a", "SignFlip, factor: 2"), *words) == 0
    assert fedlit("run", config_file, node % ("z", "SignFlip"), *words, "overwrite=true") == 2
    assert "z is no member; they are a, b, c" in capsys.readouterr().err
    assert fedlit("check", config_file, node % ("a", "MaskErosion, radius: 0")) == 2
    assert "radius=0 is not allowed" in capsys.readouterr().err
