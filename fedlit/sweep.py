"""A grid of runs: what each changes in the config, checked before any is started, and the folder each writes to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from omegaconf import DictConfig

from fedlit.components import build
from fedlit.config import Checked, Problem, check, load, refusal
from fedlit.errors import BadInput
from fedlit.rundir import MACHINE
from fedlit.schema import our_name
from fedlit.sources import words

EVERYWHERE_ALIKE = (*MACHINE, "run_dir", "name", "resume", "overwrite", "report", "loggers")
"""Keys that make no other experiment; every run of a grid gets a run_dir of its own."""

GRID = ".grid.json"
"""Above the runs of a grid: the names of their folders."""

OPENING, CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Run:
    """One run of a grid, or the only one: the words after `fedlit run`, and where its results go."""

    words: tuple[str, ...]
    run_dir: str


@dataclass(frozen=True)
class Grid:
    """Runs that are submitted together.

    Args:
        name: of the experiment.
        is_swept: the runs are points of a grid, each with a folder of its own.
        remarks: what `check` has to say of a config without a problem.
        configs: of the runs, checked key by key.
    """

    runs: tuple[Run, ...]
    name: str
    is_swept: bool
    remarks: tuple[str, ...]
    configs: tuple[DictConfig, ...]


def grid(path: str, overrides: Sequence[str], sweeps: Sequence[str]) -> Grid:
    """The runs of a config, all of them checked; without sweeps it is one.

    Args:
        sweeps: `key=value,value`, one for each dimension of the grid; `unseen_sites=all` leaves every site out once.

    Raises:
        BadInput: with every problem of every run, or of the sweeps themselves.
    """
    dimensions = _dimensions(path, overrides, sweeps)
    points = list(product(*([f"{key}={value}" for value in values] for key, values in dimensions.items())))
    results = checked(path, [(path, *overrides, *point) for point in points])
    config = results[0].require()
    remarks = (*load(path, (*overrides, *points[0])).notices, *results[0].remarks)
    if not sweeps:
        return Grid((Run((path, *overrides), config.run_dir),), config.name, False, remarks, (config,))
    folders = [folder(point) for point in points]
    if alike := [point for point, name in zip(points, folders, strict=True) if folders.count(name) > 1]:
        raise BadInput(f"--sweep: {' '.join(alike[0])} and {' '.join(alike[1])} would share a folder; sweep them apart")
    others = [word for word in overrides if our_name(word.partition("=")[0]) != "run_dir"]
    found = []
    for point, name, result in zip(points, folders, results, strict=True):
        run_dir = (Path(result.require().run_dir) / name).as_posix()
        found.append(Run((path, *others, *point, as_word("run_dir", run_dir)), run_dir))
    return Grid(tuple(found), config.name, True, remarks, tuple(result.require() for result in results))


def noted(folder: Path) -> list[str]:
    """The folders of the runs that were submitted as grids into a folder."""
    file = folder / GRID
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def split_top(text: str) -> list[str]:
    """The parts between commas that stand in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        depth += (not quote) * ((character in OPENING) - (character in CLOSING))
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _dimensions(path: str, overrides: Sequence[str], sweeps: Sequence[str]) -> dict[str, list[str]]:
    """Key -> the values it takes, as they are written on a command line."""
    given = {our_name(word.partition("=")[0]) for word in overrides}
    found: dict[str, list[str]] = {}
    problems = []
    for sweep in sweeps:
        key, equals, text = sweep.partition("=")
        key = our_name(key.strip())
        values = split_top(text)
        if not equals or not key or not all(values):
            problems.append(f"--sweep {sweep!r}: needs key=value,value,... without an empty value")
        elif key.partition(".")[0] in EVERYWHERE_ALIKE:
            problems.append(f"--sweep {key}: makes no other experiment; give {key}=VALUE once, for all runs")
        elif key in found or key in given:
            problems.append(f"--sweep {key}: is given twice; name all its values in one --sweep")
        elif twice := sorted({value for value in values if values.count(value) > 1}):
            problems.append(f"--sweep {key}: {twice[0]} stands there twice")
        else:
            found[key] = values
    if problems:
        raise BadInput("\n  ".join(problems))
    if found.get("unseen_sites") == ["all"]:
        found["unseen_sites"] = [f"[{as_item(name)}]" for name in members(path, overrides)]
    return found


def members(path: str, overrides: Sequence[str]) -> list[str]:
    """The sites that can be left out: all but the server's, by the manifest alone."""
    others = [word for word in overrides if our_name(word.partition("=")[0]) != "unseen_sites"]
    config = checked(path, [(path, *others, "unseen_sites=[]")])[0].require()
    sites = build(config.data).outline(unseen_sites=[], server_site=config.server_site)
    names = [site.name for site in sites if site.role == "member"]
    if len(names) < 2:
        raise BadInput(f"unseen_sites=all: only {', '.join(names) or 'no site'} trains, nobody would be left")
    return names


def as_item(name: str) -> str:
    """A site's name as an item of a list on the command line, in quotes where it would be read as something else."""
    return name if words([f"sites=[{name}]"])["sites"] == [name] else json.dumps(name, ensure_ascii=False)


def as_word(key: str, value: str) -> str:
    """key=value, the value in quotes where it would be read as something else."""
    try:
        if words([f"{key}={value}"])[key] == value:
            return f"{key}={value}"
    except BadInput:
        pass  # not even YAML: quotes make it so
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def folder(point: Sequence[str]) -> str:
    """`seed=0,unseen_sites=north`: readable, and safe as a folder's name in any shell."""
    pairs = (word.partition("=") for word in point)
    safe = ((key, re.sub(r"[^\w.+-]+", "-", value).strip("-")[:100]) for key, _, value in pairs)
    return name_of(f"{key}={value or 'none'}" for key, value in safe)


def name_of(parts: Iterable[str], most: int = 240) -> str:
    """The parts as a folder's name; one of more bytes (disks take 255) ends with a hash of the whole."""
    name = ",".join(parts)
    encoded = name.encode()
    if len(encoded) <= most:
        return name
    return f"{encoded[: most - 13].decode(errors='ignore')},{hashlib.sha256(encoded).hexdigest()[:12]}"


def checked(title: str, points: Sequence[tuple[str, ...]]) -> list[Checked]:
    """What `check` finds for every point, the words after `fedlit run`.

    Raises:
        BadInput: with all problems and unset keys; those of every point stand first and once.
    """
    results = [check(load(path, words)) for path, *words in points]
    if lines := said_of_points(points, [[*_problems(result)] for result in results]):
        raise refusal(title, lines)
    return results


def said_of_points(points: Sequence[tuple[str, ...]], problems: Sequence[Iterable[Problem | str]]) -> list[str]:
    """A line for every problem: first those of all points, then the others with the words that bring them."""
    shared = set.intersection(*map(set, points)) if points else set()
    where: dict[Problem | str, list[str]] = {}
    for point, found in zip(points, problems, strict=True):
        for problem in dict.fromkeys(found):
            where.setdefault(problem, []).append(" ".join(word for word in point if word not in shared))
    lines = [str(problem) for problem, found in where.items() if len(found) == len(points)]
    for problem, found in where.items():
        if len(found) < len(points):
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            lines.append(f"with {found[0]}{more}: {problem}")
    return lines


def _problems(result: Checked) -> Iterator[Problem]:
    yield from result.problems
    yield from (Problem(key, f"is not set; give {key}=VALUE") for key in result.unset)
