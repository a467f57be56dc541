"""Steps at the server: closed forms, the numbers of another system, and buffers, which only ever are averaged."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fedlit.aggregation import Mean
from fedlit.algorithms import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedBuff,
    FedNova,
    FedYogi,
    PFedMe,
    QFedAvg,
    Scaffold,
)
from fedlit.config import check
from fedlit.config import load as read_config
from fedlit.messages import Aggregate, Report, Server, Update
from fedlit.weights import WeightedSum, add, load, sha256, zeros_like
from tests.conftest import make_federation, make_network, run_rounds

GOLDEN = Path(__file__).parent / "golden" / "flwr_server_steps.safetensors"
"""One aggregate_fit of flwr 1.41's strategies, in float64: weights `before`, updates a, b, c of 7, 5, 4 pictures.

Made by golden/from_flwr.py.

FedAdam in round 4 (eta .1, betas .9 .99, tau 1e-3), its step divided by its bias correction sqrt(1 - .99^5) /
(1 - .9^5), which the paper does not have; FedYogi (eta .01), FedAdagrad (eta .1, tau 1e-3), all with the moments as
m_t and v_t; FedAvgM in round 2 (rate .7, momentum .9, its vector the negated `first_moment`); QFedAvg (q .3, rate .05,
every client's loss .8)."""


@pytest.fixture(scope="module")
def golden():
    flat, _ = load(GOLDEN)
    return lambda name: {key.split("/")[1]: value for key, value in flat.items() if key.startswith(f"{name}/")}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def one_step(algorithm, golden, scalars=None, **slots):
    """The parameters after the server has met the golden updates."""
    updates = [
        Update(k, n, golden(f"update_{k}"), {}, (scalars or {}).get(k, {}))
        for k, n in zip("abc", (7, 5, 4), strict=True)
    ]
    coefficient, total = algorithm.aggregate.coefficients({"a": 7, "b": 5, "c": 4}), WeightedSum()
    for update in updates:
        total.add(update.weights, coefficient(update))
    reports = tuple(Report(update.client, update.num_samples, 0, 0.0, update.scalars) for update in updates)
    server = Server(golden("before"), 4, slots, clients=["a", "b", "c"])
    return algorithm.server_update(server, Aggregate(total.mean(), reports=reports))


def assert_near(found, wanted, atol=1e-6):
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=atol, rtol=0)


@pytest.mark.parametrize(
    "algorithm", [FedAdam(lr=0.1), FedYogi(lr=0.01), FedAdagrad(lr=0.1)], ids=lambda each: type(each).__name__
)
def test_an_adaptive_step_is_that_of_flwr(algorithm, golden):
    moments = {name: golden(name) for name in ("first_moment", "second_moment")}
    assert_near(one_step(algorithm, golden, **moments).weights, golden(type(algorithm).__name__))


def test_a_step_with_momentum_is_that_of_flwr(golden):
    after = one_step(FedAvgM(momentum=0.9, lr=0.7), golden, momentum=golden("first_moment"))
    assert_near(after.weights, golden("FedAvgM"))


def test_a_fair_step_is_that_of_flwr(golden):
    algorithm, before = QFedAvg(q=0.3, lipschitz=20), golden("before")
    distances = {
        k: math.sqrt(sum((golden(f"update_{k}")[name] - before[name]).square().sum() for name in before)) for k in "abc"
    }
    numbers = {k: algorithm.numbers(0.8, distance) for k, distance in distances.items()}
    assert_near(one_step(algorithm, golden, numbers).weights, golden("QFedAvg"))


def test_momentum_off_is_fedavg(sites):
    plain, other = (make_federation(sites, optimizer=sgd) for _ in range(2))  # Adam would amplify what is rounded
    assert_near(run_rounds(*other, 3, FedAvgM(momentum=0)).weights, run_rounds(*plain, 3).weights)


def test_momentum_adds_up_past_changes():
    """Changes of 1, then 1, then none: v is 1, 1.5, 0.75."""
    server, algorithm = Server({"w": torch.zeros(1)}), FedAvgM(momentum=0.5, lr=1)
    for change, wanted in ((1, 1.0), (1, 2.5), (0, 3.25)):
        server = algorithm.server_update(server, Aggregate(add(server.weights, {"w": torch.ones(1)}, scale=change)))
        assert server.weights["w"].item() == pytest.approx(wanted)


