"""Laws of the weights by which updates are averaged."""

from dataclasses import dataclass

import pytest
import torch

from fedlit.aggregation import Aggregation, Mean
from fedlit.aggregation.mean import rounded_shares
from fedlit.algorithms import FedAvg
from fedlit.errors import BadInput
from fedlit.fleet.collecting import Summed
from fedlit.messages import Update
from fedlit.weights import sha256
from tests import rounds
from tests.conftest import fedlit, make_federation, make_site, make_world, run_rounds

ROUNDED = Mean(by="samples_rounded_as_released")


@pytest.fixture
def sites():
    """Shares 0.583, 0.292, 0.125 of the pictures, which are 0.58, 0.29 and a rest of 0.13."""
    return [make_site("a", (14, 2, 2)), make_site("b", (7, 2, 2)), make_site("c", (3, 2, 3))]


@dataclass(frozen=True)
class Failing(FedAvg):
    """FedAvg in which some clients raise; `trained` says who began."""

    names: tuple = ()
    trained: list = None

    def local_update(self, client, broadcast):
        if self.trained is not None:
            self.trained.append(client.site.name)
        if client.site.name in self.names:
            raise RuntimeError("disk on fire")
        return super().local_update(client, broadcast)


def mean_of_singles(sites, shares):
    """What each site learns alone in a round, averaged by hand."""
    singles = {site.name: run_rounds(*make_federation([site]), 1).weights for site in sites if site.name in shares}
    total = sum(shares.values())
    return {
        entry: (sum(share * singles[name][entry].double() for name, share in shares.items()) / total).float()
        for entry in singles[next(iter(shares))]
    }


@pytest.mark.parametrize(
    ("num_samples", "released"),
    [
        ([261, 158, 468, 421, 384, 175], [0.14, 0.08, 0.25, 0.23, 0.21, 0.08999999999999997]),
        ([400, 650, 1020, 101], [0.18, 0.3, 0.47, 0.050000000000000044]),
    ],
)
def test_rounded_shares_are_those_of_the_released_code(num_samples, released):
    clients = {f"site{place}": count for place, count in enumerate(num_samples)}
    found = rounded_shares(clients)
    assert [found[name] for name in clients] == pytest.approx(released, abs=1e-15)
    assert rounded_shares(dict(reversed(clients.items()))) == found
    assert rounded_shares({"alone": 3}) == {"alone": 1}


@pytest.mark.parametrize(
    ("num_samples", "named"),
    [
        ({"a": 400, "b": 1, "c": 400}, r"gives b \(1 of the round's 801 training pictures\) the weight 0.00"),
        (
            {"a": 500, "b": 500, "c": 1},
            r"gives c \(1 of the round's 1001 training pictures\) the weight 0.00, and so it",
        ),
        (dict.fromkeys("abcdef", 165) | {"g": 10}, "gives g .* the weight -0.02, and so .*; use by=samples"),
    ],
)
def test_a_client_whose_share_is_rounded_away_is_refused(num_samples, named):
    with pytest.raises(BadInput, match=named):
        rounded_shares(num_samples)


def test_every_rule_is_the_mean_by_its_coefficients(sites):
    for rule, shares in (
        (Mean(), {"a": 14, "b": 7, "c": 3}),
        (Mean(by="uniform"), {"a": 1, "b": 1, "c": 1}),
        (ROUNDED, {"a": 0.58, "b": 0.29, "c": 0.13}),
    ):
        after = run_rounds(*make_federation(sites), 1, FedAvg(aggregate=rule)).weights
        for name, value in mean_of_singles(sites, shares).items():
            torch.testing.assert_close(after[name], value, atol=1e-8, rtol=1e-6)


def test_rounded_shares_are_those_among_the_cohort_though_clients_are_dropped(sites):
    algorithm = Failing(aggregate=ROUNDED, names=("b",))
    after = run_rounds(*make_federation(sites, on_client_error="drop"), 1, algorithm).weights
    for name, value in mean_of_singles(sites, {"a": 0.58, "c": 0.13}).items():
        torch.testing.assert_close(after[name], value, atol=1e-8, rtol=1e-6)
    without_b = run_rounds(*make_federation([sites[0], sites[2]]), 1, FedAvg(aggregate=ROUNDED)).weights
    assert sha256(without_b) != sha256(after)  # 14 and 3 of 17 are 0.82 and 0.18


