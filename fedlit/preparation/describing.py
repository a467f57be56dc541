"""What OUT says of itself: sites.csv, dataset.json, and the few lines on the terminal."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit import __version__
from fedlit.data.manifest import SPLITS
from fedlit.files import write_atomically, write_json
from fedlit.preparation.cases import Case, Found, Reader, Skipped
from fedlit.preparation.writing import Written
from fedlit.provenance import printable
from fedlit.units import counted

COLUMNS = ("site", "image", "mask", "split", "group", "spacing", "volume", "slice", "slice_spacing", "sha256",
           "mask_sha256")  # fmt: skip
ALWAYS = ("site", "image", "mask", "split", "group", "spacing", "sha256", "mask_sha256")
Done = Sequence[tuple[Case, Written]]


def write_manifest(out: Path, done: Done) -> None:
    """sites.csv, in the order of sites and cases; of slices also volume, slice (from 0) and slice_spacing in mm."""
    records = [
        {"site": case.site, "split": case.split or "", "group": case.group, **row, **_place(case)}
        for case, written in done
        for row in written.rows
    ]
    columns = [name for name in COLUMNS if name in ALWAYS or any(record.get(name) for record in records)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_atomically(out / "sites.csv", stream.getvalue())


def _place(case: Case) -> dict[str, str]:
    return {"volume": case.slice_of[0], "slice": case.slice_of[1]} if case.slice_of else {}


def write_description(out: Path, name: str, reader: Reader, found: Found, done: Done, skipped: Sequence[Skipped],
                      notes: Sequence[str], *, seed: int) -> None:  # fmt: skip
    """dataset.json. It names no time and no place, so that the same source gives the same file."""
    options: dict[str, Any] = asdict(cast(Any, reader)) if is_dataclass(reader) else {}
    dropped = Counter(field for _, written in done for field in written.dropped)
    warnings = sorted({line for _, written in done for line in written.warnings})
    num_blank = sum(written.num_blank for _, written in done)
    about = found.about
    write_json(
        out / "dataset.json",
        {
            "title": about.title,
            "labels": about.labels,
            "background": 0,
            "conventions": [*about.conventions, *notes],
            "licence": about.licence,
            "citation": about.citation,
            "made_by": {"tool": "fedlit prepare", "version": __version__, "data_set": name, "seed": seed,
                        "options": {key: _plain(value) for key, value in options.items()}},
            "sites": counts(done),
            **found.extra,
            **({"dropped_fields": dict(sorted(dropped.items()))} if dropped else {}),
            **({"warnings": warnings} if warnings else {}),
            **({"blank_slices": num_blank} if num_blank else {}),
            "skipped": [{"what": each.what, "reason": each.reason} for each in skipped],
        },
    )  # fmt: skip


def counts(done: Done) -> dict[str, dict[str, int]]:
    """site -> patients, cases and pictures, and the cases of each split."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    patients: dict[str, set[str]] = defaultdict(set)
    for case, written in done:
        found[case.site].update({"cases": 1, "pictures": len(written.rows), str(case.split): 1})
        patients[case.site].add(case.group)
    names = ("cases", "pictures", *SPLITS)
    return {site: {"patients": len(patients[site]), **{key: number[key] for key in names}}
            for site, number in sorted(found.items())}  # fmt: skip


def summary(console: Console, out: Path, found: Found, done: Done, skipped: Sequence[Skipped], notes: Sequence[str],
            *, reused: int) -> None:  # fmt: skip
    """Sites, how masks were read, what was left out, and the lines that a config needs."""
    table = Table("site", box=None, header_style="bold", pad_edge=False)
    names = ("patients", "cases", "pictures", *SPLITS)
    for column in names:
        table.add_column(column, justify="right")
    for site, numbers in counts(done).items():
        table.add_row(Text(printable(site)), *(str(numbers[column]) for column in names))
    console.print(table)
    warnings = sorted({line for _, written in done for line in written.warnings})
    for line in (*found.about.conventions, *notes, *warnings):
        _say(console, line)
    if num_blank := sum(written.num_blank for _, written in done):
        volumes = sum(written.num_blank > 0 for _, written in done)
        told = f"{counted(num_blank, 'slice')} of {counted(volumes, 'volume')}"
        _say(console, f"blank and without foreground, not written (background when a volume is scored): {told}")
    dropped = Counter(field for _, written in done for field in written.dropped)
    if dropped:
        verb = "was" if len(dropped) == 1 else "were"
        _say(console, f"{counted(len(dropped), 'identifying field')} {verb} dropped: {', '.join(sorted(dropped))}")
    if reused:
        _say(console, f"{reused} of {len(done)} cases were there already")
    if skipped:
        _say(console, f"{len(skipped)} left out (all of them in dataset.json):")
        for each in skipped[:20]:
            _say(console, f"  {each.what}: {each.reason}")
    labels = "{" + ", ".join(f"{name}: {value}" for name, value in found.about.labels.items()) + "}"
    _say(console, f"for a config: data=manifest data.root={out} 'data.labels={labels}'")


def _say(console: Console, line: str) -> None:
    console.print(Text(printable(line)), soft_wrap=True)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return value.name
    return list(value) if isinstance(value, tuple) else value
