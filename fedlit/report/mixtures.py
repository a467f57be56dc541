"""The drawing of mixtures: which member each unseen case resembles, by the gates that routing.csv holds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedlit.report.reading import Run
from fedlit.report.svg import BEST, INK, LETTER, MUTED, NARROW, WORST, short, short_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 10  # cases of a site that are drawn, an even sample; its mean is over all
STEP = 22  # CSS pixels a row
DIGIT = 7  # CSS pixels a letter of a number may be wide
FAINT = 0.1  # a drawing whose gates are all below is pale
CLEAR = 0.1  # of the largest gate of a drawing: by so much the strongest of a row is ahead where it is bold
PALEST, DARKEST = 0.06, 0.54  # numbers on darker fields would have a contrast below 4.5 in the dark scheme
Gates = Mapping[str, Mapping[str, Mapping[str, float]]]
"""site -> case -> member -> mean over the layers."""
Row = tuple[str, list[float], bool]
"""(label, a value a member, whether it is the mean of the site)."""


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


def members_of(gates: Gates) -> list[str]:
    """All that some case is mixed of, by name."""
    return sorted({member for cases in gates.values() for found in cases.values() for member in found})


def starts_at_global(gates: Gates) -> bool:
    """Gates are added to the global model, which is then not among what is mixed."""
    return "global" not in members_of(gates)


def draw_mixture(gates: Gates, width: int) -> Figure | None:
    """A row for every case (and for the mean of its site), a column for every member, the darker the more.

    Numbers stand where they have room; else it is said below what the full colour means.
    """
    from matplotlib.figure import Figure

    members = members_of(gates)
    if not members:
        return None
    limit = 26 if width != NARROW else 12
    rows = [row for site in sorted(gates) for row in _rows(site, gates[site], members, limit)]
    largest = max(FAINT, *(abs(value) for _, values, _ in rows for value in values))
    digits = 2 if largest > FAINT else 3  # what is pale differs by thousandths
    numbers = [[f"{value:z.{digits}f}" for value in values] for _, values, _ in rows]
    left = 14 + LETTER * max(len(name) for name, _, _ in rows)
    head = 16 + LETTER * max(len(short(name, 20)) for name in members)
    is_roomy = (width - left - 8) / len(members) >= DIGIT * max(len(text) for texts in numbers for text in texts)
    foot = 8 if is_roomy else 30
    height = head + STEP * len(rows) + foot
    figure = Figure(figsize=(width / 72, height / 72))
    place = figure.add_axes((left / width, foot / height, 1 - (left + 8) / width, STEP * len(rows) / height))
    for row, ((_, values, is_mean), texts) in enumerate(zip(rows, numbers, strict=True)):
        for column, value in enumerate(values):
            _draw_field(place, row, column, value / largest, height=0.86 if is_mean else 0.7)
            if is_roomy:
                weight = "bold" if column == _strongest(values, CLEAR * largest) else "normal"
                place.text(column, row, texts[column], ha="center", va="center", fontsize=11, color=INK, weight=weight)
    if not is_roomy:
        place.set_xlabel(f"full colour: {largest:.2f} from 0")
    _name_fields(place, rows, members)
    return figure


def _rows(site: str, cases: Mapping[str, Mapping[str, float]], members: Sequence[str], limit: int) -> list[Row]:
    names = sorted(cases)
    drawn = [names[round(place * (len(names) - 1) / max(1, min(MOST, len(names)) - 1))]
             for place in range(min(MOST, len(names)))]  # fmt: skip
    mean = [statistics.fmean(cases[name].get(member, 0.0) for name in names) for member in members]
    values = [[cases[name].get(member, 0.0) for member in members] for name in drawn]
    of_cases = zip(short_apart(drawn, limit), values, strict=True)
    return [(short(site, limit), mean, True), *((label, found, False) for label, found in of_cases)]


def _strongest(values: Sequence[float], lead: float) -> int | None:
    """The place of the largest value, if that is above 0 and by `lead` above the others."""
    *others, largest = sorted(values)
    return values.index(largest) if others and largest > 0 and largest - others[-1] >= lead else None


def _draw_field(place: Axes, row: int, column: int, share: float, *, height: float) -> None:
    """A field as dark as its share of the largest gate, from -1 to 1."""
    from matplotlib.patches import Rectangle

    colour, alpha = BEST if share >= 0 else WORST, PALEST + (DARKEST - PALEST) * abs(share)
    corner = column - 0.47, row - height / 2
    place.add_patch(Rectangle(corner, 0.94, height, color=colour, alpha=alpha, linewidth=0))


def _name_fields(place: Axes, rows: Sequence[Row], members: Sequence[str]) -> None:
    place.set_xlim(-0.5, len(members) - 0.5)
    place.set_ylim(len(rows) - 0.5, -0.5)
    place.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    for label, (_, _, is_mean) in zip(place.get_yticklabels(), rows, strict=True):
        label.set_color(INK if is_mean else MUTED)
    place.xaxis.tick_top()
    place.set_xticks(range(len(members)), [short(name, 20) for name in members], rotation=90, color=INK)
    place.tick_params(length=0)
    place.spines["bottom"].set_visible(False)
