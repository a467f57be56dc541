"""A comparison of runs as one page, and on the terminal."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from fedlit.files import write_atomically
from fedlit.provenance import anonymous, printable
from fedlit.report.svg import drawings
from fedlit.report.tables import format_number, metric_name
from fedlit.report.templates import template
from fedlit.studies.comparing import Comparison
from fedlit.studies.drawing import curves, draw_curves, draw_hospitals, letter
from fedlit.studies.joining import LOCAL, Hospital, hospitals
from fedlit.studies.numbers import OF_SITES, Column
from fedlit.studies.page import heads, lead, sheet
from fedlit.studies.table import Scored, Value
from fedlit.studies.writing import show as show_table
from fedlit.studies.writing import title_of

TITLES = ("Members", "Hospitals that took no part")


def write_comparison(path: Path, comparison: Comparison) -> list[Hospital]:
    """Draw the page of a comparison; returns what it says of every hospital."""
    main = comparison.tables[0]
    names = [group.name for group in comparison.groups]
    order = [row.name for row in comparison.rows]
    panels = curves(comparison.rows, metric := main.metric) or curves(comparison.rows, metric := "dice")
    found = joining(comparison)
    titles = TITLES if comparison.members else TITLES[1:]
    letters = {name: letter(place) for place, name in enumerate(order)}
    page = template(Path(__file__).with_name("compare.html.jinja")).render(
        title=" and ".join(filter(None, [", ".join(names[:-1]), names[-1]])),
        lead=lead(main),
        notes=notes(comparison, found),
        sheets=[
            {
                **sheet(table, with_costs=not place),
                "title": title,
                "letters": letters,
                "tests": tests(table),
                "test_heads": heads(tested(table)),
            }
            for place, (title, table) in enumerate(zip(titles, comparison.tables, strict=False))
        ],
        metric=metric_name(main.metric),
        curves=drawings("curves", partial(draw_curves, panels, order)),
        curve_metric=metric_name(metric),
        hospitals=found,
        joining=drawings("hospitals", partial(draw_hospitals, found, main.metric)),
        runs=[
            (group.name, ", ".join(anonymous(result.path.as_posix()) for result in group.results))
            for group in comparison.groups
        ],
    )
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return found


def joining(comparison: Comparison) -> list[Hospital]:
    """What joining brings every member, by the main metric."""
    return hospitals(comparison, comparison.tables[0].metric) if comparison.members else []


def notes(comparison: Comparison, found: list[Hospital]) -> list[str]:
    """What must be known of the numbers."""
    remarks = [remark for table in comparison.tables for remark in table.remarks]
    kinds = {(choice.kind, choice.name) for hospital in found for choice in hospital.choices}
    num_local = sum(kind == LOCAL for kind, _ in kinds)
    if found and num_local != 1:
        what = "no run is local only" if not num_local else f"{num_local} runs are local only"
        remarks.append(f"{what}, so what joining brings a hospital is not told; give one run with algorithm=local")
    return list(dict.fromkeys(remarks))


def tested(table: Scored) -> list[Column]:
    """The columns that have cases to be paired."""
    return [column for column in table.design.columns if column[0] not in OF_SITES]


def tests(table: Scored) -> list[dict[str, Any]]:
    """By row, the difference to the reference and its corrected p for every site and over all cases."""
    columns = tested(table)
    reference = next(line for line in table.lines if line.row.name == table.design.reference)
    return [
        {
            "name": line.row.name,
            "cells": [_tested(line.values[column], reference.values[column], table.metric) for column in columns],
        }
        for line in table.lines
        if line is not reference
    ]


def _tested(value: Value, reference: Value, metric: str) -> tuple[str, str]:
    """The difference of means, and p or why there is none."""
    if value.spread.mean is None or reference.spread.mean is None:
        return "", ""
    gap = value.spread.mean - reference.spread.mean
    sign = "-" if gap < 0 else "+"
    return sign + format_number(abs(gap), metric), value.untested if value.p is None else f"p {value.p:.2g}"


def show(comparison: Comparison, found: list[Hospital], console: Console) -> None:
    """Print the tables, the tests and what they say of every hospital."""
    for place, table in enumerate(comparison.tables):
        show_table(table, console, with_costs=not place)
        for row in tests(table):
            cells = zip(tested(table), row["cells"], strict=True)
            said = [f"{title_of(column)} {gap} ({p})" for column, (gap, p) in cells if gap]
            text = f"{row['name']} against {table.design.reference}: {', '.join(said)}"
            console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
    for hospital in found:
        for text in hospital.sentences:
            console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
