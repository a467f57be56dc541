"""Laws of the round loop, and scoring that neither mixes sites nor depends on order."""

import pytest
import torch

from fedlit.aggregation import Mean
from fedlit.algorithms import Centralized, FedAvg, Local, Sampling
from fedlit.data.pictures import Case, Pictures, batches_of_cases
from fedlit.metrics import Scoring
from fedlit.prediction import Global, Personal
from fedlit.prediction.predicted import as_case
from fedlit.weights import sha256
from tests.conftest import make_federation, make_network, make_site, run_rounds


def test_identical_clients_are_one_client():
    """FedAvg of clients with the same data and the same seed_name equals one of them, bit for bit."""
    same = [make_site(name, seed=1, seed_name="x") for name in ("a", "b", "c")]
    many, one = make_federation(same), make_federation(same[:1])
    assert sha256(run_rounds(*many, 3).weights) == sha256(run_rounds(*one, 3).weights)


def test_order_of_sites_is_irrelevant(sites):
    forwards, backwards = make_federation(sites), make_federation(sites[::-1])
    assert sha256(run_rounds(*forwards, 2).weights) == sha256(run_rounds(*backwards, 2).weights)


def test_seed_name_alone_decides_the_order_of_pictures():
    left, right = (run_rounds(*make_federation([make_site(name, seed=1)]), 1) for name in "ab")
    assert sha256(left.weights) != sha256(right.weights)


def test_fedavg_is_the_mean_by_samples(sites):
    federation, server = make_federation(sites)
    after = run_rounds(federation, server, 1)
    singles = [run_rounds(*make_federation([site]), 1).weights for site in sites]
    counts = [site.num_samples for site in sites]
    for name, value in after.weights.items():
        mean = sum(count * single[name].double() for count, single in zip(counts, singles, strict=True)) / sum(counts)
        torch.testing.assert_close(value, mean.float(), atol=1e-8, rtol=1e-6)


def test_uniform_mean_forgets_sizes(sites):
    uniform = run_rounds(*make_federation(sites), 1, FedAvg(aggregate=Mean(by="uniform"))).weights
    singles = [run_rounds(*make_federation([site]), 1).weights for site in sites]
    torch.testing.assert_close(uniform["head.weight"], sum(single["head.weight"] for single in singles) / 3)
    with pytest.raises(ValueError, match=r"use one of samples, sqrt_samples, uniform, .*, samples_rounded_as_released"):
        Mean(by="size")


def test_float_buffers_are_averaged_and_integer_buffers_untouched(sites):
    federation, server = make_federation(sites, network=make_network(norm="batch"))
    after = run_rounds(federation, server, 2)
    singles = [run_rounds(*make_federation([site], network=make_network(norm="batch")), 1).weights for site in sites]
    counts = torch.tensor([float(site.num_samples) for site in sites], dtype=torch.float64)
    one_round = run_rounds(*make_federation(sites, network=make_network(norm="batch")), 1)
    name = next(name for name in after.weights if name.endswith("running_var"))
    stacked = torch.stack([single[name].double() for single in singles])
    torch.testing.assert_close(one_round.weights[name], (counts[:, None] * stacked).sum(0).div(counts.sum()).float())
    assert (after.weights[name] > 0).all()
    assert not any(name.endswith("num_batches_tracked") for name in after.weights)
    resident = federation.fleet.workbench.resident
    resident.load(after.weights)
    assert all(int(counter) == 0 for counter in resident.counters.values())


def test_local_never_shares(sites):
    """A site's own model is what it would be alone, with or without the others."""
    together, server = make_federation(sites)
    after = run_rounds(together, server, 2, Local())
    assert sha256(after.weights) == sha256(server.weights)
    for site in sites:
        alone, server = make_federation([site])
        run_rounds(alone, server, 2, Local())
        left, right = (federation.fleet.memories[site.name]["personal"] for federation in (alone, together))
        assert sha256(left) == sha256(right)


def test_centralized_is_one_client_with_all_pictures(sites):
    pooled = Centralized().participants(sites)
    assert [site.name for site in pooled] == ["pooled"]
    assert pooled[0].num_samples == sum(site.num_samples for site in sites)
    centralized = run_rounds(*make_federation(pooled), 1, Centralized())
    assert sha256(centralized.weights) == sha256(run_rounds(*make_federation(pooled), 1).weights)


def test_sampling_is_uniform_deterministic_and_partial():
    names = [f"s{number}" for number in range(10)]
    assert Sampling()(names[::-1], 0) == names
    assert len(Sampling(clients_per_round=3)(names, 0)) == 3 and len(Sampling(fraction_train=0.25)(names, 0)) == 3
    assert len(Sampling(fraction_train=0.01)(names, 0)) == 1 and len(Sampling(clients_per_round=99)(names, 0)) == 10
    sampling = Sampling(clients_per_round=4, seed=7)
    assert sampling(names, 5) == sampling(names[::-1], 5) != sampling(names, 6)
    counts = {name: sum(name in sampling(names, round) for round in range(500)) for name in names}
    assert all(150 < count < 250 for count in counts.values())  # 200 expected, 11 standard deviation


