"""The drawing of mixtures: which member each unseen case resembles, by the gates that routing.csv holds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedlit.report.reading import Run
from fedlit.report.svg import BEST, INK, LETTER, MUTED, NARROW, WORST, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 10  # cases of a site that are drawn, an even sample; its mean is over all
STEP = 22  # CSS pixels a row
FAINT = 0.1  # a drawing whose gates are all below is pale
Gates = Mapping[str, Mapping[str, Mapping[str, float]]]
"""site -> case -> member -> mean over the layers."""


def mixture_models(run: Run) -> dict[str, Gates]:
    """By model, how much of each member went into each case, the mean over layers."""
    found: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list))))
    for row in run.gates:
        found[row.model][row.site][row.case][row.member].append(row.value)
    return {
        model: {
            site: {
                case: {member: statistics.fmean(values) for member, values in members.items()}
                for case, members in cases.items()
            }
            for site, cases in sites.items()
        }
        for model, sites in found.items()
    }


def draw_mixture(gates: Gates, width: int) -> Figure | None:
    """A row for every case (and for the mean of its site), a column for every member, the darker the more."""
    from matplotlib.figure import Figure

    members = sorted({member for cases in gates.values() for found in cases.values() for member in found})
    rows = [row for site in sorted(gates) for row in _rows(site, gates[site], members)]
    if not members:
        return None
    limit = 26 if width != NARROW else 12
    left = 14 + LETTER * max(len(short(name, limit)) for name, _, _ in rows)
    head = 16 + LETTER * max(len(short(name, 20)) for name in members)
    height = head + STEP * len(rows) + 8
    figure = Figure(figsize=(width / 72, height / 72))
    place = figure.add_axes((left / width, 8 / height, 1 - (left + 8) / width, STEP * len(rows) / height))
    largest = max(FAINT, *(abs(value) for _, values, _ in rows for value in values))
    digits = 2 if largest > FAINT else 3  # what is pale differs by thousandths
    for row, (_, values, is_mean) in enumerate(rows):
        for column, value in enumerate(values):
            number = None if width == NARROW else f"{value:z.{digits}f}"
            _draw_cell(place, row, column, value, largest, is_mean, number)
    place.set_xlim(-0.5, len(members) - 0.5)
    place.set_ylim(len(rows) - 0.5, -0.5)
    place.set_yticks(range(len(rows)), [short(name, limit) for name, _, _ in rows])
    for label, (_, _, is_mean) in zip(place.get_yticklabels(), rows, strict=True):
        label.set_color(INK if is_mean else MUTED)
    place.xaxis.tick_top()
    place.set_xticks(range(len(members)), [short(name, 20) for name in members], rotation=90, color=INK)
    place.tick_params(length=0)
    place.spines["bottom"].set_visible(False)
    return figure


def _rows(
    site: str, cases: Mapping[str, Mapping[str, float]], members: Sequence[str]
) -> list[tuple[str, list[float], bool]]:
    """(name, a value a member, whether it is the mean of the site)."""
    names = sorted(cases)
    drawn = [names[round(place * (len(names) - 1) / max(1, min(MOST, len(names)) - 1))]
             for place in range(min(MOST, len(names)))]  # fmt: skip
    mean = [statistics.fmean(cases[name].get(member, 0.0) for name in names) for member in members]
    return [
        (site, mean, True),
        *((name, [cases[name].get(member, 0.0) for member in members], False) for name in drawn),
    ]


def _draw_cell(
    place: Axes, row: int, column: int, value: float, largest: float, is_mean: bool, number: str | None
) -> None:
    from matplotlib.patches import Rectangle

    share = abs(value) / largest
    height = 0.86 if is_mean else 0.7
    place.add_patch(
        Rectangle(
            (column - 0.47, row - height / 2),
            0.94,
            height,
            color=BEST if value >= 0 else WORST,
            alpha=0.06 + 0.84 * share,
            linewidth=0,
        )
    )
    if number is not None:
        place.text(column, row, number, ha="center", va="center", fontsize=11, color=INK)
