"""Reproducing a study: its runs as far as they are not there yet, then its tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fedlit.collect import unfinished
from fedlit.errors import BadInput
from fedlit.files import write_atomically
from fedlit.rundir import RunDirectory
from fedlit.studies.axis import scored_by_column
from fedlit.studies.grid import Plan, Point, Standing
from fedlit.studies.numbers import Design, Row
from fedlit.studies.origin import with_patients
from fedlit.studies.page import write_page
from fedlit.studies.results import Result, read_result, refuse_other_data
from fedlit.studies.running import said_of_failure
from fedlit.studies.table import Scored, scored
from fedlit.studies.writing import as_csv, as_latex, as_markdown, show
from fedlit.sweep import Grid

FILES = ("table.csv", "table.md", "table.tex", "table.html")


def said_of(standings: Mapping[Point, Standing]) -> str:
    """`12 runs: 3 complete, 1 to go on, 8 to begin`."""
    names = {"complete": "complete", "continue": "to go on", "new": "to begin"}
    counts = {name: sum(found == key for found in standings.values()) for key, name in names.items()}
    total = len(standings)
    return f"{total} run{'s' * (total > 1)}: " + ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def grid_of(plan: Plan, points: Sequence[Point]) -> Grid:
    """Runs as `fedlit submit` takes them."""
    runs, configs = tuple(point.run for point in points), tuple(point.config for point in points)
    return Grid(runs, plan.asked.study.name, True, (), configs)


def lack(point: Point) -> str:
    """What a run lacks to stand in the table; empty where it is finished with all the rounds that are asked."""
    if why := unfinished(point.path):
        if failure := said_of_failure(point.path):
            return f"failed: {failure}"
        return "not begun" if why.startswith("no run") else why
    rounds, asked = RunDirectory(point.path).read_config().num_rounds, point.config.num_rounds
    return "" if rounds == asked else f"finished with {rounds} rounds, and {asked} are asked"


def lacks(plan: Plan) -> dict[Point, str]:
    """What each run lacks."""
    return {point: lack(point) for point in plan.points}


def missing_runs(found: Mapping[Point, str]) -> list[str]:
    """A line for every run that is not in the table, for what it lacks."""
    return [f"{point.title}: {why}" for point, why in found.items() if why]


def rows_of(plan: Plan, found: Mapping[Point, str]) -> list[Row]:
    """The methods with those of their runs that lack nothing.

    Raises:
        BadInput: a run was made from other data than the others; a column may have data of its own.
    """
    results = {point: read_result(point.path) for point, why in found.items() if not why}
    if plan.asked.data is not None:
        results = with_patients({point: (result, point.config) for point, result in results.items()})
    of_data: dict[str | None, list[Result]] = defaultdict(list)
    for point, result in results.items():
        of_data[point.fold if plan.asked.study.columns else None].append(result)
    for alike in of_data.values():
        refuse_other_data(alike)
    return [
        Row(
            method.name,
            {(point.fold, point.seed): found for point, found in results.items() if method.name in point.methods},
            method.model,
        )
        for method in plan.asked.study.methods
    ]


def tables_of(plan: Plan, found: Mapping[Point, str]) -> list[Scored]:
    """A table for every metric of the study, of the runs that are finished."""
    study, rows = plan.asked.study, rows_of(plan, found)
    results = [result for row in rows for result in row.results.values()]
    if study.folds and study.scores == "unseen":
        sites = [fold for fold in plan.folds if fold is not None]
    else:
        role = "unseen" if study.scores == "unseen" else "member"
        sites = sorted({site for result in results for site, its_role in result.roles.items() if its_role == role})
    axis = tuple(fold for fold in plan.folds if fold is not None) if study.columns else ()
    design = Design(plan.folds, plan.asked.seeds, study.scores, tuple(sites), study.reference, axis, study.bounds)
    if axis:
        why = absent(plan, found)
        tables = [table for metric in study.metrics for table in scored_by_column(rows, design, metric, why)]
    else:
        tables = [scored(rows, design, metric) for metric in study.metrics]
    return [replace(table, costs=study.costs) for table in tables]


def absent(plan: Plan, found: Mapping[Point, str]) -> dict[tuple[str, str], str]:
    """(method, column) -> why there is no number, where there will be none."""
    failed = {
        (name, str(point.fold)): "failed"
        for point, why in found.items()
        if why.startswith("failed")
        for name in point.methods
    }
    undefined = {
        (method.name, name): "not defined" for method in plan.asked.study.methods for name in method.not_defined
    }
    return failed | undefined


def write_tables(plan: Plan, console: Console) -> list[str]:
    """Write the tables beside the runs and print the main one; returns what must be known of them."""
    study, out = plan.asked.study, plan.asked.out
    found = lacks(plan)
    tables = tables_of(plan, found)
    if not tables or not tables[0].design.sites or not any(line.row.results for line in tables[0].lines):
        raise BadInput(f"no run of study {study.name} in {out} is finished that scores a site: there is no table yet")
    missing = [f"Not in the table: {text}." for text in missing_runs(found)]
    notes = [*missing, *dict.fromkeys(remark for table in tables for remark in table.remarks)]
    title = f"{study.title} ({study.paper})" if study.paper else study.title
    write_atomically(out / "table.csv", as_csv(tables))
    write_atomically(out / "table.md", as_markdown(title, tables, notes))
    write_atomically(out / "table.tex", as_latex(title, tables, notes))
    write_page(out / "table.html", plan, tables, notes)
    show(tables[0], console, with_costs=True)
    return notes


def written(out: Path) -> list[Path]:
    return [out / name for name in FILES]
