"""Collected runs on the terminal, as CSV in full precision, and as Markdown or LaTeX to paste."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from fedlit.collect import SCORES
from fedlit.errors import BadInput
from fedlit.files import write_atomically
from fedlit.grouping import Spread, Table
from fedlit.text_table import Cell, TextTable


def rounded(spread: Spread) -> str:
    """`0.847 ± 0.012`; without a spread over one seed, empty over none."""
    if spread.mean is None:
        return ""
    return f"{spread.mean:.3f}" + (f" ± {spread.std:.3f}" if spread.std is not None else "")


def as_csv(table: Table) -> str:
    """Mean and std in columns of their own, to the last bit; an empty cell is unknown."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name.replace(" ", "_") for name in SCORES]
    writer.writerow([*table.keys, "seeds", *(f"{name}_{kind}" for name in names for kind in ("mean", "std"))])
    for group in table.groups:
        spreads = [group.scores[name] for name in SCORES]
        numbers = [number for spread in spreads for number in (spread.mean, spread.std)]
        writer.writerow([*group.labels, group.num_seeds, *("" if each is None else repr(each) for each in numbers)])
    return text.getvalue()


def as_markdown(table: Table) -> str:
    """A table of Markdown, rounded to three decimals."""
    return as_text(table).as_markdown()


def as_latex(table: Table) -> str:
    """A tabular of LaTeX, rounded to three decimals."""
    return as_text(table).as_latex()


def show(table: Table, console: Console) -> None:
    """Print it, each key folded to the width of the terminal."""
    as_text(table).show(console)


WRITERS: dict[str, Callable[[Table], str]] = {".csv": as_csv, ".md": as_markdown, ".tex": as_latex}


def check_suffix(path: Path) -> None:
    """Raises BadInput where no table is written in the format of this name."""
    if path.suffix.lower() not in WRITERS:
        raise BadInput(f"--out={path}: the suffix says the format; allowed are {', '.join(WRITERS)}")
    if not path.parent.is_dir():
        raise BadInput(f"--out={path}: there is no folder {path.parent}")


def write(table: Table, path: Path) -> None:
    """Write it in the format of the file's suffix."""
    write_atomically(path, WRITERS[path.suffix.lower()](table))


def as_text(table: Table) -> TextTable:
    """The header and all lines, without scores that nothing has."""
    scores = [name for name in SCORES if any(group.scores[name].mean is not None for group in table.groups)]
    keys = [key.removesuffix("._target_") for key in table.keys]
    rows = [
        [*group.labels, str(group.num_seeds), *(rounded(group.scores[name]) for name in scores)]
        for group in table.groups
    ]
    return TextTable([*keys, "seeds", *scores], [[Cell(text) for text in row] for row in rows], num_left=len(keys))
