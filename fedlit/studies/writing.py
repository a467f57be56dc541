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


def title_of(column: Column) -> str:
    """The head of a column."""
    kind, site = column
    return site or kind


def number(value: Value, metric: str) -> str:
    """`0.847`; empty where there is none, or why."""
    return value.absent if value.spread.mean is None else format_number(value.spread.mean, metric)


def heading(table: Scored) -> str:
    """`Dice`; `Dice, the worst site` where columns are over all sites."""
    over = {"mean": ", mean over sites", "worst": ", the worst site"}.get(table.of_sites, "")
    return f"{metric_name(table.metric)}{over}"


def deviation(value: Value, metric: str) -> str:
    """`± 0.012`; empty over one seed."""
    return "" if value.spread.std is None else f"± {format_number(value.spread.std, metric)}"


def fewer(value: Value) -> str:
    """`(n 2)` where so many seeds are there and more were asked for."""
    return f"(n {value.num_seeds})" if value.num_seeds and not value.is_whole else ""


def cell(value: Value, metric: str, *, with_spread: bool = True) -> Cell:
    parts = (number(value, metric), deviation(value, metric) if with_spread else "", fewer(value))
    return Cell(" ".join(filter(None, parts)), value.is_level, MARK * value.differs)


def cost_texts(table: Scored, line: Line) -> list[str]:
    """What the runs of a line cost, by the cost columns of the table; empty where it is not known."""
    cost, whole = Cost.of(line.row), Cost.of(table.reference.row).megabytes_up
    texts = {
        "MB": _short(cost.megabytes),
        "MB up": "" if cost.megabytes_up is None else f"{cost.megabytes_up:.3g}",
        "times less": f"{whole / cost.megabytes_up:.1f}" if whole and cost.megabytes_up else "",
        "seconds": "" if cost.hours is None else _short(cost.hours * 3600),
        "hours": _short(cost.hours),
        "peak GB": _short(cost.gigabytes),
    }
    return [texts[name] for name in table.costs]


def _short(value: float | None) -> str:
    """`120`, `9.8`, `0.25`, `< 0.01`."""
    if value is None:
        return ""
    if 0 < value < 0.01:
        return "< 0.01"
    return f"{value:.0f}" if value >= 10 or not value else f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def counts_of(table: Scored) -> dict[str, list[str]]:
    """What stands at the foot: `patients`, and `cases` where they are not as many or nobody knows of whom they are.

    Of what is tested `5 (too few)` are too few for it.
    """
    columns = table.design.columns
    cases = [table.num_cases[column] for column in columns]
    if table.of_sites == "worst":
        return {}  # nothing is tested there
    if table.num_patients is None:
        return {"cases": [_counted(count, is_tested=True) for count in cases]}
    patients = [table.num_patients[column] for column in columns]
    found = {} if patients == cases else {"cases": [_counted(count, is_tested=False) for count in cases]}
    return found | {"patients": [_counted(count, is_tested=True) for count in patients]}


def _counted(count: int | None, *, is_tested: bool) -> str:
    if count is None:
        return ""
    return f"{count} (too few)" if is_tested and count < FEWEST else str(count)


def seeds_differ(table: Scored) -> bool:
    """Rows were made of other seeds than others, and were meant to be."""
    return len({line.row.seeds for line in table.lines}) > 1


def as_text(table: Scored, *, with_costs: bool, with_spread: bool = True, with_sites: bool = True) -> TextTable:
    """Rows methods, columns sites, mean, worst and gap; at the foot the numbers of patients."""
    every, has_seeds = table.design.columns, seeds_differ(table)
    columns = [column for column in every if with_sites or column[0] != "site"]
    head = ["method", *(["seeds"] if has_seeds else []), *map(title_of, columns), *(table.costs if with_costs else ())]
    rows = []
    for line in table.lines:
        seeds = [Cell(str(len(line.row.seeds or table.design.seeds)))] if has_seeds else []
        costs = [Cell(text) for text in cost_texts(table, line)] if with_costs else []
        scores = [cell(line.values[column], table.metric, with_spread=with_spread) for column in columns]
        rows.append([Cell(line.row.name), *seeds, *scores, *costs])
    foot = []
    for name, texts in counts_of(table).items():
        counts = [Cell(text) for column, text in zip(every, texts, strict=True) if column in columns]
        cells = [Cell(name), *([Cell("")] if has_seeds else []), *counts]
        foot.append([*cells, *[Cell("")] * (len(head) - len(cells))])
    return TextTable(head, rows, foot)