def test_partial_participation_trains_only_the_cohort(sites):
    federation, server = make_federation(sites, sampling=Sampling(clients_per_round=1))
    rounds = list(federation.run(Local(), server, 3))
    assert all(len(round.cohort) == 1 for round in rounds)
    assert federation.fleet.memories.keys() == {name for round in rounds for name in round.cohort}


def test_kept_entries_stay_at_their_site(sites):
    """Entries that match keep_local are not sent, and go on from the site's own value."""
    federation, server = make_federation(sites, keep_local=("*norm*",))
    rounds = list(federation.run(FedAvg(), server, 2))
    assert not any("norm" in name for name in rounds[-1].server.weights)
    kept = [federation.fleet.memories[name]["kept"] for name in "abc"]
    assert len({sha256(each) for each in kept}) == 3 and all("norm" in name for name in kept[0])


def test_resuming_from_a_server_and_memories_goes_on_the_same(sites):
    for algorithm in (FedAvg(), Local()):
        federation, server = make_federation(sites, optimizer_state="keep")
        whole = run_rounds(federation, server, 4, algorithm)
        memories = federation.fleet.memories
        federation, server = make_federation(sites, optimizer_state="keep")
        half = run_rounds(federation, server, 2, algorithm)
        saved = federation.fleet.memories
        federation, _ = make_federation(sites, optimizer_state="keep")
        federation.fleet.memories = saved
        again = run_rounds(federation, half, 4, algorithm)
        assert sha256(again.weights) == sha256(whole.weights)
        for name in "abc":
            assert sha256(*federation.fleet.memories[name].values()) == sha256(*memories[name].values())


def scores(federation, server, predictors, split="test"):
    return federation.score(
        predictors, server, scoring=Scoring(), metrics=("dice", "iou"), classes=("disc",), split=split
    ).cases


def test_scoring_gives_one_row_per_case_class_and_metric(sites):
    federation, server = make_federation(sites)
    server = run_rounds(federation, server, 2)
    rows = scores(federation, server, {"global": Global()})
    assert len(rows) == sum(len(site.test.cases) for site in sites) * 2
    assert {row.model for row in rows} == {"global"} and {row.round for row in rows} == {2}
    backwards, _ = make_federation(sites[::-1])
    assert sorted(rows) == sorted(scores(backwards, server, {"global": Global()}))


def test_a_personal_model_is_scored_only_where_there_is_one(sites):
    federation, server = make_federation(sites, sampling=Sampling(clients_per_round=1))
    (round,) = federation.run(Local(), server, 1)
    rows = scores(federation, round.server, {"personal": Personal()})
    assert {row.site for row in rows} == set(round.cohort)


def test_predictors_cannot_reach_a_mask(sites):
    """A predictor gets pictures whose labels raise when touched."""
    seen = []

    class Curious(Global):
        def prepare(self, learnt, images):
            seen.append(images)
            return super().prepare(learnt, images)

    federation, server = make_federation(sites)
    scores(federation, server, {"curious": Curious()})
    assert len(seen) == 3 and not any(isinstance(images, Pictures) for images in seen)
    with pytest.raises(AssertionError, match="labels"):
        seen[0].batch([0])
    assert not hasattr(seen[0], "targets")


def test_volumes_are_scored_whole():
    """Slices of a case are put together: one row per volume, not per slice."""
    planes = torch.arange(3 * 2 * 4 * 4).reshape(3, 2, 4, 4)
    assert as_case(planes, Case("v", (0, 1, 2), "p", None, True)).shape == (2, 3, 4, 4)
    assert as_case(planes[:1], Case("p", (0,), "p")).shape == (2, 4, 4)
    cases = [Case(str(start), tuple(range(start, start + 3)), "p") for start in range(0, 12, 3)]
    assert [len(group) for group in batches_of_cases(cases, True, 5)] == [2, 2]
    assert [len(group) for group in batches_of_cases(cases, False, 5)] == [1, 1, 1, 1]


def test_scoring_leaves_weights_and_memories_alone(sites):
    federation, server = make_federation(sites)
    federation.fleet.memories = {"a": {"personal": dict(server.weights)}}
    before = sha256(server.weights, federation.fleet.memories["a"]["personal"])
    scores(federation, server, {"global": Global(), "personal": Personal()})
    assert sha256(server.weights, federation.fleet.memories["a"]["personal"]) == before