def test_adam_in_closed_form():
    """Three steps along one change d: m = (1 - .9^t) d, v = .99^t tau^2 + (1 - .99^t) d^2, no bias correction."""
    d, tau, lr = 0.05, 1e-3, 0.1
    server, wanted = Server({"w": torch.zeros(1, dtype=torch.float64)}), 0.0
    for t in (1, 2, 3):
        mean = add(server.weights, {"w": torch.tensor([d], dtype=torch.float64)})
        server = FedAdam(lr=lr).server_update(server, Aggregate(mean))
        m, v = (1 - 0.9**t) * d, 0.99**t * tau**2 + (1 - 0.99**t) * d**2
        wanted += lr * m / (math.sqrt(v) + tau)
        assert server.weights["w"].item() == pytest.approx(wanted, abs=1e-12)
    assert server.slots.keys() == {"first_moment", "second_moment"}


def test_yogi_forgets_slowly_where_adam_forgets_at_once():
    """v far above d^2 sinks by (1 - beta2) d^2 in Yogi, by (1 - beta2) v in Adam; Adagrad's only grows."""
    v, square = torch.tensor([1.0]), torch.tensor([0.01])
    assert FedYogi().second_moment(v, square).item() == pytest.approx(1 - 0.01 * 0.01)
    assert FedAdam().second_moment(v, square).item() == pytest.approx(0.99 + 0.01 * 0.01)
    assert FedAdagrad().second_moment(v, square).item() == pytest.approx(1.01)


@pytest.mark.parametrize(
    "algorithm",
    [FedAvgM(lr=3), FedAdam(lr=1), FedYogi(lr=1), FedAdagrad(lr=1), Scaffold(lr=2), FedNova()],
    ids=lambda each: type(each).__name__,
)
def test_buffers_are_averaged_and_never_stepped(algorithm, sites):
    """A step along a running variance could make it negative; the mean of positive ones is positive."""
    federation, server = make_federation(sites, network=make_network(norm="batch"))
    (round,) = federation.run(algorithm, server, 1)
    buffers = [name for name in server.weights if "running" in name]
    assert sorted(round.server.buffers) == sorted(buffers) and buffers
    for name in buffers:
        assert torch.equal(round.server.weights[name], round.aggregate.weights[name])
    assert all((round.server.weights[name] > 0).all() for name in buffers if name.endswith("running_var"))
    assert not any("running" in name for slot in round.server.slots.values() for name in slot)
    assert not torch.equal(round.server.weights["head.weight"], round.aggregate.weights["head.weight"])


@pytest.mark.parametrize("algorithm", [FedAvgM(), FedAdam(), Scaffold()], ids=lambda each: type(each).__name__)
def test_the_server_knows_nothing_of_what_stays_local(algorithm, sites):
    federation, server = make_federation(sites, keep_local=["*norm*"])
    after = run_rounds(federation, server, 2, algorithm)
    assert after.weights.keys() == server.weights.keys()
    assert all(slot.keys() <= server.weights.keys() for slot in after.slots.values()) and after.slots


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: FedAvgM(momentum=1), "momentum=1 is not allowed; use 0 or more, below 1"),
        (lambda: FedAvgM(lr=0), "lr=0 is not allowed; use above 0"),
        (lambda: FedAdam(beta2=1.0), "beta2=1.0 is not allowed"),
        (lambda: FedYogi(tau=0), "tau=0 is not allowed; use above 0"),
        (lambda: FedAdagrad(beta1=-0.1), "beta1=-0.1 is not allowed"),
        (lambda: Scaffold(lr=float("nan")), "lr=nan is not allowed"),
    ],
)
def test_what_cannot_be_is_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize("kind", [Scaffold, PFedMe, FedBuff], ids=lambda each: each.__name__)
def test_a_server_with_half_the_rate_goes_half_the_way(kind, sites):
    """w + lr (mean - w)."""
    whole, half = (run_rounds(*make_federation(sites), 1, kind(lr=lr)).weights for lr in (1.0, 0.5))
    start = make_federation(sites)[1].weights
    for name, value in half.items():
        torch.testing.assert_close(value, (start[name] + whole[name]) / 2, atol=1e-6, rtol=1e-6)
        assert not torch.equal(start[name], whole[name])


def test_a_first_round_is_uniform_fedavg_for_scaffold(sites):
    plain = run_rounds(*make_federation(sites), 1, FedAvg(aggregate=Mean(by="uniform")))
    after = run_rounds(*make_federation(sites), 1, Scaffold())
    assert sha256(after.weights) == sha256(plain.weights)
    assert sha256(after.slots["control"]) != sha256(zeros_like(after.slots["control"]))


def test_names_of_other_tools_are_understood():
    words = ["algorithm=fedavgm", "server_momentum=0.5", "algorithm.server_learning_rate=0.7"]
    checked = check(read_config("quickstart", words))
    assert not checked.problems
    assert checked.config.algorithm.momentum == 0.5 and checked.config.algorithm.lr == 0.7
