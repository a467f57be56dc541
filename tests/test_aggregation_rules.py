"""Laws of the rules that compare updates, through the fleet, and their numbers against flwr's."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedlit.aggregation import (
    ROOT,
    Bulyan,
    FLTrust,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    MultiKrum,
    NormClipping,
    TrimmedMean,
    UpdateGuard,
)
from fedlit.aggregation.update_guard import apart
from fedlit.config import build, check, load
from fedlit.errors import BadInput, ClientFailed
from fedlit.fleet import rows as rows_file
from fedlit.fleet.policy import Policy
from fedlit.weights import sha256
from tests.conftest import fedlit
from tests.rounds import NAMES, START, drawn, make_fleet, play, vectors

MEMBERS = NAMES[:-1]
ZERO = {"w": torch.zeros(2)}
# Made by golden/from_flwr.py of the 11 x 60 random `rows`, 5 pictures each: flwr 1.41.0, aggregate_median,
# aggregate_trimmed_avg at 0.2, aggregate_krum with 2 malicious and 0 or 7 to keep, aggregate_bulyan with that krum.
FLWR = load_file(Path(__file__).parent / "golden" / "robust_rules_flwr.safetensors")


@pytest.fixture(scope="module")
def fleet():
    return make_fleet()


@pytest.fixture(scope="module")
def many():
    return make_fleet([f"{place:02d}" for place in range(15)])


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("median", Median()),
        ("trimmed_mean", TrimmedMean(0.2)),
        ("krum", Krum(2)),
        ("multi_krum", MultiKrum(2, 7)),
        ("bulyan", Bulyan(2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_numbers_are_flwrs(many, name, rule):
    updates = {f"{place:02d}": {"w": row} for place, row in enumerate(FLWR["rows"])}
    found = play(many, rule, updates, start={"w": torch.ones(60)}).weights["w"]
    torch.testing.assert_close(found, FLWR[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rule", [Median(), GeometricMedian(), TrimmedMean(0), NormClipping(100.0), UpdateGuard()])
def test_of_one_update_it_is_that_update(fleet, rule):
    updates = drawn("c")
    found = play(fleet, rule, updates).weights
    for entry, value in updates["c"].items():
        torch.testing.assert_close(found[entry], value, atol=1e-7, rtol=1e-6)


def test_the_median_is_the_middle_value_and_of_an_even_number_the_mean_of_two(fleet):
    updates = vectors(a=[1, 9], b=[5, 2], c=[3, 4])
    assert play(fleet, Median(), updates, start=ZERO).weights["w"].tolist() == [3, 4]
    updates = vectors(a=[1, 9], b=[5, 2], c=[3, 4], d=[100, 5])
    assert play(fleet, Median(), updates, start=ZERO).weights["w"].tolist() == [4, 4.5]


def test_a_trimmed_mean_of_nothing_trimmed_is_the_mean(fleet):
    updates = drawn()
    mean, trimmed = (play(fleet, rule, updates).weights for rule in (Mean("uniform"), TrimmedMean(0)))
    for entry in START:
        torch.testing.assert_close(trimmed[entry], mean[entry], atol=1e-6, rtol=1e-6)


def test_a_trimmed_mean_leaves_out_as_many_at_either_end(fleet):
    updates = vectors(a=[-100, 1], b=[1, 1], c=[2, 1], d=[6, 1], e=[900, 1])
    assert play(fleet, TrimmedMean(0.2), updates, start=ZERO).weights["w"].tolist() == [3, 1]
    assert play(fleet, TrimmedMean(0.4), updates, start=ZERO).weights["w"].tolist() == [2, 1]


def test_krum_picks_an_honest_update_as_it_is(fleet):
    updates = vectors(a=[50, 50], b=[1, 1], c=[1.1, 1], d=[1, 1.2], e=[0.7, 1], f=[50, 50.1], g=[1.02, 1.01])
    found = play(fleet, Krum(2), updates, start=ZERO).weights["w"]
    assert torch.equal(found, updates["g"]["w"])


def test_krum_picks_the_first_of_equals(fleet):
    updates = vectors(**{name: [1, 1] for name in "abcde"})
    found = play(fleet, Krum(1), updates, start=ZERO)
    assert found.weights["w"].tolist() == [1, 1]


def test_multi_krum_is_the_mean_of_all_but_two_more_than_the_malicious(fleet):
    updates = vectors(a=[9, 0], b=[1, 0], c=[2, 0], d=[3, 0], e=[4, 0], f=[2.5, 0], g=[2, 0])
    found = play(fleet, MultiKrum(1), updates, start=ZERO).weights["w"]
    assert found.tolist() == [2.375, 0]  # c, d, f, g are nearest to their 4 nearest others
    assert play(fleet, MultiKrum(1, num_chosen=1), updates, start=ZERO).weights["w"].tolist() == [2, 0]  # c


@pytest.mark.parametrize("rule", [GeometricMedian(), GeometricMedian(weigh=Mean("uniform"))])
def test_the_geometric_median_of_points_on_a_line_is_their_median(fleet, rule):
    places = {"a": 0, "b": 1, "c": 2, "d": 3, "e": 500}
    updates = vectors(**{name: [place, 2 * place] for name, place in places.items()})
    found = play(fleet, rule, updates, start=ZERO).weights["w"]
    # of 1, 2, 3, 4, 5 pictures the half lies at d; of one each at c
    place = 3 if rule == GeometricMedian() else 2
    assert found.tolist() == pytest.approx([place, 2 * place], abs=1e-3)


def test_the_geometric_median_of_a_triangle_is_its_fermat_point(fleet):
    updates = vectors(a=[0, 0], b=[4, 0], c=[2, 3])
    found = play(fleet, GeometricMedian(weigh=Mean("uniform")), updates, start={"w": torch.full((2,), 7.0)})
    assert found.weights["w"].tolist() == pytest.approx([2, 2 / 3**0.5], abs=1e-4)


def test_bulyan_stays_within_what_honest_clients_sent(fleet):
    updates = vectors(a=[1, 1], b=[1.2, 0.9], c=[0.8, 1.1], d=[1.1, 1.2], e=[0.9, 0.8], f=[1, 0.95], g=[1.05, 90])
    found = play(fleet, Bulyan(1), updates, start=ZERO).weights["w"]
    assert 0.8 <= found[0] <= 1.2 and 0.8 <= found[1] <= 1.2


def test_norm_clipping_makes_long_changes_short_and_leaves_the_others(fleet):
    start = {"w": torch.tensor([1.0, 1.0])}
    updates = vectors(a=[1, 2], b=[1, 11])  # changes of 1 and 10, of 1 and 2 pictures
    clipped = play(fleet, NormClipping(2.0), updates, start=start).weights["w"]
    assert clipped.tolist() == pytest.approx([1, 1 + (1 * 1 + 2 * 2) / 3])
    by_median = play(fleet, NormClipping(), updates, start=start).weights["w"]
    assert by_median.tolist() == pytest.approx([1, 1 + (1 * 1 + 2 * 5.5) / 3])
    then_median = play(fleet, NormClipping(2.0, rule=Median()), updates, start=start).weights["w"]
    assert then_median.tolist() == pytest.approx([1, 2.5])


def test_clipping_where_nothing_is_too_long_is_the_mean_bit_for_bit(fleet):
    updates = drawn()
    for rule in (NormClipping(1e6), UpdateGuard(num_deviations=1e6)):
        assert sha256(play(fleet, rule, updates).weights) == sha256(play(fleet, Mean(), updates).weights)


def test_fltrust_follows_those_that_point_the_way_of_the_server(fleet):
    updates = vectors(a=[8, 0], b=[-2, 0], c=[3, 3], d=[0, 0], root_of_trust=[0.5, 0])
    found = play(fleet, FLTrust(), updates, start=ZERO).weights["w"]
    trust = {"a": 1.0, "c": 0.5**0.5}  # b points the other way, d nowhere; all are made as long as the server's 0.5
    wanted = [0.5 * (trust["a"] + trust["c"] * 0.5**0.5), 0.5 * trust["c"] * 0.5**0.5]
    assert found.tolist() == pytest.approx([value / sum(trust.values()) for value in wanted])


def test_fltrust_stays_where_it_trusts_nobody_and_says_so(fleet, monkeypatch):
    said = []
    monkeypatch.setattr(fleet.watch, "warn", said.append)
    found = play(fleet, FLTrust(), vectors(a=[2, 3], root_of_trust=[4, 3]), start={"w": torch.full((2,), 3.0)})
    assert found.weights["w"].tolist() == [3, 3]
    assert len(said) == 1 and "no client's update points the way of the server's own" in said[0]


def test_fltrust_needs_the_server(fleet):
    with pytest.raises(BadInput, match="server_site=NAME"):
        play(fleet, FLTrust(), vectors(a=[1, 0], b=[1, 0]), start=ZERO)


def test_rules_that_do_not_stretch_keep_variances_positive(fleet):
    start = {"running_var": torch.full((4,), 1e-6), "w": torch.zeros(4)}
    updates = {
        name: {"running_var": torch.full((4,), 1e-7 * (place + 1)), "w": torch.randn(4)}
        for place, name in enumerate(NAMES)
    }
    for rule in (Median(), TrimmedMean(), Krum(), MultiKrum(), Bulyan(), GeometricMedian(), NormClipping(0.1)):
        assert (play(fleet, rule, updates, start=start).weights["running_var"] > 0).all()


def test_fltrust_refuses_to_stretch_a_running_variance():
    fleet = make_fleet(["a", ROOT])
    fleet.workbench.resident.buffers["w"] = torch.zeros(2)
    short = vectors(a=[1, 0], root_of_trust=[2, 0])
    with pytest.raises(BadInput, match=r"FLTrust makes small updates larger, .* use buffers=local"):
        play(fleet, FLTrust(), short, start=ZERO)
    assert play(fleet, FLTrust(), vectors(a=[2, 0], root_of_trust=[1, 0]), start=ZERO).weights["w"].tolist() == [1, 0]


LOUD = vectors(a=[1, 0], b=[0, 1.1], c=[0.9, 0], d=[1, 0.1], e=[0, 40])


def test_the_guard_drops_an_outlier_and_says_why(fleet):
    found = play(fleet, UpdateGuard(), LOUD, start=ZERO)
    wanted = play(fleet, Mean(), {name: LOUD[name] for name in "abcd"}, start=ZERO)
    assert sha256(found.weights) == sha256(wanted.weights)
    assert [report.client for report in found.reports] == [*"abcd"]
    assert found.dropped == {"e": "its update's norm 40 is above the limit 1.53 (the median of 5 is 1)"}


def test_what_a_dropped_client_remembers_of_the_round_is_forgotten(fleet):
    fleet.memories = {}
    play(fleet, UpdateGuard(), LOUD, start=ZERO)
    fleet.commit()
    assert sorted(fleet.memories) == [*"abcd"]


def test_the_guard_clips_an_outlier_and_warns(fleet, monkeypatch):
    said = []
    monkeypatch.setattr(fleet.watch, "warn", said.append)
    found = play(fleet, UpdateGuard("clip", rule=Mean("uniform")), LOUD, start=ZERO, round=4)
    limit = 1.0049875 + 3.5 * 1.4826 * 0.10049875  # norms 1, 1.1, 0.9, 1.005 and 40; the spread is a tenth of 1.005
    assert found.weights["w"][1] == pytest.approx((1.1 + 0.1 + limit) / 5, abs=0.02)
    assert len(said) == 1 and said[0].startswith("round 5: e was clipped: its update's norm 40 is above the limit")
    assert not found.dropped and len(found.reports) == 5


def test_the_guard_fails_the_round(fleet):
    with pytest.raises(ClientFailed, match="client 'e': its update's norm 40 is above the limit"):
        play(fleet, UpdateGuard("fail"), LOUD, start=ZERO)


@pytest.mark.parametrize("policy", ["drop", "clip"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("rule", [Mean(), Median(), Krum()], ids=lambda rule: type(rule).__name__)
def test_the_guard_drops_what_is_not_finite(fleet, policy, value, rule):
    updates = drawn(MEMBERS)
    bad = {**updates, "b": {**updates["b"], "bias": torch.tensor([0.5, value, 0.5])}}
    found = play(fleet, UpdateGuard(policy, rule=rule, num_deviations=50), bad)
    assert found.dropped == {"b": "its update holds NaN or Inf"}
    left = {name: updates[name] for name in MEMBERS if name != "b"}
    assert sha256(found.weights) == sha256(play(fleet, rule, left).weights)


def test_without_a_guard_an_update_that_is_not_finite_is_a_failed_client(fleet):
    updates = drawn(MEMBERS)
    updates["b"]["bias"] = torch.tensor([0.5, float("nan"), 0.5])
    with pytest.raises(ClientFailed, match="client 'b' failed in round 1: its update holds NaN or Inf"):
        play(fleet, Median(), updates)


def test_too_few_updates_left_by_the_guard_are_a_failure(fleet, monkeypatch):
    monkeypatch.setattr(fleet, "policy", Policy(min_updates=5))
    with pytest.raises(ClientFailed, match=r"client 'e' was dropped in round 1: .*; 4 updates are left, fewer than"):
        play(fleet, UpdateGuard(), LOUD, start=ZERO)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Krum(3), "Krum.num_malicious=3. needs 9 updates a round or more .2 num_malicious . 3., and there are 8"),
        (MultiKrum(1, num_chosen=8), "needs 11 updates a round or more .num_chosen . num_malicious . 2"),
        (Bulyan(2), "needs 11 updates a round or more .4 num_malicious . 3."),
        (TrimmedMean(0.1), "needs 10 updates a round or more .to leave out one at either end."),
        (UpdateGuard(rule=NormClipping(rule=Krum(3))), "Krum.num_malicious=3. needs 9"),
    ],
)
def test_too_few_clients_are_refused_before_any_work(fleet, rule, message):
    with pytest.raises(BadInput, match=message):
        play(fleet, rule, {}, cohort=NAMES)  # nobody has an update to send


def test_a_rule_is_not_defined_for_what_a_guard_left_of_the_round(fleet):
    with pytest.raises(BadInput, match=r"Krum\(num_malicious=1\) needs 5 updates .* and there are 4"):
        play(fleet, UpdateGuard(rule=Krum(1)), LOUD, start=ZERO)


def test_updates_with_slots_are_refused(fleet):
    updates = drawn(MEMBERS)
    with pytest.raises(
        BadInput, match=r"Median compares weights, and this algorithm sends more than these \(control\)"
    ):
        play(fleet, Median(), updates, slots={"control": {"conv": torch.zeros(3)}})
    assert "control" in play(fleet, Mean(), updates, slots={"control": {"conv": torch.zeros(3)}}).slots


def test_updates_of_entries_that_were_not_sent_out_are_refused(fleet):
    with pytest.raises(BadInput, match="Krum compares updates with what was sent out, and conv"):
        play(fleet, Krum(), drawn(MEMBERS), start={"bias": START["bias"]})


def test_updates_without_weights_are_nothing(fleet):
    updates = {name: {} for name in MEMBERS}
    for rule in (Median(), Krum(), UpdateGuard()):
        assert play(fleet, rule, updates).weights == {}


def test_half_precision_comes_back_as_such(fleet):
    start = {"w": torch.ones(4, dtype=torch.bfloat16), "steps": torch.tensor(3)}
    updates = drawn(MEMBERS, start=start)
    for rule in (Median(), Krum(), NormClipping()):
        assert {entry: value.dtype for entry, value in play(fleet, rule, updates, start=start).weights.items()} == {
            "w": torch.bfloat16
        }


@pytest.mark.parametrize("rule", [Median(), Krum(), Bulyan(), NormClipping(), GeometricMedian()], ids=repr)
def test_the_size_of_blocks_changes_no_choice(fleet, rule, monkeypatch):
    updates = drawn()
    whole = play(fleet, rule, updates).weights
    monkeypatch.setattr(rows_file, "SHORTEST", 4)
    monkeypatch.setattr(rows_file, "ELEMENTS", 16)
    for entry, value in play(fleet, rule, updates).weights.items():
        torch.testing.assert_close(value, whole[entry], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrimmedMean(0.5), "fraction=0.5 is not allowed; use 0 or more, less than 0.5"),
        (lambda: TrimmedMean(-0.1), "fraction=-0.1"),
        (lambda: Krum(-1), "num_malicious=-1 is not allowed; use 0 or more"),
        (lambda: Bulyan(-1), "num_malicious=-1"),
        (lambda: MultiKrum(1, 0), "num_chosen=0 is not allowed"),
        (lambda: NormClipping(0), "limit=0 is not allowed; use a number above 0, or null"),
        (lambda: GeometricMedian(smoothing=0), "smoothing=0"),
        (lambda: GeometricMedian(num_iterations=0), "num_iterations=0"),
        (lambda: GeometricMedian(tolerance=-1), "tolerance=-1"),
        (lambda: UpdateGuard("shout"), "policy='shout' is unknown; use one of fail, drop, clip"),
        (lambda: UpdateGuard(num_deviations=0), "num_deviations=0"),
    ],
)
def test_arguments_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_name_stands_for_a_rule_also_inside_another():
    def aggregate(*words):
        checked = check(load("quickstart", words))
        assert not checked.problems
        return build(checked.config.algorithm).aggregate

    assert aggregate("algorithm.aggregate=krum", "algorithm.aggregate.num_malicious=0") == Krum(0)
    assert aggregate("algorithm.aggregate.num_malicious=0", "algorithm.aggregate=krum") == Krum(0)
    guarded = ("algorithm.aggregate=update_guard", "algorithm.aggregate.rule=krum")
    assert aggregate(*guarded, "algorithm.aggregate.rule.num_malicious=0") == UpdateGuard(rule=Krum(0))
    node = "algorithm={_target_: fedlit.algorithms.FedProx, aggregate: median}"
    assert aggregate(node) == Median()
    node = "algorithm={aggregate: {_target_: fedlit.aggregation.NormClipping, rule: trimmed_mean}}"
    assert aggregate(node) == NormClipping(rule=TrimmedMean())


def test_a_name_in_a_later_layer_replaces_the_rule_with_all_its_arguments(config_file):
    node = "{_target_: fedlit.aggregation.TrimmedMean, fraction: 0.3}"
    config_file.write_text(config_file.read_text() + f"algorithm.aggregate: {node}\n")
    checked = check(load(config_file, ["algorithm.aggregate=median"]))
    assert not checked.problems and build(checked.config.algorithm).aggregate == Median()


def test_a_name_that_is_no_rule_is_a_problem_that_lists_the_rules(capsys):
    assert fedlit("check", "quickstart", "algorithm.aggregate=krm") == 2
    assert "it ships bulyan, fltrust, geometric_median, krum, mean" in capsys.readouterr().err


def test_a_rule_that_so_few_members_cannot_bear_is_refused_before_the_run_begins(config_file, tmp_path, capsys):
    for command in ("check", "run"):
        assert fedlit(command, config_file, "algorithm.aggregate=krum") == 2
        assert "Krum(num_malicious=1) needs 5 updates a round or more" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_a_run_with_a_guarded_median_counts_what_it_dropped(config_file, tmp_path):
    words = ["algorithm.aggregate=update_guard", "algorithm.aggregate.rule=median", "num_rounds=1", "local_epochs=1"]
    assert fedlit("run", config_file, *words, "algorithm.aggregate.num_deviations=0.01") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (dropped,) = summary["dropped"]
    assert dropped.startswith("round 1: ") and "is above the limit" in dropped
    assert [*summary["guard"]] == ["a", "b", "c"]  # those to which nothing was done, too
    work = {name: counts for name, counts in summary["guard"].items() if any(counts.values())}
    assert work == {dropped.split(": ")[1]: {"dropped": 1, "clipped": 0}}
    assert "was dropped 1 x and clipped 0 x" in (tmp_path / "run" / "report.html").read_text()


def test_a_norm_hardly_above_the_limit_is_told_apart_from_it(fleet):
    norms = {name: [1 + 1e-5 * place, 0] for place, name in enumerate("abcde")}
    found = play(fleet, UpdateGuard(num_deviations=1e-9), vectors(**norms), start=ZERO)
    assert found.dropped["d"] == "its update's norm 1.00003 is above the limit 1.00002 (the median of 5 is 1)"
    assert apart(2.0, 1.0) == ("2", "1") and apart(math.nextafter(1, 2), 1.0)[0] == "1.0000000000000002"


def test_a_run_with_fltrust_trains_at_the_server_too(config_file, tmp_path, capsys):
    words = ["algorithm.aggregate=fltrust", "num_rounds=1", "local_epochs=1", "clients_per_round=1"]
    assert fedlit("run", config_file, *words) == 2
    assert "server_site=NAME" in capsys.readouterr().err
    assert fedlit("run", config_file, *words, "server_site=c") == 0
    state = json.loads((tmp_path / "run" / "checkpoint" / "round-00001.json").read_text())
    work = state["progress"]["work"]
    assert ROOT in work and len(work) == 2 and "c" not in work
    assert f"{ROOT} done" not in capsys.readouterr().out


def test_rules_are_values():
    assert replace(UpdateGuard(rule=Krum(2)), policy="clip") == UpdateGuard("clip", rule=Krum(2))
