"""What `fedlit inspect` says in the terminal: the sites, what was found, where the page is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedlit.errors import BadInput
from fedlit.inspection.inspecting import Inspection, inspect
from fedlit.inspection.page import write_page
from fedlit.provenance import printable

MOST_LINES = 8  # of errors and of warnings; all stand on the page


def inspect_folder(
    folder: Path,
    *,
    file: str,
    out: Path | None,
    with_pictures: bool,
    background: int,
    intensity: str,
    num_workers: int | None,
    console: Console,
) -> None:
    """Look at the data, write the page (inspection.html in the folder by default) and tell what was found.

    Raises:
        BadInput: the data have an error, which the page names, or there can be no page.
    """
    page = out or folder / "inspection.html"
    if folder.is_dir():  # else the manifest's own message says so
        _admit(page)
    with progress() as bar:
        task = bar.add_task("looking", total=None)
        found = inspect(
            folder,
            file=file,
            background=background,
            intensity=intensity,
            num_workers=num_workers,
            advance=lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_page(found, page, with_pictures=with_pictures, num_workers=num_workers)
    tell(found, console)
    kept = "" if with_pictures else " (without pictures)"
    console.print(Text(f"page: {page}{kept}"), soft_wrap=True)
    if number := len(found.errors):
        raise BadInput(
            f"{number} error{'s' * (number > 1)} in {found.root / found.file}: a run that trains with these sites would"
            " refuse them; correct what is named above"
        )


def tell(found: Inspection, console: Console) -> None:
    """A table of the sites, then errors and warnings, a line each."""
    if found.sites:
        console.print(_fitting_table(found, console))
    for findings, name, style in ((found.errors, "error", "red"), (found.warnings, "warning", "yellow")):
        for finding in findings[:MOST_LINES]:
            console.print(Text(f"{name} | {printable(finding.text)}", style=style), soft_wrap=True)
        if len(findings) > MOST_LINES:
            console.print(Text(f"and {len(findings) - MOST_LINES} more {name}s on the page", style=style))
    if not found.findings:
        console.print("nothing suspicious was found")


def progress() -> Progress:
    """A bar on stderr that vanishes when it is done; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _fitting_table(found: Inspection, console: Console) -> Table:
    """The table without the columns that a narrow terminal has no room for; all stand on the page."""
    counted = ("cases", "volumes", "pictures") if any(site.num_volumes for site in found.sites) else ("cases",)
    names = [*counted, "patients", "size", "brightness", "foreground", "distance"]
    unbounded = console.options.update(width=1000)  # else a table is never wider than the console
    for name in ("brightness", "size", "patients", ""):
        table = _table(found, names)
        if not name or Measurement.get(console, unbounded, table).minimum <= console.width:
            break
        names.remove(name)
    return table


def _table(found: Inspection, names: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("site", *names):
        table.add_column(name, justify="left" if name == "site" else "right", no_wrap=name != "site")
    for site in found.sites:
        cells = {
            "size": site.sizes,
            "brightness": f"{site.brightness:.2f}",
            "foreground": site.middle_half,
            "distance": "–" if site.distance is None else f"{site.distance:.3f}",
        } | {name: str(getattr(site, f"num_{name}")) for name in ("cases", "volumes", "pictures", "patients")}
        table.add_row(Text(printable(site.name)), *(cells[name] for name in names))
    return table


def _admit(page: Path) -> None:
    """Raises `BadInput` where the page could not be written, before the pictures are looked at."""
    if page.is_dir():
        raise BadInput(f"{page} is a folder; give --out the name of a file, such as {page / 'inspection.html'}")
    if not page.parent.is_dir():
        raise BadInput(f"{page.parent} is no folder; make it, or give --out another place")
    if not os.access(page.parent, os.W_OK):
        raise BadInput(f"{page.parent} cannot be written; give --out another place, one where these pictures may lie")