def test_a_cohort_that_cannot_be_weighed_is_refused_before_anyone_trains():
    algorithm = Failing(aggregate=ROUNDED, trained=[])
    federation, server = make_federation([make_site("a", (300, 1, 1), seed=1), make_site("b", (1, 1, 1))])
    with pytest.raises(BadInput, match="gives b"):
        run_rounds(federation, server, 1, algorithm)
    assert algorithm.trained == []


def test_a_rule_may_weigh_by_what_an_update_reports(sites):
    @dataclass(frozen=True)
    class ByLoss(Aggregation):
        def coefficients(self, num_samples):
            return lambda update: num_samples[update.client] / update.scalars["loss"]

    federation, server = make_federation(sites)
    (round,) = federation.run(FedAvg(aggregate=ByLoss()), server, 1)
    shares = {report.client: report.num_samples / report.scalars["loss"] for report in round.aggregate.reports}
    for name, value in mean_of_singles(sites, shares).items():
        torch.testing.assert_close(round.server.weights[name], value, atol=1e-8, rtol=1e-6)


def test_the_order_of_updates_changes_no_bit_of_a_mean_by_shares_that_are_not_whole():
    """In float64, where the last bit of the divisor is seen; in several processes it is the order of their parts."""
    generator = torch.Generator().manual_seed(0)
    updates = [
        Update(f"c{place}", 2 + place, {"w": torch.randn(999, generator=generator, dtype=torch.float64)}, {}, {})
        for place in range(7)
    ]
    found = []
    for order in (updates, updates[::-1], updates[3:] + updates[:3]):
        summed = Summed(Mean(by="sqrt_samples").coefficients({}), make_world())
        for update in order:
            summed.add(update)
        found.append(summed.outcome([summed.part()]).tensors["weights/w"])
    assert all(torch.equal(each, found[0]) for each in found)
    assert len({sum(update.num_samples**0.5 for update in order) for order in (updates, updates[::-1])}) == 2


def test_an_update_of_no_numbers_is_dropped_and_weighs_nothing():
    names = ("a", "b", "c")
    updates = rounds.drawn(names)
    nowhere = {"b": {entry: value * float("nan") for entry, value in rounds.START.items()}}
    found = rounds.play(rounds.make_fleet(names, on_client_error="drop"), Mean(), updates | nowhere)
    others = {name: updates[name] for name in "ac"}
    assert [*found.dropped] == ["b"]
    assert sha256(found.weights) == sha256(rounds.play(rounds.make_fleet(names), Mean(), others).weights)


def test_the_number_of_pictures_is_that_of_the_update(sites):
    seen = {}

    @dataclass(frozen=True)
    class Curious(Mean):
        def coefficients(self, num_samples):
            seen.update(num_samples)
            return super().coefficients(num_samples)

    federation, server = make_federation(sites)
    (round,) = federation.run(FedAvg(aggregate=Curious()), server, 1)
    assert seen == {report.client: report.num_samples for report in round.aggregate.reports}


def test_a_config_names_the_rule(config_file, capsys):
    node = "algorithm.aggregate={_target_: fedlit.aggregation.Mean, by: %s}"
    assert fedlit("check", config_file, node % "samples_rounded_as_released") == 0
    assert fedlit("check", config_file, node % "size") == 2
    assert "samples_rounded_as_released" in capsys.readouterr().err


def test_coefficients_of_the_plain_rules():
    updates = [Update("a", 5, {}), Update("b", 2, {})]
    assert [Mean().coefficients({"a": 5, "b": 2})(update) for update in updates] == [5, 2]
    assert [Mean(by="uniform").coefficients({"a": 5, "b": 2})(update) for update in updates] == [1, 1]