def show(table: Scored, console: Console, *, with_costs: bool) -> None:
    """Print it; on a narrow terminal first without what it cost, then without spreads, then without the sites."""
    forms = [(with_costs, True, True), (False, True, True), (False, False, True)]
    if len(table.design.sites) > 1 and not table.design.axis:
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
        spread = "mean ± standard deviation over the seeds of the row, which are not those of all"
    if table.of_sites:
        whose = "the worst site" if table.of_sites == "worst" else "the sites, their mean"
    name = metric_name(table.metric)
    text = f"{name}{',' * (',' in name)} of {whose}, {spread}; of the test cases of the kept round."
    if (GAP, "") in design.columns:
        text += " Gap: between the best and the worst site."
    if any(map(fewer, (value for line in table.lines for value in line.values.values()))):
        text += " (n 2) says that only so many seeds are there; such cells are not compared for the best."
    return text


def reading(table: Scored) -> str:
    """How to read what is marked, and what it cost."""
    units, what = _units(table)
    over = "every column" if table.of_sites else "the column mean"
    has_spread = len(table.design.seeds) > 1 or seeds_differ(table)
    aside = f" ({', '.join(table.design.bounds)} aside)" if table.design.bounds else ""
    level = ", and what lies within its deviation and is not behind it with every seed" if has_spread else ""
    beyond = "to the same side with every seed, with " if has_spread else ""
    if seeds_differ(table):
        beyond = "to the same side with every seed (of other seeds: by more than both deviations), with "
    return (
        f"Bold: the best of a column{aside}{level}. {MARK}: differs from {table.design.reference}, {beyond}p < 0.05 by "
        f"Wilcoxon's signed-rank test over paired {units} ({what}), corrected by Holm for the methods of the column; "
        f"in {over} over the {units} of all sites. With fewer than {FEWEST} {units} nothing is tested, nor where the "
        f"{units} by their ranks lean the other way than the mean over sites."
        f"{_costs_said(table)}"
    )


def _costs_said(table: Scored) -> str:
    """What the cost columns are."""
    said = {
        "MB": "MB: up and down in a whole run.",
        "MB up": "MB up: what a member sends in a round.",
        "times less": f"Times less: than {table.design.reference}, of MB up.",
        "seconds": "Seconds: of training.",
        "hours": "Hours: of training.",
        "peak GB": "Peak GB: the most that one process held.",
    }
    has_means = any(name != "peak GB" for name in table.costs)
    means = " Means over the runs of a row" + (", but for the peak." if "peak GB" in table.costs else ".")
    means = means if has_means else ""
    return "".join(f" {said[name]}" for name in table.costs) + means


def _units(table: Scored) -> tuple[str, str]:
    """What is tested, and what the value of one is."""
    if table.num_patients is None:
        return "cases", "a case is its mean over seeds"
    most = max((count for count in table.num_patients.values() if count), default=0)
    return "patients", f"{most} patients, a patient is the mean over its cases and seeds"


def as_csv(tables: Sequence[Scored]) -> str:
    """A line for every method and metric, to the last bit; an empty cell is unknown."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = tables[0].design.columns
    names = [f"{title_of(column)}{kind}" for column in columns for kind in ("", " std", " n", " p")]
    writer.writerow(["metric", "method", *names, "runs", "MB", "hours", "peak GB", "MB up"])
    for table in tables:
        for line in table.lines:
            metric = f"{table.metric} {table.of_sites}".rstrip()
            writer.writerow([metric, line.row.name, *_numbers(line, columns), *_costs(line)])
    return text.getvalue()


def _numbers(line: Line, columns: Sequence[Column]) -> list[str]:
    found = []
    for value in (line.values[column] for column in columns):
        p = value.untested if value.p is None else repr(value.p)
        found += [_exact(value.spread.mean), _exact(value.spread.std), str(value.num_seeds), p]
    return found


def _costs(line: Line) -> list[str]:
    cost = Cost.of(line.row)
    numbers = (cost.megabytes, cost.hours, cost.gigabytes, cost.megabytes_up)
    return [str(cost.num_runs), *map(_exact, numbers)]


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)


def as_markdown(title: str, tables: Sequence[Scored], notes: Sequence[str]) -> str:
    """All tables, each with how to read it, and what must be known of them."""
    parts = [f"# {title}\n"]
    parts += [f"{note}\n" for note in notes]
    for place, table in enumerate(tables):
        parts += [f"## {heading(table)}\n", as_text(table, with_costs=not place).as_markdown()]
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
        parts.append(f"{_comment(f'{heading(table)}. {said}')}{as_text(table, with_costs=not place).as_latex()}")
    return "\n".join(parts)
