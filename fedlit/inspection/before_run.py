"""The look at the data before a run's first round: what a run accepts and a person should know, found once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fedlit.files import write_json
from fedlit.inspection.inspecting import inspect
from fedlit.storage import locked, read_json, writing_to

if TYPE_CHECKING:
    from fedlit.data.source import Manifest  # with it comes torch

FORMAT = 1  # part of the cache's key: raise it when other things are found
MOST_LINES = 4
"""Of warnings that are told; `fedlit inspect` has all."""
ELSEWHERE = ("outlier", "inverted")
"""Outliers are counted alone, and of masks that look inverted every loading of the data warns."""


def remarks(source: Manifest, say: Callable[[str], object]) -> list[str]:
    """The gravest warnings about the data, at most `MOST_LINES`, then how many more there are and where.

    They are kept in the data's cache until the manifest or a file behind it changes.

    Args:
        say: is told that the pictures are read for it, where they are.

    Raises:
        BadInput: the cache cannot be written.
    """
    facts = json.dumps([FORMAT, source.fingerprint(), source.background, source.intensity])
    path = source.cache / "inspections" / f"{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"
    with writing_to(path.parent), locked(path):
        found = read_json(path)
        if found is None:
            say("looking at every picture once, for copies, odd masks and outliers (inspect_data=false: not)")
            found = _found(source)
            write_json(path, found)
    told = found["warnings"][:MOST_LINES]
    more = [
        f"{number} {name}{'s' * (number > 1)}"
        for number, name in ((len(found["warnings"]) - len(told), "more warning"), (found["num_outliers"], "outlier"))
        if number
    ]
    where = f"fedlit inspect {Path(source.root)}{'' if source.file == 'sites.csv' else f' --file {source.file}'}"
    return [*told, *([f"the data have {' and '.join(more)}: {where}"] if more else [])]


def _found(source: Manifest) -> dict:
    inspection = inspect(
        source.root, file=source.file, background=source.background, intensity=source.intensity, cache=source.cache
    )
    return {
        "warnings": [finding.text for finding in inspection.warnings if finding.kind not in ELSEWHERE],
        "num_outliers": sum(finding.kind == "outlier" for finding in inspection.warnings),
    }
