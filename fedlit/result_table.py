"""The sites of a finished run on the terminal, the worst first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit.provenance import printable


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
        digits = 3 if name.endswith(("dice", "iou")) else 2
        columns.append((name, [_number(scores, name, digits) for scores in sites.values()]))
    table, used = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim"), 0
    for title, cells in columns:
        used += max(len(cell) for cell in [title, *cells]) + 2
        if used - 2 > console.width and len(table.columns) >= 2:
            break
        justify = "left" if title in ("site", "role") else "right"
        table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for row in zip(*(cells for _, cells in columns[: len(table.columns)]), strict=True):
        table.add_row(*map(Text, row), style="bold" if row[0] == printable(str(summary.get("worst_site"))) else "")
    console.print(table)
    if summary.get("worst_dice") is not None:
        facts = f"worst site {printable(summary['worst_site'])} {summary['worst_dice']:.3f}"
        facts += f" | gap {summary['gap']:.3f} | mean {summary['mean_dice']:.3f}"
        console.print(Text(facts), soft_wrap=True)


def _number(scores: Mapping[str, Any], metric: str, digits: int) -> str:
    value = scores.get(metric, {}).get("mean")
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(scores: Mapping[str, Any]) -> str:
    low, high = scores.get("dice", {}).get("ci_low"), scores.get("dice", {}).get("ci_high")
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"
