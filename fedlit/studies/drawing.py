"""The drawings of a comparison: validation over rounds, and what each hospital has alone and together."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedlit.record import Record
from fedlit.report.plots import name_ends
from fedlit.report.svg import BEST, COLOURS, GREY, INK, LETTER, MUTED, WIDE, WORST, short
from fedlit.report.tables import metric_name
from fedlit.studies.joining import CENTRALISED, FEDERATED, LOCAL, PERSONAL, Choice, Hospital
from fedlit.studies.numbers import Row
from fedlit.studies.results import Result, is_lower_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = (BEST, WORST, COLOURS[2], COLOURS[1], COLOURS[0], COLOURS[3], COLOURS[4])
"""Of rows; the next ones have them again, dashed."""

OF_KIND = {LOCAL: WORST, FEDERATED: BEST, PERSONAL: COLOURS[2], CENTRALISED: GREY}
STEP = 26  # CSS pixels a line

Points = list[tuple[int, float]]
"""(round, value)"""


def curves(rows: Sequence[Row], metric: str) -> dict[str, dict[str, Points]]:
    """`mean over members` and `worst member` -> row -> its validation scores by round, the mean over its runs."""
    found: dict[str, dict[str, Points]] = {"mean over members": {}, "worst member": {}}
    for row in rows:
        runs = [_by_round(result, metric, row.model or result.model) for result in row.results.values()]
        rounds = sorted(set.intersection(*map(set, runs))) if runs else []
        for name, take in (
            ("mean over members", statistics.fmean),
            ("worst member", max if is_lower_better(metric) else min),
        ):
            if rounds:
                found[name][row.name] = [
                    (number, statistics.fmean(take(run[number]) for run in runs)) for number in rounds
                ]
    return {name: lines for name, lines in found.items() if lines}


def _by_round(result: Result, metric: str, model: str) -> Mapping[int, list[float]]:
    """Round -> a validation score for every member that has one."""
    found: dict[int, list[float]] = defaultdict(list)
    for row in Record(result.path).metrics():
        wanted = (row.split, row.role, row.model, row.metric) == ("val", "member", model, metric)
        if wanted and not math.isnan(row.value):
            found[row.round].append(row.value)
    return found


def draw_curves(panels: Mapping[str, Mapping[str, Points]], order: Sequence[str], width: int) -> Figure | None:
    """A panel for each kind of score; lines are named where they end, on narrow pages by their letter alone."""
    from matplotlib.figure import Figure

    if not panels:
        return None
    is_wide = width == WIDE
    labels = {name: short(name, 17) if is_wide else letter(place) for place, name in enumerate(order)}
    num_columns = len(panels) if is_wide else 1
    num_rows = math.ceil(len(panels) / num_columns)
    panel = 360 if is_wide else 280
    figure = Figure(figsize=(width / 72, num_rows * panel / 72))
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True)
    right = 14 + LETTER * max(len(labels[name]) for lines in panels.values() for name in lines)
    across, below = width / num_columns, num_rows * panel
    figure.subplots_adjust(
        left=46 / width, right=1 - right / width, top=1 - 34 / below, bottom=46 / below,
        wspace=(46 + right) / (across - 46 - right), hspace=80 / (panel - 80),
    )  # fmt: skip
    for place, (title, lines) in zip(axes.flat, panels.items(), strict=True):
        place.set_title(title, loc="left", fontsize=13, color=INK, pad=14)
        _draw_lines(place, lines, order)
    for place, lines in zip(axes.flat, panels.values(), strict=True):  # when the axis that all share is as high as ever
        _name_lines(place, lines, order, labels)
    return figure


def letter(place: int) -> str:
    """A, B, ... Z, A1, B1, ..."""
    return chr(ord("A") + place % 26) + (str(place // 26) if place >= 26 else "")


def _draw_lines(place: Axes, lines: Mapping[str, Points], order: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, points in lines.items():
        number = order.index(name)
        rounds, values = zip(*points, strict=True)
        place.plot(rounds, values, color=LINES[number % len(LINES)], linewidth=2, solid_capstyle="round",
                   linestyle="-" if number < len(LINES) else (0, (4, 2)),
                   marker="o" if len(rounds) == 1 else None)  # fmt: skip
    first, last = (bound(number for points in lines.values() for number, _ in points) for bound in (min, max))
    alone = 0.5 * (first == last)
    place.set_xlim(first - alone, last + alone)
    place.grid(axis="y", linewidth=1)
    place.tick_params(length=0)
    place.tick_params(axis="both", labelbottom=True, labelleft=True)
    place.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    place.yaxis.set_major_locator(MaxNLocator(5))
    place.set_xlabel("round")


def _name_lines(place: Axes, lines: Mapping[str, Points], order: Sequence[str], labels: Mapping[str, str]) -> None:
    ends = {name: points[-1][1] for name, points in lines.items()}
    name_ends(place, ends, labels, {name: LINES[order.index(name) % len(LINES)] for name in ends})


def draw_hospitals(found: Sequence[Hospital], metric: str, width: int) -> Figure | None:
    """For every hospital, its choices with their intervals."""
    from matplotlib.figure import Figure

    if not found:
        return None
    lines: list[tuple[str, Choice | None]] = []
    for hospital in found:
        kinds = [choice.kind for choice in hospital.choices]
        lines.append((hospital.site, None))
        lines += [
            (f"{choice.kind}, {choice.name}" if kinds.count(choice.kind) > 1 else choice.kind, choice)
            for choice in hospital.choices
        ]
    limit = 44 if width == WIDE else 17
    left = 18 + LETTER * max(len(short(name, limit)) for name, _ in lines)
    height = 50 + STEP * len(lines)
    figure = Figure(figsize=(width / 72, height / 72))
    place = figure.add_axes((left / width, 46 / height, 1 - (left + 14) / width, 1 - 50 / height))
    for row, (_, choice) in enumerate(lines):
        if choice is not None:
            colour, score = OF_KIND[choice.kind], choice.score
            if score.low is not None and score.high is not None:
                place.hlines(row, score.low, score.high, color=colour, linewidth=2.5)
            place.plot([score.mean], [row], "o", color=colour, markersize=8, markeredgewidth=0)
    place.set_ylim(len(lines) - 0.4, -0.6)
    place.set_yticks(range(len(lines)), [short(name, limit) for name, _ in lines])
    for label, (_, choice) in zip(place.get_yticklabels(), lines, strict=True):
        label.set_color(MUTED if choice else INK)
        label.set_fontweight("normal" if choice else "bold")
    place.grid(axis="x", linewidth=1)
    place.tick_params(length=0)
    place.set_xlabel(f"{metric_name(metric)}, mean over {found[0].choices[0].score.units}")
    return figure
