"""The summary is about members, the worst first, and its intervals are those of the cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedlit.record import CaseRow, MetricRow
from fedlit.summary import bootstrap_interval, site_metrics, summarise


def case(site: str, name: str, value: float | None, **other) -> CaseRow:
    fields = {"round": 1, "model": "global", "split": "test", "class_name": "lung", "metric": "dice"} | other
    return CaseRow(site=site, case=name, value=value, **fields)


def test_a_site_value_is_the_mean_over_cases_of_the_mean_over_classes():
    cases = [
        case("a", "1", 0.2, class_name="disc"),
        case("a", "1", 0.4, class_name="cup"),
        case("a", "2", 0.9, class_name="disc"),
        case("a", "2", None, class_name="cup"),
        case("a", "3", None, class_name="disc"),
        case("a", "3", math.nan, class_name="cup"),
        case("b", "1", None),
    ]
    first, second = site_metrics(cases, {"a": "member", "b": "unseen"})
    assert first == MetricRow(1, "a", "member", "global", "test", "dice", pytest.approx((0.3 + 0.9) / 2), 2)
    assert (second.site, second.role, second.num_cases) == ("b", "unseen", 0) and math.isnan(second.value)
    summary = summarise(cases, [first, second], round=1, model="global")
    assert summary["sites"]["a"]["dice"]["mean"] == first.value
    assert summary["sites"]["a"]["dice"]["num_excluded"] == 3
    assert (
        summary["sites"]["b"]["dice"] | {"mean": None, "num_cases": 0, "num_excluded": 1}
        == summary["sites"]["b"]["dice"]
    )


def test_the_interval_holds_the_mean_and_equal_cases_have_no_width():
    generator = np.random.default_rng(0)
    for size in (2, 3, 10, 1000):
        values = generator.beta(8, 2, size).tolist()
        low, high = bootstrap_interval(values, seed=1)
        assert min(values) <= low <= np.mean(values) <= high <= max(values)
        assert (low, high) == bootstrap_interval(values, seed=1), "seeded"
    for value in (0.1, 1 / 3, 0.9):
        assert bootstrap_interval([value] * 7, seed=1) == pytest.approx((value, value), abs=1e-15)
        low, high = bootstrap_interval([value] * 7, seed=1)
        assert high - low == 0


def test_the_interval_agrees_with_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).beta(8, 2, 40)
    expected = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=3
    ).confidence_interval
    assert bootstrap_interval(values.tolist(), seed=2, num_resamples=20_000) == pytest.approx(tuple(expected), abs=2e-3)


def test_one_case_has_no_interval():
    rows = site_metrics([case("a", "1", 0.7)], {"a": "member"})
    spread = summarise([case("a", "1", 0.7)], rows, round=1, model="global")["sites"]["a"]["dice"]
    assert spread == {
        "mean": 0.7,
        "std": None,
        "ci_low": None,
        "ci_high": None,
        "num_cases": 1,
        "num_patients": 1,
        "num_excluded": 0,
    }


def test_the_pictures_of_one_patient_are_drawn_together():
    values = [0.5, 0.5, 0.9, 0.9, 0.7, 0.7]
    cases = [case("a", str(number), value) for number, value in enumerate(values)]
    rows = site_metrics(cases, {"a": "member"})

    def found(patients):
        return summarise(cases, rows, round=1, model="global", patients=patients)["sites"]["a"]["dice"]

    alone, by_two = found(None), found({("a", str(number)): f"p{number // 2}" for number in range(6)})
    assert (alone["num_patients"], by_two["num_patients"]) == (6, 3) and alone["mean"] == by_two["mean"]
    assert by_two["ci_high"] - by_two["ci_low"] > 1.2 * (alone["ci_high"] - alone["ci_low"])
    assert bootstrap_interval(values, [0, 0, 1, 1, 2, 2], seed=3) == bootstrap_interval(values[::2], seed=3)
    assert found(dict.fromkeys([("a", str(number)) for number in range(6)], "p"))["ci_low"] is None


def test_the_summary_is_about_members_worst_first_and_ignores_the_order_of_rows():
    values = {"good": 0.9, "bad": 0.6, "mid": 0.75, "new": 0.5, "newer": 0.55}
    roles = dict.fromkeys(("good", "bad", "mid"), "member") | dict.fromkeys(("new", "newer"), "unseen")
    cases = [case(site, str(index), value + index / 100) for site, value in values.items() for index in (-1, 0, 1)]
    cases += [
        case("good", "0", 0.0, model="other"),
        case("good", "0", 0.0, split="val"),
        case("good", "0", 0.0, round=2),
    ]
    rows = site_metrics(cases, roles)
    summary = summarise(cases, rows, round=1, model="global")
    assert list(summary["sites"]) == ["new", "newer", "bad", "mid", "good"]
    assert (summary["worst_site"], summary["unseen_worst_site"]) == ("bad", "new")
    numbers = [
        summary[key] for key in ("worst_dice", "gap", "mean_dice", "std_dice", "unseen_worst_dice", "unseen_mean_dice")
    ]
    assert numbers == pytest.approx([0.6, 0.3, 0.75, np.std([0.9, 0.6, 0.75]), 0.5, 0.525])
    assert summary == summarise(cases[::-1], rows[::-1], round=1, model="global")


def test_without_members_the_main_numbers_are_over_what_there_is():
    cases = [case("new", "1", 0.5), case("newer", "1", 0.7)]
    summary = summarise(cases, site_metrics(cases, dict.fromkeys(("new", "newer"), "unseen")), round=1, model="global")
    assert (summary["worst_site"], summary["worst_dice"]) == ("new", 0.5)
    assert summarise([], [], round=1, model="global")["worst_site"] is None
