"""What `fedlit partition` does and says in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit.errors import BadInput
from fedlit.inspection.telling import progress
from fedlit.partition.base import Rule
from fedlit.partition.field import Field
from fedlit.partition.rules import RULES
from fedlit.partition.writing import Partition, partition, write_partition
from fedlit.provenance import printable

OPTIONS = {"of": "--of", "alpha": "--alpha", "bins": "--bins", "shards": "--shards", "name": "--field"}


def partition_folder(
    folder: Path,
    out: Path,
    rule: Rule,
    *,
    file: str,
    num_sites: int | None,
    seed: int,
    background: int,
    overwrite: bool,
    console: Console,
) -> None:
    """Write the manifest `out` of the cases of `folder/file`, tell its sites and how it is used.

    Raises:
        BadInput: as `partition` and `write_partition`.
    """
    if out.resolve() == (folder / file).resolve():
        raise BadInput(f"{out} is the pooled manifest itself; choose another name")
    if num_sites is None and not isinstance(rule, Field):
        raise BadInput("--sites is missing: how many are to be made? Only --by field takes them from its values")
    with progress() as bar:
        task = bar.add_task("measuring", total=None)
        made = partition(
            folder,
            rule,
            file=file,
            num_sites=num_sites,
            seed=seed,
            background=background,
            advance=lambda done, total: bar.update(task, completed=done, total=total),
        )
    note = write_partition(made, out, overwrite=overwrite)
    console.print(_table(made))
    if several := made.note["patients_with_several_values"]:
        text = f"patients with several values, whole with the one of most files: {len(several)}, named in {note}"
        console.print(Text(text), soft_wrap=True)
    inside = out.resolve().is_relative_to(folder.resolve())
    where = out.resolve().relative_to(folder.resolve()) if inside else out.resolve()
    console.print(Text(f"use it with data.root={folder} data.file={where}"), soft_wrap=True)


def rule_of(by: str, options: Mapping[str, Any]) -> Rule:
    """The rule of this name with the options that were given (not None).

    Raises:
        BadInput: an option belongs to another rule, one is missing or has a wrong value.
    """
    given = {name: value for name, value in options.items() if value is not None}
    allowed = [field.name for field in fields(RULES[by])]
    if strangers := [OPTIONS[name] for name in given if name not in allowed]:
        own = ", ".join(OPTIONS[name] for name in allowed) or "no option"
        raise BadInput(f"--by {by} does not know {', '.join(strangers)}; it takes {own}")
    if by == "field" and "name" not in given:
        raise BadInput("--by field needs --field: the column of the manifest whose values are the sites")
    try:
        return RULES[by](**given)
    except ValueError as error:
        raise BadInput(f"--by {by}: {error}") from None


def _table(made: Partition) -> Table:
    sites = made.note["sites"]
    table = Table(box=None, pad_edge=False)
    table.add_column("site")
    for name in next(iter(sites.values())):
        table.add_column(name, justify="right", no_wrap=True)
    for site, numbers in sites.items():
        shown = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in numbers.values())
        table.add_row(Text(printable(site)), *shown)
    return table
