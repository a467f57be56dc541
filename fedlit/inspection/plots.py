"""The drawings of the shift between sites: intensities, a map of the cases, and how much is foreground."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedlit.inspection.inspecting import Inspection
from fedlit.inspection.measuring import NUM_BINS
from fedlit.inspection.summarising import SiteSummary
from fedlit.report.svg import BEST, GREY, INK, LETTER, MUTED, WIDE, WORST, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 6000  # in all panels of a drawing together, so that a page of many sites stays small


def draw_histograms(sites: Sequence[SiteSummary], width: int) -> Figure | None:
    """A panel for each site: its histogram of intensities, and the mean of the other sites' as a line."""
    if not sites:
        return None
    figure, places = _panels(len(sites), width, height=104)
    centres = (np.arange(NUM_BINS) + 0.5) / NUM_BINS
    top = max(float(site.histogram[1:-1].max()) for site in sites) * 1.1 or 1.0
    for number, (place, site) in enumerate(zip(places, sites, strict=True)):
        colour = WORST if number == 0 and len(sites) > 1 else BEST
        place.fill_between(centres, site.histogram, color=colour, alpha=0.3, linewidth=0)
        place.plot(centres, site.histogram, color=colour, linewidth=1.5)
        others = [other.histogram for other in sites if other is not site]
        if others:
            place.plot(centres, np.mean(others, axis=0), color=GREY, linewidth=1.2, linestyle=(0, (4, 2)))
        _title(place, site.name, width)
        place.set_xlim(0, 1)
        place.set_ylim(0, top)
        place.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        place.set_yticks([])
    return figure


def draw_map(inspection: Inspection, width: int) -> Figure | None:
    """A panel for each site: its cases among all others, in the plane of the two principal components."""
    found, sites = inspection.map, inspection.sites
    if found is None:
        return None
    figure, places = _panels(len(sites), width, height=150)
    owners = np.array([look.row.site for look in inspection.cases])
    all_points = _sample(found.places, max(60, MOST_POINTS // (2 * len(sites))))
    low, high = np.quantile(found.places, (0.005, 0.995), axis=0)
    margin = 0.08 * (high - low) + 1e-6
    bounds = np.stack([low - margin, high + margin])
    for number, (place, site) in enumerate(zip(places, sites, strict=True)):
        own = _sample(found.places[owners == site.name], max(60, MOST_POINTS // (2 * len(sites))))
        colour = WORST if number == 0 and len(sites) > 1 else BEST
        for points, shown, size, alpha in ((all_points, GREY, 2.5, 0.45), (own, colour, 4, 0.85)):
            across, up = np.clip(points, *bounds).T  # few lie far outside: they stand on the edge
            place.plot(across, up, "o", color=shown, markersize=size, markeredgewidth=0, alpha=alpha, clip_on=False)
        _title(place, site.name, width)
        place.set_xlim(*bounds[:, 0])
        place.set_ylim(*bounds[:, 1])
        place.set_xticks([])
        place.set_yticks([])
        place.spines["bottom"].set_visible(False)
        place.axhline(0, color=GREY, linewidth=0.5, alpha=0.6)
        place.axvline(0, color=GREY, linewidth=0.5, alpha=0.6)
    return figure


def draw_foreground(sites: Sequence[SiteSummary], width: int) -> Figure | None:
    """A row for each site: every case's share of foreground, and the median."""
    from matplotlib.figure import Figure

    if not sites:
        return None
    limit = 30 if width == WIDE else 15
    left = 14 + LETTER * max(len(short(site.name, limit)) for site in sites)
    step = 30 if len(sites) <= 20 else 20
    height = 46 + 8 + step * len(sites)
    figure = Figure(figsize=(width / 72, height / 72))
    place = figure.add_axes((left / width, 46 / height, 1 - (left + 14) / width, 1 - 54 / height))
    most = max(40, MOST_POINTS // (2 * len(sites)))
    for row, site in enumerate(sites):
        colour = WORST if row == 0 and len(sites) > 1 else BEST
        points = 100 * _sample(site.foreground, most)
        jitter = (np.arange(len(points)) * 0.618 % 1 - 0.5) * 0.5  # golden ratio: even, and the same every time
        place.plot(points, row + jitter, "o", color=colour, markersize=3.5, markeredgewidth=0, alpha=0.45)
        place.vlines(100 * float(np.median(site.foreground)), row - 0.36, row + 0.36, color=INK, linewidth=2)
    place.set_xlim(left=0)
    place.set_ylim(len(sites) - 0.4, -0.6)
    place.set_yticks(range(len(sites)), [short(site.name, limit) for site in sites], color=INK)
    place.grid(axis="x", linewidth=1)
    place.tick_params(length=0)
    place.set_xlabel("foreground, % of the picture")
    return figure


def _panels(number: int, width: int, *, height: int) -> tuple[Figure, list[Axes]]:
    """A figure of small panels, four or two in a row, each so many CSS pixels high under its title."""
    from matplotlib.figure import Figure

    columns = min(number, 4 if width == WIDE else 2)
    rows = math.ceil(number / columns)
    title, below, gap = 26, 26, 24
    across = (width - gap * ((4 if width == WIDE else 2) - 1)) / (4 if width == WIDE else 2)
    total = rows * (title + height + below)
    figure = Figure(figsize=(width / 72, total / 72))
    places = []
    for place in range(number):
        row, column = divmod(place, columns)
        bottom = total - row * (title + height + below) - title - height
        axes = figure.add_axes((column * (across + gap) / width, bottom / total, across / width, height / total))
        axes.tick_params(length=0, labelsize=11, labelcolor=MUTED)
        places.append(axes)
    return figure, places


def _title(place: Axes, name: str, width: int) -> None:
    place.set_title(short(name, 24 if width == WIDE else 17), loc="left", fontsize=13, color=INK, pad=6)


def _sample(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the values, evenly from first to last."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(int)]
