"""Put the result tables of launch/results into the README: python launch/readme_tables.py

What stands between `<!-- table STUDY, HEADING: COLUMN, SHOWN=COLUMN, ... -->` and `<!-- end -->` becomes those columns
of that table of launch/results/STUDY.md, which `bash launch/record.sh runs/STUDY` wrote.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- table (\w+), ([^:>]+): ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def cells(line: str) -> list[str]:
    """Of a row of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, the first one its head."""
    below = text.split(f"\n## {heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)[0].splitlines()
    return [cells(lines[0]), *map(cells, lines[2:])]


def chosen(rows: list[list[str]], columns: str) -> str:
    """The first column and those that are named, as Markdown."""
    names = [name.strip().rpartition("=")[::2] for name in columns.split(",")]
    places = [0, *(rows[0].index(name.replace("_", r"\_")) for _, name in names)]
    head = [shown or name for shown, name in names]
    lines = [["---"] * len(places), *([row[place] for place in places] for row in rows[1:])]
    return "".join([f"| | {' | '.join(head)} |\n", *(f"| {' | '.join(line)} |\n" for line in lines)])


def filled(readme: str, results: Path = ROOT / "launch" / "results") -> str:
    """The README with its tables as they are recorded."""

    def block(found: re.Match) -> str:
        begin, study, heading, columns, end = found.groups()
        text = (results / f"{study}.md").read_text(encoding="utf-8")
        return f"{begin}{chosen(table(text, heading), columns)}{end}"

    return BLOCK.sub(block, readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
