"""The folder OUT: whether it is ours to write to, and what an earlier preparation has left in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fedlit.errors import BadInput
from fedlit.files import write_atomically
from fedlit.preparation.cases import Case
from fedlit.preparation.writing import Written

JOURNAL = ".prepared.jsonl"
FORMAT = 3  # of what is written for the same source: another number makes every case anew


def check_places(source: Path, out: Path) -> None:
    """Raises `BadInput` unless the two are apart, so that nothing written is read again or lost."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"OUT={str(out)!r} is a file; give a folder")
    source, out = source.resolve(), out.resolve()
    if source == out or out.is_relative_to(source) or source.is_relative_to(out):
        raise BadInput(f"SOURCE={str(source)!r} and OUT={str(out)!r} lie in each other; give OUT a place of its own")


def earlier(out: Path, name: str) -> dict[str, Written]:
    """What was already written, by the keys of its cases.

    Raises:
        BadInput: the folder holds something else, or another data set.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return {}
    try:
        lines = (out / JOURNAL).read_text(encoding="utf-8").splitlines()
        head = json.loads(lines[0])
    except (OSError, ValueError, IndexError):
        raise BadInput(f"OUT={str(out)!r} is not empty and was not made by this command; give another folder") from None
    if head.get("prepared") != name:
        raise BadInput(f"OUT={str(out)!r} holds {head.get('prepared')!r}; give {name!r} another folder")
    if head.get("format") != FORMAT:
        return {}
    found = {}
    for line in lines[1:]:
        try:
            entry = json.loads(line)
            found[entry["key"]] = Written.from_json(entry)
        except (ValueError, KeyError, TypeError):  # the last line of an interrupted run
            continue
    return found


class Journal:
    """Says of every case that is done what was written; an interrupted run goes on from here."""

    def __init__(self, out: Path, name: str) -> None:
        self._path, self._head = out / JOURNAL, json.dumps({"prepared": name, "format": FORMAT}) + "\n"
        self._file: IO[str] | None = None

    @contextmanager
    def open(self, *, is_new: bool) -> Iterator[Journal]:
        with open(self._path, "w" if is_new else "a", encoding="utf-8") as self._file:
            self._file.write(self._head if is_new else "\n")  # a line that was cut off ends here
            self._file.flush()
            yield self

    def add(self, key: str, written: Written) -> None:
        assert self._file is not None
        self._file.write(_line(key, written))
        self._file.flush()

    def rewrite(self, done: Mapping[str, Written]) -> None:
        """Only what is still of use, in the order of the keys."""
        write_atomically(self._path, self._head + "".join(_line(key, done[key]) for key in sorted(done)))


def _line(key: str, written: Written) -> str:
    return json.dumps({"key": key, **written.as_json()}) + "\n"


def key_of(case: Case, source: Path) -> str:
    """Names what is written of a case: its place, how it is decoded, and its files by path, size and time."""
    decode = case.decode
    recipe = [
        getattr(getattr(decode, "func", decode), "__qualname__", ""),
        [_plain(value, source) for value in getattr(decode, "args", ())],
        {name: _plain(value, source) for name, value in getattr(decode, "keywords", {}).items()},
    ]
    states = []
    for path in case.sources:
        status = path.stat()
        states.append([_plain(path, source), status.st_size, status.st_mtime_ns])
    told = json.dumps([case.site, case.name, case.as_slices, recipe, states], default=str, sort_keys=True)
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def _plain(value: object, source: Path) -> object:
    if isinstance(value, Path):
        return value.relative_to(source).as_posix() if value.is_relative_to(source) else str(value)
    return [_plain(each, source) for each in value] if isinstance(value, list | tuple) else value


def remove_left_over(out: Path, before: Iterable[Written], after: Iterable[Written]) -> int:
    """Delete what an earlier preparation wrote and this one did not; how many files that were."""
    kept = {path for written in after for path in written.files}
    lost = {path for written in before for path in written.files} - kept
    for path in lost:
        target = out / path
        if target.parent.resolve().is_relative_to(out):
            target.unlink(missing_ok=True)
    return len(lost)
