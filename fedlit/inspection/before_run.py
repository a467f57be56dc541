"""The look at the data before a run's first round: what a run accepts and a person should know, found once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fedlit.errors import BadInput
from fedlit.files import write_json
from fedlit.inspection.inspecting import inspect
from fedlit.storage import locked, read_json

if TYPE_CHECKING:
    from fedlit.data.source import Manifest  # with it comes torch

FORMAT = 2  # part of the cache's key: raise it when other things are found
MOST_LINES = 4
"""Of warnings that are told; `fedlit inspect` has all."""
ELSEWHERE = ("outlier", "inverted")
"""Outliers are counted alone, and of masks that look inverted every loading of the data warns."""
log = logging.getLogger(__name__)


def remarks(source: Manifest, fingerprint: str, say: Callable[[str], object]) -> list[str]:
    """The gravest warnings about the data, at most `MOST_LINES`, then how many more there are and where.

    They are kept in the data's cache until the manifest or a file behind it changes. A look that cannot be taken is no
    reason not to run: it is the one warning then.

    Args:
        fingerprint: of the source, for which all its files are looked up.
        say: is told that the pictures are read for it, where they are.
    """
    manifest = hashlib.sha256((Path(source.root).expanduser() / source.file).read_bytes()).hexdigest()
    facts = json.dumps([FORMAT, manifest, fingerprint, source.background, source.intensity])
    path = source.cache / "inspections" / f"{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"
    found = read_json(path)
    if found is None:
        with _alone(path) as is_kept:
            found = read_json(path) if is_kept else None  # another run may have looked meanwhile
            if found is None:
                say("looking at every picture once, for copies, odd masks and outliers (inspect_data=false: not)")
                try:
                    found = _found(source)
                except BadInput as error:
                    return [f"the data were not looked at; fedlit inspect: {error}"]
                if is_kept:
                    write_json(path, found)
    told = found["warnings"][:MOST_LINES]
    more = [
        f"{number} {name}{'s' * (number > 1)}"
        for number, name in ((len(found["warnings"]) - len(told), "more warning"), (found["num_outliers"], "outlier"))
        if number
    ]
    return [*told, *([f"the data have {' and '.join(more)}: {_command(source)}"] if more else [])]


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """One process at a time; whether what it finds can be kept: not in a cache that cannot be written."""
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(locked(path))
        except OSError as error:
            log.info("what is found in the data is not kept: %s", error)
            yield False
            return
        yield True


def _found(source: Manifest) -> dict:
    inspection = inspect(
        source.root,
        file=source.file,
        rows=source.rows(),
        background=source.background,
        intensity=source.intensity,
        cache=source.cache,
    )
    return {
        "warnings": [finding.text for finding in inspection.warnings if finding.kind not in ELSEWHERE],
        "num_outliers": sum(finding.kind == "outlier" for finding in inspection.warnings),
    }


def _command(source: Manifest) -> str:
    options = {"--file": source.file, "--background": source.background, "--intensity": source.intensity}
    usual = {"--file": "sites.csv", "--background": 0, "--intensity": "auto"}
    given = [text for name, value in options.items() if value != usual[name] for text in (name, str(value))]
    return shlex.join(["fedlit", "inspect", str(source.root), *given])
