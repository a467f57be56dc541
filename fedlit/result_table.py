"""What a run scored, on the terminal: its sites, the worst first; its predictors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit.provenance import printable
from fedlit.record import MetricRow


def result_table(summary: Mapping[str, Any], console: Console) -> None:
    """Print the sites of a summary, the worst first, with as many columns as the terminal is wide."""
    sites: Mapping[str, Mapping[str, Any]] = summary.get("sites") or {}
    if not sites:
        console.print("no site was scored")
        return
    metrics = list(dict.fromkeys(name for scores in sites.values() for name in scores if name not in ("role", "dice")))
    columns: list[tuple[str, list[str]]] = [
        ("site", [printable(site) for site in sites]),
        ("Dice", [_number(scores, "dice", 3) for scores in sites.values()]),
        ("95 % interval", [_interval(scores) for scores in sites.values()]),
        ("cases", [str(scores.get("dice", {}).get("num_cases", 0)) for scores in sites.values()]),
        ("role", [str(scores["role"]) for scores in sites.values()]),
    ]
    for name in metrics:
        digits = 2 if name.startswith(("hd95", "assd", "nsd")) else 3
        columns.append((name, [_number(scores, name, digits) for scores in sites.values()]))
    _print_fitting(columns, console, bold=printable(str(summary.get("worst_site"))))
    if summary.get("worst_dice") is not None:
        facts = f"worst site {printable(summary['worst_site'])} {summary['worst_dice']:.3f}"
        facts += f" | gap {summary['gap']:.3f} | mean {summary['mean_dice']:.3f}"
        console.print(Text(facts), soft_wrap=True)


def predictor_table(rows: Iterable[MetricRow], models: Sequence[str], console: Console) -> None:
    """Print a line for each predictor: its Dice at unseen sites, at members (means over sites), and at each site.

    A mean is over all sites of its role that any of these predictors scored, so that means can be compared; there is
    none of a predictor that lacks one of them.
    """
    dice: dict[str, dict[str, float]] = {model: {} for model in models}
    roles: dict[str, str] = {}
    for row in rows:
        if row.metric == "dice" and row.model in dice and not math.isnan(row.value):
            dice[row.model][row.site], roles[row.site] = row.value, row.role
    columns = [("Dice of", [printable(model) for model in models])]
    remarks = []
    for role, title in (("unseen", "unseen sites"), ("member", "members")):
        of_role = [site for site in roles if roles[site] == role]
        if not of_role:
            continue
        columns.append((title, [_mean(dice[model], of_role) for model in models]))
        num_scored = {model: sum(site in dice[model] for site in of_role) for model in models}
        if lacking := [f"{printable(model)} has {num}" for model, num in num_scored.items() if 0 < num < len(of_role)]:
            remarks.append(
                f"no mean of a predictor that lacks some of the {len(of_role)} {title}: {', '.join(lacking)}"
            )
    for site in sorted(roles, key=lambda site: (roles[site] != "unseen", site)):
        cells = [f"{dice[model][site]:.3f}" if site in dice[model] else "-" for model in models]
        columns.append((printable(site), cells))
    _print_fitting(columns, console)
    for remark in remarks:
        console.print(Text(remark), soft_wrap=True)


def _print_fitting(columns: Sequence[tuple[str, list[str]]], console: Console, bold: str | None = None) -> None:
    """As many of the columns as the terminal is wide, two at least, and how many more there are.

    The row that begins with `bold` stands out.
    """
    table, used = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim"), 0
    for title, cells in columns:
        used += max(len(cell) for cell in [title, *cells]) + 2
        if used - 2 > console.width and len(table.columns) >= 2:
            break
        justify = "left" if title == columns[0][0] or title == "role" else "right"
        table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for row in zip(*(cells for _, cells in columns[: len(table.columns)]), strict=True):
        table.add_row(*map(Text, row), style="bold" if row[0] == bold else "")
    console.print(table)
    if num_left := len(columns) - len(table.columns):
        text = (
            f"{num_left} more column{'s' * (num_left > 1)} in a wider terminal, or with COLUMNS=200 before the command"
        )
        console.print(Text(text), soft_wrap=True)


def _mean(scores: Mapping[str, float], sites: Sequence[str]) -> str:
    return f"{fmean(scores[site] for site in sites):.3f}" if scores.keys() >= set(sites) else "-"


def _number(scores: Mapping[str, Any], metric: str, digits: int) -> str:
    value = scores.get(metric, {}).get("mean")
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(scores: Mapping[str, Any]) -> str:
    low, high = scores.get("dice", {}).get("ci_low"), scores.get("dice", {}).get("ci_high")
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"
