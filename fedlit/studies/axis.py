"""The tables of a study with columns of its own: what each method scores under each of them, over all sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedlit.studies.numbers import AXIS, MEAN, WORST, Column, Design, Row
from fedlit.studies.table import Line, Scored, Value, scored


def scored_by_column(
    rows: Sequence[Row], design: Design, metric: str, absent: Mapping[tuple[str, str], str]
) -> list[Scored]:
    """A table of the means over sites, and one of the worst site, each with a column for every one of the design's.

    Within a column all is as in a table of its own: the best, the tests against the reference and their correction.

    Args:
        absent: (method, column) -> what stands there where there is no number: `not defined`, `failed`.
    """
    parts = {name: _of_column(rows, design, metric, name) for name in design.axis}
    kinds: list[Column] = [("site", site) for site in design.sites]  # none while no run is finished
    if len(kinds) > 1:
        kinds = [(MEAN, ""), (WORST, "")]
    return [_gathered(rows, design, parts, kind, absent) for kind in kinds]


def _of_column(rows: Sequence[Row], design: Design, metric: str, name: str) -> Scored:
    own = [
        replace(row, results={(None, seed): found for (fold, seed), found in row.results.items() if fold == name})
        for row in rows
    ]
    return scored(own, replace(design, folds=(None,), axis=()), metric)


def _gathered(
    rows: Sequence[Row],
    design: Design,
    parts: Mapping[str, Scored],
    kind: Column,
    absent: Mapping[tuple[str, str], str],
) -> Scored:
    """One kind of value of all columns."""
    lines = []
    for place, row in enumerate(rows):
        values: dict[Column, Value] = {}
        for name, part in parts.items():
            value = part.lines[place].values[kind]
            why = absent.get((row.name, name), "") if value.spread.mean is None else ""
            values[AXIS, name] = replace(value, absent=why, untested=why) if why else value
        lines.append(Line(row, values))
    first = next(iter(parts.values()))
    counts = [part.num_patients for part in parts.values()]
    return Scored(
        metric=first.metric,
        design=design,
        lines=tuple(lines),
        num_cases={(AXIS, name): part.num_cases[kind] for name, part in parts.items()},
        num_patients=None
        if None in counts
        else {(AXIS, name): found[kind] for name, found in zip(parts, counts, strict=True) if found is not None},
        remarks=tuple(dict.fromkeys(remark for part in parts.values() for remark in part.remarks)),
        has_one_unit=all(part.has_one_unit for part in parts.values()),
        of_sites=kind[0] if kind[0] in (MEAN, WORST) else "",
    )
