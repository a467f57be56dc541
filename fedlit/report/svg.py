"""Figures as parts of the page: SVG in the colours of the page, for wide and for narrow screens."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from fedlit.provenance import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LETTER = 8.2  # CSS pixels a letter of 13 pixels may be wide; which font the reader has is not known
WIDE, NARROW = 1000, 342  # CSS pixels of a drawing on a desktop page and on a phone

# Colours are placeholders that become CSS variables of the page, so one drawing serves the light and the dark scheme.
INK, MUTED, RULE, GREY = "#010101", "#010102", "#010103", "#010104"
WORST, BEST = "#010105", "#010106"
COLOURS = ("#010107", "#010108", "#010109", "#01010a", "#01010b")
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", GREY: "grey", WORST: "worst", BEST: "best"}
VARIABLES |= {colour: f"series-{index}" for index, colour in enumerate(COLOURS, 1)}


def drawings(name: str, draw: Callable[[int], Figure | None]) -> list[tuple[str, Any]]:
    """(class, SVG) of a drawing for wide and for narrow pages, of which the style sheet shows one; maybe empty."""
    import matplotlib as mpl
    from markupsafe import Markup

    style: Any = {
        "svg.fonttype": "none", "text.parse_math": False, "font.size": 13, "axes.edgecolor": RULE,
        "axes.labelcolor": MUTED, "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED, "text.color": INK, "grid.color": RULE, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    }  # fmt: skip
    made = []
    for kind, width in (("wide", WIDE), ("narrow", NARROW)):
        with mpl.rc_context({**style, "svg.hashsalt": f"{name}-{kind}"}), warnings.catch_warnings():
            # A name in a script that matplotlib's font lacks: the browser has the glyph, only its width is a guess.
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            figure = draw(width)
            if figure is None:
                return []
            text = io.StringIO()
            # Without a date the same run directory gives the same page.
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        made.append((kind, Markup(_inline(text.getvalue(), f"{name}-{kind}"))))  # matplotlib has escaped the names
    return made


def _inline(svg: str, prefix: str) -> str:
    """An SVG file as a part of the page: own ids, colours of the page, as wide as its place."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(?<= id=")|(?<=url\(#)|(?<=href="#)', f"{prefix}-", svg)
    svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img" aria-hidden="true">', svg, count=1)
    return re.sub("#0101[0-9a-f]{2}", lambda found: f"var(--{VARIABLES[found.group()]})", svg)


def short(name: str, limit: int) -> str:
    """A name of at most so many letters."""
    name = printable(name)
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def short_apart(names: Sequence[str], limit: int) -> list[str]:
    """Names of at most so many letters each, without the folder they share; what differs is cut last."""
    names = [printable(name) for name in names]
    folder = names[0].rfind("/", 0, _num_alike(names)) + 1
    names = [name[folder:] for name in names]
    begin, end = _num_alike(names), _num_alike([name[::-1] for name in names])
    return [_cut(name, limit, begin, end) for name in names]


def _num_alike(names: Sequence[str]) -> int:
    """How many letters all begin with."""
    return sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))


def _cut(name: str, limit: int, begin: int, end: int) -> str:
    """At most `limit` letters: of the first `begin` goes what must, then the last `end`, then the middle."""
    if len(name) > limit and begin:
        name = f"…{name[min(len(name) - limit + 1, begin) :]}"
    if len(name) > limit and end:
        name = f"{name[:-end]}…"
    half = (limit - 1) // 2
    return name if len(name) <= limit else f"{name[: limit - 1 - half]}…{name[-half:]}"
