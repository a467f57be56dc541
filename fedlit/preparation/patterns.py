"""Paths with names in braces: `{site}/images/{case}.png`, read from a tree of files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from fedlit.errors import BadInput
from fedlit.preparation.cases import Skipped

USUAL = {"slice": r"\d+"}  # so that {case}_{slice} reads a_b_03 as the slice 03 of a_b
TOKEN = re.compile(r"\{(\w+)(?::([^{}]*))?\}|(\*)")
PACKED = re.compile(r"\.(zip|rar|7z|tgz|tar|tar\.(gz|bz2|xz|zst))(\.\d+)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Pattern:
    """A path below any folder. `{name}` is part of a path's segment, `{name:a|b}` one of these, `*` anything without a
    slash; {slice} is a number; a name that comes again stands for the same text. Upper and lower case are alike."""

    text: str

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(found[1] for found in TOKEN.finditer(self.text) if found[1]))

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        parts, seen, end = [], set(), 0
        for found in TOKEN.finditer(self.text):
            parts.append(re.escape(self.text[end : found.start()]))
            end, name = found.end(), found[1]
            if name is None:
                parts.append("[^/]*")
            elif name in seen:
                parts.append(f"(?P={name})")
            else:
                parts.append(f"(?P<{name}>{found[2] or USUAL.get(name, '[^/]+?')})")
                seen.add(name)
        parts.append(re.escape(self.text[end:]))
        try:
            return re.compile("(?:.*/)?" + "".join(parts), re.IGNORECASE)
        except re.error as error:
            raise BadInput(f"the pattern {self.text!r} cannot be read: {error}") from None

    def match(self, path: str) -> dict[str, str] | None:
        """name -> text, of a path with forward slashes."""
        found = self._expression.fullmatch(path)
        return found.groupdict() if found else None

    def __str__(self) -> str:
        return TOKEN.sub(_shown, self.text)


def _shown(found: re.Match[str]) -> str:
    """A choice of plain words is shown as it is, an expression by its name."""
    if found[1] is None:
        return "*"
    if not found[2] or not re.fullmatch(r"[\w .|-]+", found[2]):
        return f"{{{found[1]}}}"
    return f"{{{found[2]}}}" if "|" in found[2] else found[2]


@dataclass(frozen=True)
class Tree:
    """The files below a folder, as sorted paths with forward slashes; what the system hides is left out."""

    root: Path
    files: tuple[str, ...]

    def path(self, file: str) -> Path:
        return self.root / file

    def matching(self, pattern: Pattern) -> list[tuple[str, dict[str, str]]]:
        return [(file, found) for file in self.files if (found := pattern.match(file)) is not None]

    def folders(self, depth: int = 2) -> list[str]:
        """The folders that hold files, cut at a depth, for messages."""
        return sorted({"/".join(file.split("/")[:-1][:depth]) or "." for file in self.files})

    def still_packed(self) -> str:
        """Names the archives among the files, and what to do; empty where there are none."""
        archives = [file for file in self.files if PACKED.search(file)]
        more = f" and {len(archives) - 12} more" if len(archives) > 12 else ""
        return f"still packed: {', '.join(archives[:12])}{more}; unpack them there" if archives else ""


def tree(source: Path) -> Tree:
    """All files below `source`; links are followed, each folder once.

    Raises:
        BadInput: no folder, an empty one, one that cannot be listed, or a name that is not UTF-8.
    """
    if not source.is_dir():
        raise BadInput(f"SOURCE={str(source)!r} is no folder; unpack the download and name its folder")
    found: list[str] = []
    seen: set[str] = set()
    for folder, below, files in os.walk(source, onerror=_refuse, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "__MACOSX")
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        base = os.path.relpath(folder, source)
        prefix = "" if base == "." else base.replace(os.sep, "/") + "/"
        found += [prefix + name for name in files if not name.startswith(".")]
    if not found:
        raise BadInput(f"SOURCE={str(source)!r} holds no files; unpack the download there")
    for name in found:
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # how Python holds bytes that are no UTF-8
            raise BadInput(f"SOURCE holds {name!r}, a name that is not UTF-8; rename it")
    return Tree(source, tuple(sorted(found)))


def _refuse(error: OSError) -> NoReturn:
    raise BadInput(f"{error.filename} cannot be listed ({error.strerror}); SOURCE would be read only in part")


def not_as_published(name: str, found: Tree, expected: Iterable[str], skipped: Sequence[Skipped] = (),
                     not_read: Iterable[str] = ()) -> BadInput:  # fmt: skip
    """The error for a wrong or half-unpacked download: what was expected, what is there, and what is never read."""
    folders = found.folders()
    shown = ", ".join(folders[:12]) + (f" and {len(folders) - 12} more" if len(folders) > 12 else "")
    lines = [
        f"{found.root} does not hold {name}. Expected, below any folder, one or more of:",
        *expected,
        f"found the folders: {shown}",
        *filter(None, [found.still_packed()]),
        *(f"{each.what}: {each.reason}" for each in skipped[:5]),
        *not_read,
    ]
    return BadInput("\n  ".join(lines))
