"""A study's tables as one page: no network, no script, the same bytes for the same runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlit.files import write_atomically
from fedlit.provenance import anonymous, masked
from fedlit.report.tables import format_number, metric_name
from fedlit.report.templates import template
from fedlit.studies.grid import Plan
from fedlit.studies.numbers import Column, Row
from fedlit.studies.results import is_lower_better
from fedlit.studies.table import Scored, Value
from fedlit.studies.writing import (
    MARK,
    cost_texts,
    counts_of,
    deviation,
    fewer,
    heading,
    legend,
    number,
    reading,
    seeds_differ,
    title_of,
)


def write_page(path: Path, plan: Plan, tables: Sequence[Scored], notes: Sequence[str]) -> None:
    """Draw table.html of a study's tables."""
    study = plan.asked.study
    page = template(Path(__file__).with_name("table.html.jinja")).render(
        study=study,
        lead=lead(tables[0]),
        notes=notes,
        tables=[sheet(table, with_costs=not place) for place, table in enumerate(tables)],
        facts=facts(plan),
    )
    write_atomically(path, page.encode("utf-8", errors="replace"))


def sheet(table: Scored, *, with_costs: bool) -> dict[str, Any]:
    """A table as the template wants it."""
    columns = table.design.columns
    rows = []
    for line in table.lines:
        cells = [shown(line.values[column], table.metric) for column in columns]
        rows.append({
            "name": line.row.name,
            "below": below_name(line.row, table),
            "cells": cells,
            "costs": cost_texts(table, line) if with_costs else (),
        })  # fmt: skip
    return {
        "title": heading(table),
        "heads": heads(columns),
        "rows": rows,
        "reference": table.design.reference,
        "counts": counts_of(table),
        "units": "cases" if table.num_patients is None else "patients",
        "costs": table.costs if with_costs else (),
        "legend": f"{legend(table)} {reading(table)}" if with_costs else legend(table),
    }


def heads(columns: Sequence[Column]) -> list[tuple[str, bool]]:
    """What stands above each column, and whether it is a site."""
    return [(title_of(column), column[0] == "site") for column in columns]


def shown(value: Value, metric: str) -> dict[str, Any]:
    """A cell: its number, what stands below it, and why."""
    p = "" if value.p is None else f"p {value.p:.2g} against the reference"
    return {
        "number": number(value, metric),
        "below": " ".join(filter(None, (deviation(value, metric), fewer(value)))),
        "mark": MARK * value.differs,
        "is_best": value.is_level,
        "title": p,
    }


def below_name(row: Row, table: Scored) -> str:
    """What stands below a method's name."""
    count = len(row.seeds or table.design.seeds)
    parts = ["reference"] if row.name == table.design.reference else []
    return ", ".join([*parts, *([f"{count} seed{'s' * (count > 1)}"] if seeds_differ(table) else [])])


def lead(table: Scored) -> str:
    """What the table says, in a sentence: who is best on the mean, and at the worst site."""
    kind, name = "Lowest" if is_lower_better(table.metric) else "Best", metric_name(table.metric)
    if table.design.axis:
        return _lead_of_columns(table, kind)
    columns = {f"mean {name}": ("mean", ""), "at the worst site": ("worst", "")}
    if len(table.design.sites) == 1:
        columns = {f"{name} at {table.design.sites[0]}": table.design.columns[0]}
    elif not table.has_one_unit:
        return f"{name} has not the same unit at all sites, so none is best over them."
    best = {what: _best(table, column) for what, column in columns.items()}
    if None in best.values():
        return "No method has all of its runs yet."
    return " ".join(f"{kind} {what}: {who}." for what, who in best.items())


def _lead_of_columns(table: Scored, kind: str) -> str:
    """In how many columns each method is best, the most first."""
    every = table.design.columns
    counts = {line.row.name: sum(line.values[column].is_best for column in every) for line in table.lines}
    first = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])[:3]
    if not first:
        return "No method has all of its runs yet."
    said = ", ".join(f"{name} in {counts[name]}" for name in first)
    return f"{kind} {heading(table)}, of {len(every)} columns: {said}."


def _best(table: Scored, column: Column) -> str | None:
    best = [line for line in table.lines if line.values[column].is_best]
    if not best:
        return None
    value = best[0].values[column].spread.mean
    level = [line.row.name for line in table.lines if line.values[column].is_level and line not in best]
    said = f"{', '.join(line.row.name for line in best)} with {format_number(value, table.metric)}"
    return f"{said}, level with {', '.join(level)}" if level else said


def facts(plan: Plan) -> list[tuple[str, str]]:
    """What was run."""
    asked, study = plan.asked, plan.asked.study
    folds = [fold for fold in plan.folds if fold is not None]
    left_out = [] if study.columns else [("Left out in turn", ", ".join(folds))]
    columns = [(f"Column {name}", " ".join(study.columns[name])) for name in folds] if study.columns else []
    return [
        ("Study", study.name),
        *left_out,
        ("Seeds", ", ".join(map(str, asked.seeds))),
        ("Words for every run", anonymous(masked(" ".join((*asked.study.set, *asked.words))))),
        *((name, anonymous(masked(words))) for name, words in columns),
        *((f"{method.name}", anonymous(masked(" ".join(method.words)))) for method in study.methods),
    ]
