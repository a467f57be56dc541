"""The tables of a study as text: CSV in full precision, Markdown, LaTeX, and on the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rich.console import Console

from fedlit.report.tables import format_number, metric_name
from fedlit.significance import FEWEST
from fedlit.studies.numbers import GAP, Column
from fedlit.studies.table import Cost, Line, Scored, Value
from fedlit.text_table import Cell, TextTable

MARK = "*"
COSTS = ("MB", "hours", "peak GB")


def title_of(column: Column) -> str:
    """The head of a column."""
    kind, site = column
    return site or kind


def number(value: Value, metric: str) -> str:
    """`0.847`; empty where there is none."""
    return "" if value.spread.mean is None else format_number(value.spread.mean, metric)


def deviation(value: Value, metric: str) -> str:
    """`± 0.012`; empty over one seed."""
    return "" if value.spread.std is None else f"± {format_number(value.spread.std, metric)}"


def fewer(value: Value) -> str:
    """`(n 2)` where so many seeds are there and more were asked for."""
    return f"(n {value.num_seeds})" if value.num_seeds and not value.is_whole else ""


def cell(value: Value, metric: str, *, with_spread: bool = True) -> Cell:
    parts = (number(value, metric), deviation(value, metric) if with_spread else "", fewer(value))
    return Cell(" ".join(filter(None, parts)), value.is_best, MARK * value.differs)


def cost_texts(cost: Cost) -> tuple[str, str, str]:
    """Megabytes, hours and gigabytes; empty where they are not known."""
    return _short(cost.megabytes), _short(cost.hours), _short(cost.gigabytes)


def _short(value: float | None) -> str:
    """`120`, `9.8`, `0.25`, `< 0.01`."""
    if value is None:
        return ""
    if 0 < value < 0.01:
        return "< 0.01"
    return f"{value:.0f}" if value >= 10 or not value else f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def cases_text(count: int | None) -> str:
    """`12`, or `5 (few)`: too few to be tested."""
    if count is None:
        return ""
    return str(count) if count >= FEWEST else f"{count} (few)"


def seeds_differ(table: Scored) -> bool:
    """Rows were made of unequal numbers of seeds, and were meant to be."""
    return len({line.row.seeds for line in table.lines}) > 1


def as_text(table: Scored, *, with_costs: bool, with_spread: bool = True, with_sites: bool = True) -> TextTable:
    """Rows methods, columns sites, mean, worst and gap; at the foot the numbers of cases."""
    every, has_seeds = table.design.columns, seeds_differ(table)
    columns = [column for column in every if with_sites or column[0] != "site"]
    head = ["method", *(["seeds"] if has_seeds else []), *map(title_of, columns), *(COSTS if with_costs else ())]
    rows = []
    for line in table.lines:
        seeds = [Cell(str(len(line.row.seeds or table.design.seeds)))] if has_seeds else []
        costs = [Cell(text) for text in cost_texts(Cost.of(line.row))] if with_costs else []
        scores = [cell(line.values[column], table.metric, with_spread=with_spread) for column in columns]
        rows.append([Cell(line.row.name), *seeds, *scores, *costs])
    counts = [Cell(cases_text(table.num_cases[column])) for column in columns]
    foot = [Cell("cases"), *([Cell("")] if has_seeds else []), *counts]
    return TextTable(head, rows, [[*foot, *[Cell("")] * (len(head) - len(foot))]])


def show(table: Scored, console: Console, *, with_costs: bool) -> None:
    """Print it; on a narrow terminal first without what it cost, then without spreads, then without the sites."""
    forms = [(with_costs, True, True), (False, True, True), (False, False, True)]
    if len(table.design.sites) > 1:
        forms += [(False, True, False), (False, False, False)]
    texts = [as_text(table, with_costs=costs, with_spread=spread, with_sites=sites) for costs, spread, sites in forms]
    next((text for text in texts if text.width <= console.width), texts[-1]).show(console)


def legend(table: Scored) -> str:
    """What the numbers are."""
    design = table.design
    whose = "the site that was left out" if design.scores == "unseen" and design.folds != (None,) else "the sites"
    num_seeds = len(design.seeds)
    spread = f"mean ± standard deviation over {num_seeds} seeds" if num_seeds > 1 else "one seed, so without a spread"
    if seeds_differ(table):
        spread = "mean ± standard deviation over the seeds of the row, which are not equally many"
    text = f"{metric_name(table.metric)} of {whose}, {spread}; of the test cases of the kept round."
    if (GAP, "") in design.columns:
        text += " Gap: between the best and the worst site."
    if any(map(fewer, (value for line in table.lines for value in line.values.values()))):
        text += " (n 2) says that only so many seeds are there; such cells are not compared for the best."
    return text


def reading(table: Scored) -> str:
    """How to read what is marked, and what it cost."""
    return (
        f"Bold: the best of a column. {MARK}: differs from {table.design.reference}, p < 0.05 by Wilcoxon's signed-rank"
        " test over paired cases (a case is its mean over seeds), corrected by Holm for the methods of the column; in "
        f"the column mean over the cases of all sites. With fewer than {FEWEST} cases nothing is tested. MB up and "
        "down and hours of training are means over the runs of a row, peak GB is the most that one process held."
    )


def as_csv(tables: Sequence[Scored]) -> str:
    """A line for every method and metric, to the last bit; an empty cell is unknown."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = tables[0].design.columns
    names = [f"{title_of(column)}{kind}" for column in columns for kind in ("", " std", " n", " p")]
    writer.writerow(["metric", "method", *names, "runs", "MB", "hours", "peak GB"])
    for table in tables:
        for line in table.lines:
            writer.writerow([table.metric, line.row.name, *_numbers(line, columns), *_costs(line)])
    return text.getvalue()


def _numbers(line: Line, columns: Sequence[Column]) -> list[str]:
    found = []
    for value in (line.values[column] for column in columns):
        p = value.untested if value.p is None else repr(value.p)
        found += [_exact(value.spread.mean), _exact(value.spread.std), str(value.num_seeds), p]
    return found


def _costs(line: Line) -> list[str]:
    cost = Cost.of(line.row)
    return [str(cost.num_runs), _exact(cost.megabytes), _exact(cost.hours), _exact(cost.gigabytes)]


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)


def as_markdown(title: str, tables: Sequence[Scored], notes: Sequence[str]) -> str:
    """All tables, each with how to read it, and what must be known of them."""
    parts = [f"# {title}\n"]
    parts += [f"{note}\n" for note in notes]
    for place, table in enumerate(tables):
        parts += [f"## {metric_name(table.metric)}\n", as_text(table, with_costs=not place).as_markdown()]
        said = legend(table) if place else f"{legend(table)} {reading(table)}"
        parts.append(said.replace(MARK, rf"\{MARK}") + "\n")
    return "\n".join(parts)


def _comment(text: str) -> str:
    return f"% {' '.join(text.split())}\n"


def as_latex(title: str, tables: Sequence[Scored], notes: Sequence[str]) -> str:
    """A tabular for every metric; all else is in comments."""
    parts = ["".join(map(_comment, (title, *notes)))]
    for place, table in enumerate(tables):
        said = legend(table) if place else f"{legend(table)} {reading(table)}"
        parts.append(f"{_comment(said)}{as_text(table, with_costs=not place).as_latex()}")
    return "\n".join(parts)
