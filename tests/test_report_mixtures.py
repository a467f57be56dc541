"""The drawing of what a model is mixed of: every member a column, every site and case a row, no number made up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fedlit.record import GateRow, Record
from fedlit.report import write_report
from fedlit.report.mixtures import MOST, draw_mixture, mixture_models
from fedlit.report.svg import NARROW, WIDE
from tests.test_report import make_run


def rows(values, *, layers=("stem", "head")):
    """Gates of model `routing`, by (site, case) and member: the same in each layer but for a hundredth."""
    return [
        GateRow(4, site, case, "routing", "test", layer, member, value + (0.01 if layer == "head" else -0.01))
        for (site, case), of_members in values.items()
        for member, value in of_members.items()
        for layer in layers
    ]


def gates_of(values):
    return mixture_models(SimpleNamespace(gates=rows(values)))["routing"]


def texts(figure):
    (place,) = figure.axes
    numbers = [text.get_text() for text in place.texts]
    return [label.get_text() for label in place.get_yticklabels()], numbers


def test_a_case_is_drawn_by_the_mean_over_layers_and_a_site_by_that_over_cases():
    gates = gates_of({("u", "one"): {"b": 0.5, "a": -0.25}, ("u", "two"): {"b": 0.0, "a": -0.75}})
    assert gates["u"]["one"] == pytest.approx({"a": -0.25, "b": 0.5})
    names, numbers = texts(draw_mixture(gates, WIDE))
    assert names == ["u", "one", "two"] and numbers == ["-0.50", "0.25", "-0.25", "0.50", "-0.75", "0.00"]
    assert not texts(draw_mixture(gates, NARROW))[1]


def test_gates_near_nothing_are_told_apart_by_thousandths():
    values = {("u", "one"): {"a": 0.012, "b": -0.0001}, ("u", "two"): {"a": 0.018, "b": 0.0}}
    _, numbers = texts(draw_mixture(gates_of(values), WIDE))
    assert numbers == ["0.015", "0.000", "0.012", "0.000", "0.018", "0.000"]


def test_of_many_cases_an_even_sample_is_drawn():
    values = {("u", f"c{place:02}"): {"a": place / 100} for place in range(40)}
    names, numbers = texts(draw_mixture(gates_of(values), WIDE))
    assert len(names) == 1 + MOST and (names[1], names[-1]) == ("c00", "c39") and numbers[0] == "0.20"


def test_the_page_shows_what_routing_csv_holds(tmp_path):
    run_dir = make_run(tmp_path / "run", ["a", "b", "u"], models=("global", "routing"))
    before = write_report(run_dir).read_text()
    Record(run_dir).add([], gates=rows({("u", "c0"): {"a": 0.3, "b": -0.2}}))
    after = write_report(run_dir).read_text()
    assert "mixture-0" in after and "mixture-0" not in before
