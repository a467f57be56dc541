"""Differential privacy: what is clipped, what noise there is, and what epsilon that comes to."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import log_ndtr
from scipy.stats import kstest, norm

from fedlit.aggregation import Mean
from fedlit.algorithms import FedAdam, FedAvg, Scaffold
from fedlit.errors import ClientFailed
from fedlit.messages import Broadcast
from fedlit.transforms import Channel, DifferentialPrivacy, LowPrecision, TopK
from fedlit.transforms.accounting import epsilon, least_noise
from fedlit.transforms.noise import seeded_noise, standard_normal, system_noise
from fedlit.weights import sha256, subtract
from tests import rounds
from tests.conftest import fedlit, make_federation, make_network, run_rounds

pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")

UNIFORM = FedAvg(aggregate=Mean(by="uniform"))
NAMES = tuple("abcde")
QUIET = DifferentialPrivacy(clip=math.inf, noise_multiplier=0)


def play(transform, updates, *, start=None, round=0, cohort=None, **options):
    fleet = rounds.make_fleet(NAMES, transforms=[transform], **options)
    return rounds.play(fleet, UNIFORM.aggregate, updates, start=start, round=round, cohort=cohort)


def vector(weights):
    return torch.cat([value.double().flatten() for value in weights.values()])


@pytest.mark.parametrize("algorithm", [UNIFORM, Scaffold(), FedAdam(aggregate=Mean(by="uniform"))], ids=str)
def test_without_clipping_and_noise_nothing_changes(algorithm, sites):
    plain = run_rounds(*make_federation(sites, network=make_network("batch")), 2, algorithm)
    quiet = run_rounds(*make_federation(sites, network=make_network("batch"), transforms=[QUIET]), 2, algorithm)
    assert sha256(quiet.weights) == sha256(plain.weights)


def test_every_update_is_clipped_as_one_vector():
    updates = rounds.drawn(NAMES)
    changes = [vector(subtract(update, rounds.START)) for update in updates.values()]
    clip = float(torch.stack(changes).norm(dim=1).median())
    found = play(DifferentialPrivacy(clip=clip, noise_multiplier=0), updates).weights
    wanted = torch.stack([change * min(1, clip / float(change.norm())) for change in changes]).mean(0)
    assert {float(change.norm()) > clip for change in changes} == {True, False}
    torch.testing.assert_close(vector(subtract(found, rounds.START)), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("slots", [{}, {"control": {"conv": torch.full((4,), 30.0)}}], ids=["weights", "slots"])
def test_no_member_moves_the_mean_by_more_than_twice_its_share(slots):
    """Whatever it sends: its weights, its float buffers, its slots."""
    fleet = rounds.make_fleet(NAMES, transforms=[DifferentialPrivacy(clip=0.5, noise_multiplier=0)])
    updates = rounds.drawn(NAMES)
    others = {**updates, "b": {name: value + 1e4 for name, value in updates["b"].items()}}
    one, two = (rounds.play(fleet, UNIFORM.aggregate, each, slots=slots) for each in (updates, others))
    moved = torch.cat([vector(subtract(one.weights, two.weights)), *(
        vector(subtract(one.slots[slot], two.slots[slot])) for slot in slots)])  # fmt: skip
    assert 0 < float(moved.norm()) <= 2 * 0.5 / len(NAMES) * 1.0001


def test_running_statistics_are_clipped_with_all_else(sites):
    private = [DifferentialPrivacy(clip=0.01, noise_multiplier=0)]
    federation, server = make_federation(sites, network=make_network(norm="batch"), transforms=private)
    moved = subtract(run_rounds(federation, server, 1, UNIFORM).weights, server.weights)
    statistics = {name: value for name, value in moved.items() if "running" in name}
    assert float(vector(statistics).norm()) > 0 and float(vector(moved).norm()) <= 0.01 * 1.0001


def test_a_client_that_fails_counts_as_one_without_changes():
    updates = rounds.drawn(NAMES) | {"c": {name: value * math.nan for name, value in rounds.START.items()}}
    aggregate = play(DifferentialPrivacy(clip=1e6, noise_multiplier=0), updates, on_client_error="drop")
    assert [*aggregate.dropped] == ["c"] and len(aggregate.reports) == 4
    changes = [vector(subtract(update, rounds.START)) for name, update in updates.items() if name != "c"]
    wanted = torch.stack(changes).sum(0) / 5
    torch.testing.assert_close(vector(subtract(aggregate.weights, rounds.START)), wanted, atol=1e-6, rtol=1e-5)
    with pytest.raises(ClientFailed, match="NaN or Inf"):
        play(DifferentialPrivacy(), updates)


def test_a_client_that_fails_changes_no_control_and_the_others_as_much_as_they_should(sites):
    """SCAFFOLD's server has the mean of all controls, with privacy or without."""
    for transforms in [], [DifferentialPrivacy(clip=math.inf, noise_multiplier=0)]:
        federation, server = make_federation(sites, transforms=transforms, on_client_error="drop")
        federation.fleet.clients["b"].loss = lambda logits, target: logits.mean() * math.nan
        server = run_rounds(federation, server, 1, Scaffold())
        controls = [federation.fleet.memories[name]["control"] for name in "ac"]
        for name, value in server.slots["control"].items():
            torch.testing.assert_close(value, (controls[0][name] + controls[1][name]) / 3, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("secure", [False, True])
def test_the_noise_has_the_deviation_that_was_asked_for(secure):
    start = {"w": torch.zeros(200, 200)}
    transform = DifferentialPrivacy(clip=2.0, noise_multiplier=1.5, secure_noise=secure)
    drawn = vector(play(transform, dict.fromkeys(NAMES, start), start=start).weights)
    assert kstest((drawn / (1.5 * 2.0 / 5)).numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize("secure", [False, True])
def test_statistics_and_slots_have_noise_as_all_else(secure):
    start = {"norm.running_mean": torch.zeros(200, 100), "w": torch.zeros(200, 100)}
    slots = {"control": {"w": torch.zeros(200, 100)}}
    fleet = rounds.make_fleet(
        NAMES, transforms=[DifferentialPrivacy(clip=2.0, noise_multiplier=1.5, secure_noise=secure)]
    )
    found = rounds.play(fleet, UNIFORM.aggregate, dict.fromkeys(NAMES, start), start=start, slots=slots)
    parts = [*found.weights.values(), *found.slots["control"].values()]
    for value in parts:
        assert kstest((value.double().flatten() / (1.5 * 2.0 / 5)).numpy(), "norm").pvalue > 1e-4
    assert len(parts) == 3 and not any(torch.equal(parts[0], other) for other in parts[1:])


def test_seeded_noise_is_addressed_and_system_noise_never_the_same():
    like = {"a": torch.zeros(50), "b": torch.zeros(50), "counter": torch.zeros(1, dtype=torch.int64)}
    one, again, other = (seeded_noise(like, 1.0, *place) for place in ((0, 1), (0, 1), (0, 2)))
    assert sha256(one) == sha256(again) and one.keys() == {"a", "b"}
    assert not torch.equal(one["a"], one["b"]) and not torch.equal(one["a"], other["a"])
    assert not torch.equal(system_noise(like, 1.0)["a"], system_noise(like, 1.0)["a"])
    assert kstest(standard_normal(20000), "norm").pvalue > 1e-4


def test_seeded_rounds_resume_to_the_bit_and_running_variances_stay_positive(sites):
    def federate():
        options = {"network": make_network("batch"), "transforms": [DifferentialPrivacy(clip=1, noise_multiplier=3)]}
        return make_federation(sites, **options)

    whole, server = federate()
    wanted = run_rounds(whole, server, 3, UNIFORM)
    half = run_rounds(*federate(), 1, UNIFORM)
    assert sha256(run_rounds(federate()[0], half, 3, UNIFORM).weights) == sha256(wanted.weights)
    lowest = [value.min() for name, value in wanted.weights.items() if name.endswith("running_var")]
    assert lowest and min(lowest) == 0


def test_compressed_updates_are_clipped_where_they_arrive():
    start = {"w": torch.zeros(8)}
    updates = {name: {"w": torch.linspace(1, 9, 8)} for name in NAMES}
    transforms = [TopK(share=0.5), LowPrecision(), DifferentialPrivacy(clip=0.5, noise_multiplier=0)]
    found = rounds.play(rounds.make_fleet(NAMES, transforms=transforms), UNIFORM.aggregate, updates, start=start)
    assert float(found.weights["w"].norm()) == pytest.approx(0.5, abs=1e-6) and (found.weights["w"] > 0).sum() == 4


# what epsilon it comes to


def gaussian_epsilon(deviation: float, delta: float) -> float:
    """Of one Gaussian mechanism of sensitivity 1, from the formula of Balle and Wang (ICML 2018, theorem 8)."""

    def excess(epsilon: float) -> float:
        below = math.exp(epsilon + log_ndtr(-0.5 / deviation - epsilon * deviation))
        return norm.cdf(0.5 / deviation - epsilon * deviation) - below - delta

    return brentq(excess, 0, 1e4, xtol=1e-10)


@pytest.mark.parametrize("noise", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("num_rounds", [1, 20])
def test_with_all_members_epsilon_is_that_of_one_gaussian(noise, num_rounds):
    """Rounds of noise z C that one member can move by 2 C: one of sensitivity 1, deviation z / (2 sqrt(T))."""
    wanted = gaussian_epsilon(noise / 2 / math.sqrt(num_rounds), 1e-5)
    assert epsilon(noise, 5, 5, num_rounds, 1e-5) == pytest.approx(wanted, rel=1e-4)


def renyi_epsilon(noise: float, share: float, num_rounds: int, delta: float) -> float:
    """With a share of the members: theorem 9 of Wang et al. (AISTATS 2019), and Mironov's conversion (CSF 2017)."""

    def of_gaussian(order: float) -> float:
        return order / (2 * (noise / 2) ** 2)

    def drawn(order: int) -> float:
        terms = [0.0, math.log(share**2 * math.comb(order, 2)) + min(
            math.log(4 * math.expm1(of_gaussian(2))), of_gaussian(2) + math.log(2))]  # fmt: skip
        terms += [
            math.log(2 * math.comb(order, j)) + j * math.log(share) + (j - 1) * of_gaussian(j)
            for j in range(3, order + 1)
        ]
        return float(torch.tensor(terms, dtype=torch.float64).logsumexp(0)) / (order - 1)

    return min(num_rounds * drawn(order) + math.log(1 / delta) / (order - 1) for order in range(2, 200))


def attacked_epsilon(noise: float, share: float, delta: float) -> float:
    """What one round cannot be better than: all others send 0, one member sends C or -C, and is drawn with a chance."""
    grid = np.linspace(-40, 40, 400001) * noise
    one, two = ((1 - share) * norm.pdf(grid, 0, noise) + share * norm.pdf(grid, sign, noise) for sign in (1, -1))

    def excess(epsilon: float) -> float:
        return float(np.maximum(one - math.exp(epsilon) * two, 0).sum() * (grid[1] - grid[0])) - delta

    return brentq(excess, 0, 50) if excess(0) > 0 else 0.0


@pytest.mark.parametrize("noise", [2.0, 8.0])
def test_with_some_of_the_members_epsilon_is_smaller_and_below_the_published_bound(noise):
    found = epsilon(noise, 30, 3, 20, 1e-5)
    assert epsilon(noise, 30, 3, 1, 1e-5) < found < epsilon(noise, 30, 30, 20, 1e-5)
    assert found <= renyi_epsilon(noise, 0.1, 20, 1e-5)  # the package is tighter: a stronger theorem, and conversion
    for delta in (1e-5, 1e-2):
        one_round = epsilon(noise, 30, 3, 1, delta)
        assert attacked_epsilon(noise, 0.1, delta) <= one_round <= renyi_epsilon(noise, 0.1, 1, delta)


def test_epsilon_at_the_ends():
    assert epsilon(0.0, 5, 5, 3, 1e-5) == math.inf and epsilon(1.0, 5, 5, 0, 1e-5) == 0
    least = least_noise(2.0, 5, 5, 20, 1e-5)
    assert epsilon(least, 5, 5, 20, 1e-5) <= 2 < epsilon(0.98 * least, 5, 5, 20, 1e-5)


PRIVATE = ["transform=differential_privacy", "algorithm.aggregate=uniform"]


@pytest.mark.parametrize(
    "words, text",
    [
        (PRIVATE[:1], "FedAvg has Mean(by='samples'); set algorithm.aggregate=uniform"),
        ([PRIVATE[0], "algorithm=qfedavg"], "needs the uniform mean of updates, and QFedAvg has Mean(by='reported')"),
        ([PRIVATE[0], "algorithm.aggregate=median"], "needs the uniform mean of updates"),
        ([*PRIVATE, "share_personal=true"], "share_personal=true is not allowed: members would send models"),
        ([*PRIVATE, "precision=bf16-true"], "precision=bf16-true rounds clipping and noise; use 32-true"),
        ([*PRIVATE, "transform.differential_privacy.epsilon=3"], "4 rounds with all members have epsilon"),
        ([*PRIVATE, "transform.differential_privacy.clip=0"], "clip=0 is not allowed; use one above 0"),
        ([*PRIVATE, "transform.differential_privacy.clip=.inf"], "clip=.inf is not allowed with noise"),
        ([*PRIVATE, "transform.differential_privacy.delta=1"], "delta=1 is not allowed"),
        ([*PRIVATE, "transform.differential_privacy.noise_multiplier=-1"], "noise_multiplier=-1 is not allowed"),
        (
            [PRIVATE[1], "transform=[differential_privacy, top_k]"],
            "wrong order; list them as TopK, DifferentialPrivacy",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_the_run(config_file, capsys, words, text):
    assert fedlit("check", config_file, *words) == 2
    assert text in capsys.readouterr().err


def test_an_epsilon_that_the_members_decide_is_refused_at_the_start(config_file, capsys):
    words = [*PRIVATE, "clients_per_round=2", "transform.differential_privacy.epsilon=2"]
    assert fedlit("run", config_file, *words) == 2
    assert "4 rounds with 2 of 3 members have epsilon" in capsys.readouterr().err


def test_a_run_says_what_it_has(config_file, tmp_path, capsys):
    asked = ["transform.differential_privacy.epsilon=8", "transform.differential_privacy.noise_multiplier=3"]
    assert fedlit("run", config_file, *PRIVATE, *asked, "num_rounds=2") == 0
    privacy = json.loads((tmp_path / "run" / "summary.json").read_text())["privacy"]
    assert privacy["epsilon"] == pytest.approx(gaussian_epsilon(1.5 / math.sqrt(2), 1e-5), rel=1e-4)
    assert len(privacy["epsilon_per_round"]) == 2 and privacy["noise"].startswith("simulation only")
    assert "simulation only" in (tmp_path / "run" / "report.html").read_text()
    assert "at delta 1e-05 (simulation only)" in capsys.readouterr().out
    capsys.readouterr()
    assert fedlit("run", config_file, *PRIVATE, *asked, "num_rounds=40") == 2
    assert "epsilon=8 cannot be met: 40 rounds" in capsys.readouterr().err


@pytest.mark.long
def test_a_draw_that_is_no_secret_makes_epsilon_no_smaller():
    """Who takes part comes from the seed and stands in the tables; simulations say that they count on it."""
    drawn, all_of_them = ((20, 30, 3), (20, 30, 30))
    in_earnest, simulated = (DifferentialPrivacy(noise_multiplier=4.0, secure_noise=secure) for secure in (True, False))
    assert in_earnest.epsilon_after(*drawn) == in_earnest.epsilon_after(*all_of_them) > simulated.epsilon_after(*drawn)
    assert "drawing clients" in simulated.report(*drawn)["amplified"] and "amplified" not in in_earnest.report(*drawn)
    assert "amplified" not in simulated.report(*all_of_them)


def test_system_noise_is_no_simulation(config_file, tmp_path):
    secure = "transform.differential_privacy.secure_noise=true"
    for name in ("one", "two"):
        assert fedlit("run", config_file, *PRIVATE, secure, "num_rounds=1", f"run_dir={tmp_path / name}") == 0
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert one["weights_sha256"] != two["weights_sha256"] and "no round can be repeated" in one["privacy"]["noise"]


def test_nothing_is_done_without_transforms():
    assert Channel().told(1, 3, 3) == "" and Channel().report(1, 3, 3) == {} and Broadcast(0, {}).slots == {}
