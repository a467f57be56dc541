"""A table of text: on the terminal, as Markdown and as LaTeX to paste."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit.provenance import printable

LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}"}  # a bracket after \\ is a length
LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


class Cell(NamedTuple):
    """What stands in a cell; a mark follows it, such as `*`."""

    text: str
    is_best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class TextTable:
    """Rows of cells below a head, and below a line those at the foot; the first columns stand left, numbers right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = ()
    num_left: int = 1

    def as_markdown(self) -> str:
        """A table of Markdown; its last rows are the foot."""
        bar = [":--" if column < self.num_left else "--:" for column in range(len(self.head))]
        lines = [[_markdown(Cell(text)) for text in self.head], bar]
        lines += [[_markdown(cell) for cell in row] for row in (*self.rows, *self.foot)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def as_latex(self) -> str:
        r"""A tabular with the rules of \usepackage{booktabs}."""
        head, *lines = (
            " & ".join(map(_latex, row)) + r" \\" for row in ([Cell(text) for text in self.head], *self.rows)
        )
        foot = [r"\midrule", *(" & ".join(map(_latex, row)) + r" \\" for row in self.foot)] if self.foot else []
        columns = "l" * self.num_left + "r" * (len(self.head) - self.num_left)
        body = [r"\toprule", head, r"\midrule", *lines, *foot, r"\bottomrule"]
        return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}", ""])

    @property
    def width(self) -> int:
        """Characters of its longest line on a terminal that folds nothing."""
        rows = [[Cell(text) for text in self.head], *self.rows, *self.foot]
        return sum(2 + max(len(cell.text + cell.mark) for cell in column) for column in zip(*rows, strict=True)) - 2

    def show(self, console: Console) -> None:
        """Print it; text is folded to the width of the terminal, and no number cut."""
        grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
        for column, title in enumerate(self.head):
            is_left = column < self.num_left
            grid.add_column(Text(printable(title)), justify="left" if is_left else "right", overflow="fold")
        for row in self.rows:
            grid.add_row(*(Text(printable(cell.text + cell.mark), "bold" if cell.is_best else "") for cell in row))
        for row in self.foot:
            grid.add_row(*(Text(printable(cell.text + cell.mark), "dim") for cell in row))
        console.print(grid)


def _markdown(cell: Cell) -> str:
    text, mark = (re.sub(r"([\\|*_`<>])", r"\\\1", part) for part in (cell.text, cell.mark))
    return (f"**{text}**" if cell.is_best else text) + (f" {mark}" if mark else "")


def _latex(cell: Cell) -> str:
    text, mark = ("".join(LATEX.get(letter, letter) for letter in part) for part in (cell.text, cell.mark))
    return (rf"\textbf{{{text}}}" if cell.is_best else text) + (f"$^{{{mark}}}$" if mark else "")
