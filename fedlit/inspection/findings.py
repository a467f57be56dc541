"""What is wrong or suspicious in the data: errors, which a run would refuse, and warnings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from fedlit.data.checks import MOST_FOREGROUND
from fedlit.data.manifest import Row
from fedlit.inspection.alikeness import NUM_BITS, close_pairs
from fedlit.inspection.cases import place
from fedlit.inspection.measuring import Look

MOST_PAIRS = 200  # of near-duplicates that are named
MANY_VALUES = 16  # of a mask: more look like those of a lossy picture
FAR = 3.5
"""Modified z-scores beyond it are outliers (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993)."""
ENOUGH = 8  # cases of a site, to say what is usual there


@dataclass(frozen=True)
class Finding:
    """A sentence, and the cases to look at.

    Args:
        kind: `error`, or of warnings `alike` (copies), `outlier`, `inverted` (masks) or `warning` (all others).
    """

    kind: str
    text: str
    rows: tuple[Row, ...] = ()

    @property
    def is_error(self) -> bool:
        return self.kind == "error"


def warnings(
    looks: Sequence[Look], cases: Sequence[Look], digests: Mapping[Path, str], *, background: int
) -> list[Finding]:
    """What a run would accept and a person should know, the gravest first. The order of rows does not matter.

    Args:
        looks: at every file, which are compared with each other.
        cases: the same, slices of a volume being one: what is usual is judged of these.
    """
    looks, cases = (sorted(each, key=lambda look: (look.row.site, look.row.name)) for each in (looks, cases))
    found = [*_near_duplicates(looks, digests), *_same_files(looks, digests), *_labels(cases, background)]
    return [*found, *_mixtures(cases), *_outliers(cases)]


def _near_duplicates(looks: Sequence[Look], digests: Mapping[Path, str]) -> Iterator[Finding]:
    patients = [(look.row.site, look.row.group) for look in looks]
    pairs = close_pairs([look.fingerprint for look in looks], patients)
    found = []
    for pair in islice(pairs, 50 * MOST_PAIRS):
        one, two = looks[pair.first].row, looks[pair.second].row
        if digests[one.image] != digests[two.image]:
            found.append((one.split == two.split, one.site == two.site, pair.distance, one, two))
    found.sort(key=lambda item: (*item[:3], item[3].name, item[4].name))
    for same_split, same_site, distance, one, two in found[:MOST_PAIRS]:
        where = [text for is_so, text in ((not same_split, "in two splits"), (not same_site, "at two sites")) if is_so]
        yield Finding(
            "alike",
            f"{_named(one)} and {_named(two)} are nearly the same picture ({distance} of {NUM_BITS} bits differ)"
            f" {' and '.join([*where, 'of two patients'])}; look at both, and give them one patient or leave one out",
            (one, two),
        )
    if len(found) > MOST_PAIRS:
        yield Finding("warning", f"{len(found) - MOST_PAIRS} or more further pairs are nearly the same picture")


def _same_files(looks: Sequence[Look], digests: Mapping[Path, str]) -> Iterator[Finding]:
    """Copies that no run refuses: a picture twice in a split of a site, and one mask for several pictures."""
    pictures: dict[tuple[str, str, str | None], list[Row]] = defaultdict(list)
    masks: dict[str, list[Row]] = defaultdict(list)
    for look in looks:
        pictures[digests[look.row.image], look.row.site, look.row.split].append(look.row)
        if not look.is_empty:
            masks[digests[look.row.mask]].append(look.row)
    for rows in pictures.values():
        if len({row.image for row in rows}) > 1:
            yield Finding("alike", f"{_several(rows)} are the same picture; leave all but one out", tuple(rows[:2]))
    for rows in masks.values():
        if len({digests[row.image] for row in rows}) > 1 and len({place(row) for row in rows}) > 1:
            text = f"{_several(rows)} are different pictures with the same mask; correct the manifest or the masks"
            yield Finding("alike", text, tuple(rows[:2]))


def _labels(looks: Sequence[Look], background: int) -> Iterator[Finding]:
    for site, own in _by_site(looks).items():
        empty = [look.row for look in own if look.is_empty]
        if empty:
            share = f"{len(empty)} of {len(own)} cases have an empty mask"
            yield Finding("warning", f"site {site}: {share}: {_names(empty)}", tuple(empty))
        usual = float(np.median([look.foreground for look in own]))
        if usual > MOST_FOREGROUND:
            yield Finding(
                "inverted",
                f"site {site}: foreground fills {usual:.0%} of the usual picture and looks inverted; is {background}"
                " the value of no class there? Set data.background, or --background here",
            )
        lossy = [look.row for look in own if len(look.values) > MANY_VALUES]
        if lossy:
            yield Finding(
                "warning",
                f"site {site}: the masks of {len(lossy)} cases hold more than {MANY_VALUES} values, as JPEG makes them:"
                f" {_names(lossy)}; store label values in PNG",
            )
    values = {
        site: {value for look in own for value in look.values} - {background} for site, own in _by_site(looks).items()
    }
    distinct = {frozenset(found) for found in values.values() if found and len(found) <= MANY_VALUES}
    if len(distinct) > 1:
        listed = "; ".join(
            f"{site} {', '.join(map(str, sorted(found)[:MANY_VALUES]))}" for site, found in values.items()
        )
        yield Finding("warning", f"mask values differ between sites: {listed}; data.labels must name all of them")


def _mixtures(looks: Sequence[Look]) -> Iterator[Finding]:
    sites = _by_site(looks)
    colours = {site: {look.channels for look in own} for site, own in sites.items()}
    if len({channels for found in colours.values() for channels in found}) > 1:
        grey = [site for site, found in colours.items() if 1 in found]
        colour = [site for site, found in colours.items() if 3 in found]
        yield Finding(
            "warning",
            f"grey pictures at {', '.join(grey)}, colour at {', '.join(colour)}; data.channels makes all of them alike",
        )
    without = [site for site, own in sites.items() if any(look.spacing is None for look in own)]
    if without and any(look.spacing is not None for look in looks):
        text = f"no spacing is known for cases of {', '.join(without)}: distances there are in pixels, not in mm"
        yield Finding("warning", text)


def _outliers(looks: Sequence[Look]) -> Iterator[Finding]:
    found: list[tuple[float, Look, str]] = []
    for own in _by_site(looks).values():
        labelled = [look for look in own if not look.is_empty]
        for name, cases, of, least in (
            ("brightness", own, lambda look: look.brightness, 0.02),
            ("foreground", labelled, lambda look: float(np.log2(look.foreground)), 0.3),
            ("size", own, lambda look: float(np.log2(look.size[0] * look.size[1])), 0.3),
        ):
            values = np.array([of(look) for look in cases])
            usual = float(np.median(values)) if cases else 0.0
            for look, value, score in zip(cases, values, np.abs(robust_scores(values)), strict=True):
                if score > FAR and abs(value - usual) > least:  # where all are nearly equal, a trifle is far
                    found.append((score, look, f"unusual {name} at {look.row.site}: {_told(name, look, usual)}"))
    for score, look, text in sorted(found, key=lambda item: (-item[0], item[1].row.name)):
        yield Finding("outlier", f"{_named(look.row)}: {text} (z {score:.1f})", (look.row,))


def _told(name: str, look: Look, usual: float) -> str:
    if name == "brightness":
        return f"{look.brightness:.2f}, usual {usual:.2f}"
    if name == "foreground":
        return f"{100 * look.foreground:.3g} % of the picture, usual {100 * 2**usual:.3g} %"
    return f"{look.size[0]} x {look.size[1]}, usual {2 ** (usual / 2):.0f} a side"


def robust_scores(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Modified z-scores: distances from the median in units of the spread around it; 0 of fewer than `ENOUGH` values.

    The spread is 1.4826 times the median of absolute deviations, where that is 0 1.2533 times their mean.
    """
    own = np.asarray(values, np.float64)
    if len(own) < ENOUGH:
        return np.zeros(len(own))
    away = own - np.median(own)
    spread = 1.4826 * np.median(np.abs(away)) or 1.2533 * np.abs(away).mean()
    return away / spread if spread > 0 else np.zeros(len(own))


def _by_site(looks: Sequence[Look]) -> dict[str, list[Look]]:
    found: dict[str, list[Look]] = defaultdict(list)
    for look in looks:
        found[look.row.site].append(look)
    return dict(sorted(found.items()))


def _named(row: Row) -> str:
    return f"{row.name} ({', '.join(filter(None, (row.site, row.split, f'line {row.line}')))})"


def _several(rows: Sequence[Row]) -> str:
    return ", ".join(_named(row) for row in rows[:4]) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(row.name for row in rows[:4]) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
