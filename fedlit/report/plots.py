"""The drawings: validation Dice over rounds, and the test Dice of every case."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedlit.provenance import printable
from fedlit.report.reading import Run
from fedlit.report.svg import BEST, COLOURS, GREY, INK, LETTER, MUTED, WIDE, WORST, short
from fedlit.summary import case_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_curves(run: Run, width: int) -> Figure | None:
    """Validation Dice of every site over rounds, a panel for each model."""
    from matplotlib.figure import Figure

    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in run.rows:
        if (row.split, row.metric) == ("val", "dice") and not math.isnan(row.value):
            curves.setdefault(row.model, {}).setdefault(row.site, []).append((row.round, row.value))
    if not curves:
        return None
    num_columns = min(len(curves), 2 if width == WIDE else 1)
    num_rows = math.ceil(len(curves) / num_columns)
    panel = 380 if width == WIDE else 280
    figure = Figure(figsize=(width / 72, num_rows * panel / 72))
    longest = max(len(short(site, _room(width, num_columns))) for found in curves.values() for site in found)
    across, below = width / num_columns, num_rows * panel
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True)
    right = 14 + LETTER * longest
    figure.subplots_adjust(
        left=46 / width, right=1 - right / width, top=1 - 34 / below, bottom=46 / below,
        wspace=(46 + right) / (across - 46 - right), hspace=80 / (panel - 80),
    )  # fmt: skip
    for place, (model, found) in zip(axes.flat, curves.items(), strict=False):
        if len(curves) > 1:
            place.set_title(printable(model), loc="left", fontsize=13, color=INK, pad=14)
        _draw_panel(place, {site: sorted(points) for site, points in found.items()}, run)
    for place, found in zip(
        axes.flat, curves.values(), strict=False
    ):  # when the axis that all share is as high as ever
        _name_curves(place, {site: max(points)[1] for site, points in found.items()}, run, _room(width, num_columns))
    for place in axes.flat[len(curves) :]:
        place.set_axis_off()
    return figure


def _room(width: int, num_columns: int) -> int:
    """Letters that a direct label may have."""
    return 26 if width == WIDE and num_columns == 1 else 13


def _draw_panel(place: Axes, curves: Mapping[str, Sequence[tuple[int, float]]], run: Run) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator

    colours = _colours(run, sorted(curves))
    for site in sorted(curves, key=lambda site: (colours[site] != GREY, colours[site] in (WORST, BEST))):
        colour = colours[site]
        rounds, values = zip(*curves[site], strict=True)
        is_grey = colour == GREY
        place.plot(rounds, values, color=colour, linewidth=1 if is_grey else 2, alpha=0.7 if is_grey else 1,
                   marker="o" if len(rounds) == 1 else None, solid_capstyle="round")  # fmt: skip
    first, last = (bound(r for points in curves.values() for r, _ in points) for bound in (min, max))
    alone = 0.5 * (first == last)
    place.set_xlim(first - alone, last + alone)
    kept = run.summary.get("kept_round")
    if kept and first < last:
        place.axvline(kept, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        side = "left" if kept < first + (last - first) / 3 else "right"  # never beside the names on the right
        place.annotate(f"kept: round {kept}", (kept, 1), (0, 4), xycoords=("data", "axes fraction"), fontsize=12,
                       textcoords="offset points", ha=side, color=MUTED)  # fmt: skip
    place.grid(axis="y", linewidth=1)
    place.tick_params(length=0)
    place.tick_params(axis="x", labelbottom=True)  # every panel, though they share the axis
    place.xaxis.set_major_locator(FixedLocator([first]) if alone else MaxNLocator(6, integer=True))
    place.yaxis.set_major_locator(MaxNLocator(5))
    place.set_xlabel("round")


def _name_curves(place: Axes, ends: Mapping[str, float], run: Run, room: int) -> None:
    """Beside the ends of the curves, their last values by site."""
    colours = _colours(run, sorted(ends))
    named = {site: end for site, end in ends.items() if colours[site] != GREY}
    name_ends(place, named, {site: short(site, room) for site in named}, colours)


def name_ends(place: Axes, ends: Mapping[str, float], labels: Mapping[str, str], colours: Mapping[str, str]) -> None:
    """Labels beside the ends of curves, by their last values, so that none meets another."""
    for name, height in _spread(place, ends):
        place.annotate(labels[name], (1, height), (8, 0), xycoords="axes fraction", textcoords="offset points",
                       va="center", color=colours[name])  # fmt: skip


def _spread(place: Axes, ends: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """(name, height as a fraction of the axes) of labels, from the lowest."""
    names = sorted(ends, key=lambda name: (ends[name], name))
    low, high = place.get_ylim()
    figure = place.get_figure()
    pixels = place.get_position().height * figure.get_figheight() * 72  # type: ignore[union-attr]
    step = min(16 / pixels, 1 / max(1, len(names) - 1))
    heights = [(ends[name] - low) / (high - low) for name in names]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + step)
    ceiling = 1.0
    for index in range(len(heights) - 1, -1, -1):
        heights[index] = ceiling = min(heights[index], ceiling)
        ceiling -= step
    return zip(names, heights, strict=True)


def draw_boxes(run: Run, width: int) -> Figure | None:
    """Dice of every case by site, the worst site on top: quartiles as a box, whiskers to 1.5 interquartile ranges."""
    from matplotlib.cbook import boxplot_stats
    from matplotlib.figure import Figure

    scores: dict[str, list[float]] = {}
    for (_, site, model, _, metric), means in case_means(run.cases).items():
        if (model, metric) == (run.model_at(site), "dice") and site in run.sites:
            scores[site] = [value for _, value in sorted(means.items()) if value is not None]
    sites = [site for site in run.sites if scores.get(site)]
    if not sites:
        return None
    limit = 30 if width == WIDE else 15
    left = 14 + LETTER * max(len(short(site, limit)) for site in sites)
    step = 34 if len(sites) <= 20 else 20
    is_long = len(sites) > 20  # then the scale stands above, too
    head = 26 if is_long else 4
    height = 46 + head + step * len(sites)
    figure = Figure(figsize=(width / 72, height / 72))
    place = figure.add_axes((left / width, 46 / height, 1 - (left + 14) / width, 1 - (46 + head) / height))
    colours = _colours(run, sites)
    most = max(20, 3000 // len(sites))  # points of a site: a page of 64 large sites must stay small
    for row, site in enumerate(sites):
        colour = colours[site] if colours[site] in (WORST, BEST) else GREY
        box = boxplot_stats(scores[site])[0]
        place.hlines(row, box["whislo"], box["whishi"], color=colour, linewidth=1.5)
        place.barh(row, box["q3"] - box["q1"], left=box["q1"], height=0.56, color=colour, alpha=0.28, linewidth=0)
        place.vlines(box["med"], row - 0.28, row + 0.28, color=colour, linewidth=2.5)
        points = np.sort(scores[site])[np.unique(np.linspace(0, len(scores[site]) - 1, most).round().astype(int))]
        jitter = (np.arange(len(points)) * 0.618 % 1 - 0.5) * 0.44  # golden ratio: even, and the same every time
        place.plot(points, row + jitter, "o", color=colour, markersize=4, markeredgewidth=0, alpha=0.8)
    place.set_ylim(len(sites) - 0.4, -0.6)
    place.set_yticks(range(len(sites)), [short(site, limit) for site in sites], color=INK)
    place.grid(axis="x", linewidth=1)
    place.tick_params(length=0)
    place.tick_params(axis="x", labeltop=is_long)
    place.set_xlabel("Dice of a case")
    return figure


def _colours(run: Run, sites: Sequence[str]) -> dict[str, str]:
    """The worst and the best member stand out in every drawing; the others have a colour each if they are few."""
    members = [site for site, found in run.sites.items() if found["role"] == "member"] or list(run.sites)
    ends = {members[0]: WORST, members[-1]: BEST} if len(members) > 1 else {}
    others = [site for site in sites if site not in ends]
    few = COLOURS if len(others) <= len(COLOURS) else ()
    return dict.fromkeys(others, GREY) | dict(zip(others, few, strict=False)) | ends
