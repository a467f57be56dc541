"""The result table fits the terminal and names the worst site."""

from __future__ import annotations

import io

from rich.console import Console

from fedlit.record import MetricRow
from fedlit.result_table import predictor_table, result_table


def plain(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width)


def shown(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def summary(num_sites: int) -> dict:
    scores = {"mean": 0.81234, "std": 0.1, "ci_low": 0.7, "ci_high": 0.9, "num_cases": 12, "num_excluded": 0}
    empty = dict.fromkeys(scores) | {"num_cases": 0, "num_excluded": 3}
    site = {"role": "member", "dice": scores, "iou": scores, "hd95_mm": scores | {"mean": 12.345}, "nsd_mm": empty}
    sites = {f"[b]hospital{index}": site for index in range(num_sites)} | {"none": {"role": "unseen", "dice": empty}}
    return {"worst_site": "[b]hospital0", "worst_dice": 0.81234, "gap": 0.1, "mean_dice": 0.88, "sites": sites}


def test_the_result_table_has_as_many_columns_as_fit():
    narrow, wide = plain(40), plain(100)
    result_table(summary(3), narrow)
    result_table(summary(3), wide)
    assert all(len(line) <= 40 for line in shown(narrow)[:5])
    assert shown(narrow)[5].startswith("5 more columns")
    assert "more column" not in wide.file.getvalue()
    assert "0.700 to 0.900" in narrow.file.getvalue() and "hd95_mm" not in narrow.file.getvalue()
    lines = shown(wide)
    assert lines[0].split() == ["site", "Dice", "95", "%", "interval", "cases", "role", "iou", "hd95_mm", "nsd_mm"]
    assert lines[1].split() == ["[b]hospital0", "0.812", "0.700", "to", "0.900", "12", "member", "0.812", "12.35", "-"]
    assert lines[4].split() == ["none", "-", "-", "0", "unseen", "-", "-", "-"]
    assert lines[-1] == "worst site [b]hospital0 0.812 | gap 0.100 | mean 0.880"
    result_table({}, narrow)
    assert shown(narrow)[-1] == "no site was scored"


def scored(values: dict[str, dict[str, float]]) -> list[MetricRow]:
    """Rows by predictor and site; a site with a capital is a member."""
    return [
        MetricRow(3, site, "member" if site.isupper() else "unseen", model, "test", "dice", value, 5)
        for model, of_sites in values.items()
        for site, value in of_sites.items()
    ]


def test_means_of_predictors_are_over_the_same_sites_or_missing():
    """Of two predictors on a hard and an easy site, the one scored on the easy site alone looked better."""
    rows = scored({"global": {"hard": 0.2, "easy": 0.8, "A": 0.7}, "ensemble": {"easy": 0.75}, "personal": {"A": 0.9}})
    console = plain()
    predictor_table(rows, ["global", "ensemble", "personal"], console)
    head, *lines, remark = shown(console)
    assert head.split() == ["Dice", "of", "unseen", "sites", "members", "easy", "hard", "A"]
    assert [line.split() for line in lines] == [
        ["global", "0.500", "0.700", "0.800", "0.200", "0.700"],
        ["ensemble", "-", "-", "0.750", "-", "-"],
        ["personal", "-", "0.900", "-", "-", "0.900"],
    ]
    assert remark == "no mean of a predictor that lacks some of the 2 unseen sites: ensemble has 1"


def test_a_site_without_a_counted_case_takes_no_mean_away():
    console = plain()
    predictor_table(scored({"global": {"u": 0.5, "empty": float("nan")}}), ["global"], console)
    assert shown(console)[1].split() == ["global", "0.500", "0.500"]


def test_columns_without_room_are_counted():
    rows = scored({"global": {f"hospital{place}": 0.5 for place in range(9)}})
    narrow, wide = plain(80), plain(200)
    for console in (narrow, wide):
        predictor_table(rows, ["global"], console)
    assert shown(narrow)[0].count("hospital") == 5
    assert shown(narrow)[-1].startswith("4 more columns in a wider terminal")
    assert shown(wide)[0].count("hospital") == 9 and "more column" not in wide.file.getvalue()
