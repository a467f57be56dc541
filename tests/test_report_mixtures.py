"""The drawing of what a model is mixed of: every member a column, every site and case a row, no number made up."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.colors import to_rgb

from fedlit.record import GateRow, Record
from fedlit.report import svg, write_report
from fedlit.report.mixtures import DARKEST, MOST, draw_mixture, mixture_models
from fedlit.report.svg import NARROW, WIDE, short_apart
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
    assert texts(draw_mixture(gates, NARROW)) == (names, numbers), "a phone shows the same"


def test_gates_near_nothing_are_told_apart_by_thousandths():
    values = {("u", "one"): {"a": 0.012, "b": -0.0001}, ("u", "two"): {"a": 0.018, "b": 0.0}}
    _, numbers = texts(draw_mixture(gates_of(values), WIDE))
    assert numbers == ["0.015", "0.000", "0.012", "0.000", "0.018", "0.000"]


def test_of_many_cases_an_even_sample_is_drawn():
    values = {("u", f"c{place:02}"): {"a": place / 100} for place in range(40)}
    names, numbers = texts(draw_mixture(gates_of(values), WIDE))
    assert len(names) == 1 + MOST and (names[1], names[-1]) == ("c00", "c39") and numbers[0] == "0.20"


def test_numbers_without_room_give_way_to_what_the_full_colour_means():
    gates = gates_of({("u", "one"): {f"m{place}": -0.3 for place in range(12)}})
    (wide,), (narrow,) = (draw_mixture(gates, width).axes for width in (WIDE, NARROW))
    assert len(wide.texts) == 24 and not wide.get_xlabel()
    assert not narrow.texts and narrow.get_xlabel() == "full colour: 0.30 from 0"


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("hospital", ["children", "the_children_of_the_northern_hospital"])
def test_labels_of_cases_differ_as_the_cases_do(width, hospital):
    ends = [f"{part}{place:03}_{slice}" for part in ("train", "val") for place in (2, 12) for slice in (0, 1)]
    values = {("u", f"images/{hospital}_{end}.png"): {"a": 0.1} for end in ends}
    (_, *names), _ = texts(draw_mixture(gates_of(values), width))
    assert all(end in name for end, name in zip(ends, names, strict=True))
    assert max(map(len, names)) <= (26 if width == WIDE else 12)


def test_labels_keep_both_ends_of_names_that_differ_at_both():
    names = ["ann_of_the_northern_hospital_1", "ann_of_the_northern_hospital_2", "bob_of_the_northern_hospital_1"]
    labels = short_apart(names, 12)
    assert len(set(labels)) == 3 and all(len(label) == 12 for label in labels)


def test_the_strongest_of_a_row_is_bold_where_it_is_clearly_ahead():
    cases = {"ahead": (0.5, 0.1), "beside": (0.3, 0.29), "away": (-0.4, -0.1)}
    gates = gates_of({("u", case): dict(zip("ab", values, strict=True)) for case, values in cases.items()})
    (place,) = draw_mixture(gates, WIDE).axes
    assert [text.get_text() for text in place.texts if text.get_weight() == "bold"] == ["0.50"]


def test_numbers_can_be_read_on_the_darkest_field_in_both_schemes():
    def luminance(colour):
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    style = Path(svg.__file__).with_name("style.css").read_text()
    schemes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(schemes) == 2
    for scheme in schemes:
        page, ink, *fields = (to_rgb(scheme[name]) for name in ("page", "ink", "best", "worst"))
        for field in fields:
            mixed = [DARKEST * over + (1 - DARKEST) * under for over, under in zip(field, page, strict=True)]
            low, high = sorted((luminance(mixed), luminance(ink)))
            assert (high + 0.05) / (low + 0.05) >= 4.5


def test_the_page_says_what_gates_near_nothing_mean_where_they_are_added_to_the_global_model(tmp_path):
    words = "where all are near 0, it is the global model"
    for members, is_said in ((("a", "b"), True), (("a", "global"), False)):
        run_dir = make_run(tmp_path / "_".join(members), ["a", "b", "u"])
        Record(run_dir).add([], gates=rows({("u", "c0"): dict.fromkeys(members, 0.5)}))
        assert (words in write_report(run_dir).read_text()) == is_said


def test_the_page_shows_what_routing_csv_holds(tmp_path):
    run_dir = make_run(tmp_path / "run", ["a", "b", "u"], models=("global", "routing"))
    before = write_report(run_dir).read_text()
    Record(run_dir).add([], gates=rows({("u", "c0"): {"a": 0.3, "b": -0.2}}))
    after = write_report(run_dir).read_text()
    assert "mixture-0" in after and "mixture-0" not in before
