"""The tables of the page, as text: sites, the worst first, and predictors side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from fedlit.report.reading import Run

NAMES = {"dice": "Dice", "iou": "IoU", "hd95": "HD95", "assd": "ASSD", "nsd": "NSD", "mm": "mm", "px": "px"}
NAMES |= {"dice_fedfms_thresholds": "FedFMS Dice", "iou_fedfms_thresholds": "FedFMS IoU"}
NAMES |= {"dice_iopfl_with_background": "IOP-FL Dice, background included"}
NAMES |= {"dice_iopfl_with_background_foreground_slices": "IOP-FL Dice, background included, slices with foreground"}

SUMS = (("members, worst", "member", min), ("members, mean", "member", fmean), ("unseen, mean", "unseen", fmean))
"""Lines below the predictors: name, role of the sites, what becomes of their numbers."""


def site_table(run: Run) -> dict[str, Any]:
    """Heading and rows of the worst-site-first table, as text."""
    names = dict.fromkeys(name for scores in run.sites.values() for name in scores)
    metrics = [name for name in names if name not in ("role", "dice")]
    rows = []
    for site, scores in run.sites.items():
        dice = scores.get("dice", {})
        low, high = dice.get("ci_low"), dice.get("ci_high")
        spreads = [scores[name] for name in ("dice", *metrics) if name in scores]
        rows.append({
            "site": site,
            "role": scores["role"],
            "num_cases": dice.get("num_cases", "–"),
            "dice": format_number(dice.get("mean"), "dice"),
            "interval": "–" if low is None or high is None else f"{low:.3f} – {high:.3f}",
            "others": [format_number(scores.get(name, {}).get("mean"), name) for name in metrics],
            "num_excluded": max((spread.get("num_excluded", 0) for spread in spreads), default="–"),
        })  # fmt: skip
    return {"metrics": [metric_name(name) for name in metrics], "rows": rows}


def metric_name(name: str) -> str:
    """`hd95_mm` -> `HD95 (mm)`."""
    if name in NAMES:
        return NAMES[name]
    if "_per_slice" in name:
        return f"{metric_name(name.replace('_per_slice', ''))}, per slice"
    kind, _, unit = name.partition("_")
    return NAMES.get(kind, kind) + (f" ({NAMES.get(unit, unit)})" if unit else "")


def format_number(value: float | None, metric: str) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.2f}" if metric.startswith(("hd95", "assd")) else f"{value:.3f}"


def predictor_table(run: Run) -> dict[str, Any] | None:
    """Test Dice of every predictor at every site, where there is more than one predictor."""
    scores: dict[str, dict[str, float]] = {}
    for row in run.rows:
        if (row.round, row.split, row.metric) == (run.summary.get("round"), run.summary.get("split"), "dice"):
            scores.setdefault(row.model, {})[row.site] = row.value
    if len(scores) < 2:
        return None
    models = sorted(scores, key=lambda model: model != run.summary.get("model"))  # the others as they were recorded
    lines = {site: [scores[model].get(site, math.nan) for model in models] for site in run.sites}
    below = {}
    for name, role, fold in SUMS:
        found = [line for site, line in lines.items() if run.sites[site]["role"] == role]
        if scored := [line for line in found if not all(map(math.isnan, line))]:
            below[name] = _of_columns(scored, fold)
    return {"models": models, "rows": _best_marked(lines), "below": _best_marked(below)}


def _of_columns(lines: Sequence[Sequence[float]], fold: Callable[[Sequence[float]], float]) -> list[float]:
    """One number for each predictor; NaN where it lacks a site, since over fewer it could not be compared."""
    columns = zip(*lines, strict=True)
    return [math.nan if any(map(math.isnan, column)) else fold(column) for column in columns]


def _best_marked(lines: Mapping[str, Sequence[float]]) -> dict[str, list[tuple[str, bool]]]:
    best = {name: max((value for value in row if not math.isnan(value)), default=None) for name, row in lines.items()}
    return {name: [(format_number(value, "dice"), value == best[name]) for value in row] for name, row in lines.items()}
