"""The runs of a study, one after the other: each in a process of its own, a line said of each."""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from fedlit.files import write_atomically
from fedlit.provenance import printable
from fedlit.rundir import RunDirectory
from fedlit.stopping import HEEDED
from fedlit.studies.grid import Point, Standing, waiting
from fedlit.studies.results import hours_of, read_summary
from fedlit.sweep import Run
from fedlit.units import duration

DONE, FAILED, REFUSED, STOPPED, INTERRUPTED = 0, 1, 2, 75, 130
"""Exit codes of `fedlit run`."""

PATIENCE = 5.0
"""Seconds in which a run that shares the terminal has heard Ctrl-C, too; after them it is told."""


@dataclass(frozen=True)
class Ended:
    """A run that has ended.

    Args:
        code: its exit code, negative where a signal ended it.
        said: the last of it, where it did not end well.
        asked: the exit code of the study, where a signal asked it to stop meanwhile.
    """

    code: int
    said: str = ""
    asked: int | None = None


Start = Callable[[Run], Ended]


class Halted(Exception):
    """The study was stopped, or a run was refused; all that is complete is saved.

    Args:
        code: the exit code of the program.
    """

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def in_a_process(run: Run) -> Ended:
    """`fedlit run` in a process of its own: its memory is its own, and what ends it ends no other run.

    Signals that ask to stop go to it; Ctrl-C it hears by itself, as it shares the terminal.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        words = [sys.executable, "-m", "fedlit", "run", *run.words]
        with _passing_on() as (heard, tell):
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
            tell(process)
            code = process.wait()
        said.seek(0)
        lines = said.read().splitlines()
    asked = (INTERRUPTED if signal.SIGINT in heard else STOPPED) if heard else None
    return Ended(code, _reason(lines) if code else "", asked)


@contextmanager
def _passing_on() -> Iterator[tuple[set[int], Callable[[subprocess.Popen], None]]]:
    """The signals that come to us, and what makes them those of a process, too: also what came while it was begun."""
    heard: set[int] = set()
    at_work: list[subprocess.Popen] = []
    early: list[int] = []
    later: list[threading.Timer] = []

    def hear(number: int, frame: object) -> None:
        heard.add(number)
        if not at_work:
            early.append(number)
        elif number != signal.SIGINT:
            at_work[0].send_signal(number)
        elif not later:
            later.append(threading.Timer(PATIENCE, at_work[0].send_signal, (number,)))
            later[0].daemon = True
            later[0].start()

    def tell(process: subprocess.Popen) -> None:
        at_work.append(process)
        for number in early:
            hear(number, None)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, *HEEDED)}
    try:
        yield heard, tell
    finally:
        for timer in later:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _reason(lines: Sequence[str]) -> str:
    """From the error to the end of what a run has said, at most ten lines."""
    first = next((place for place, line in enumerate(lines) if line.startswith("error:")), max(0, len(lines) - 5))
    return "\n".join(lines[first : first + 10])


@dataclass
class Pace:
    """Seconds that runs take, by the method they are of.

    Args:
        before: of those that were complete, their training alone: a first guess that is too low.
    """

    before: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    now: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def left(self, points: Sequence[Point]) -> float | None:
        """For these runs, one after the other; None while no whole run is known.

        A method that is not known yet takes the mean of those that are.
        """
        known = {name: statistics.fmean(found) for name, found in {**self.before, **self.now}.items() if found}
        if not known:
            return None
        return sum(known.get(point.methods[0], statistics.fmean(known.values())) for point in points)


def conduct(standings: Mapping[Point, Standing], start: Start = in_a_process) -> list[str]:
    """Make all runs that are not complete, a line for each; returns `RUN: reason` for those that came to no end.

    Raises:
        Halted: a signal asked to stop, or a run was refused as bad input.
    """
    points, pace, failures = waiting(standings), Pace(), []
    for point, found in standings.items():
        if found == "complete":
            pace.before[point.methods[0]].append(hours_of(read_summary(point.path)) * 3600)
    for place, point in enumerate(points, 1):
        number = len(standings) - len(points) + place
        click.echo(f"run {number} of {len(standings)} | {printable(point.title)} | ", nl=False)
        sys.stdout.flush()
        if RunDirectory(point.path).is_busy:
            click.echo("is at work elsewhere, left out")
            continue
        began = time.monotonic()
        try:
            ended = start(point.run)
        except KeyboardInterrupt:
            ended = Ended(INTERRUPTED)
        seconds = time.monotonic() - began
        note_failure(point.path, ended)
        if ended.code == DONE and standings[point] == "new":  # one that went on does not say what a whole one takes
            pace.now[point.methods[0]].append(seconds)
        elif ended.code not in (DONE, STOPPED, INTERRUPTED):
            failures.append(f"{point.path}: {ended.said or f'ended with code {ended.code}'}")
        end = {DONE: "", STOPPED: "stopped after ", INTERRUPTED: "stopped after "}.get(ended.code, "failed after ")
        click.echo(f"{end}{duration(seconds)}{_remaining(points[place:], pace)}")
        if ended.asked or ended.code in (STOPPED, INTERRUPTED):
            raise Halted(GO_ON, ended.asked or ended.code)
        if ended.code == REFUSED:
            raise Halted(f"{failures[-1]}\nno further run was begun; {GO_ON}", REFUSED)
    return failures


FAILURE = "failure.txt"
"""In the directory of a run that failed: the last of what it said."""


def note_failure(path: Path, ended: Ended) -> None:
    """Keep why a run failed or was killed, for the table; what ended otherwise has no such note."""
    (path / FAILURE).unlink(missing_ok=True)
    if ended.code == FAILED or (ended.code < 0 and not ended.asked):
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / FAILURE, ended.said or f"ended with code {ended.code}")


def said_of_failure(path: Path) -> str:
    """Why a run failed when it was made last, in a line; empty where it did not."""
    note = path / FAILURE
    return next(iter(note.read_text(encoding="utf-8").splitlines()), "unknown") if note.is_file() else ""


GO_ON = "what is complete is saved: the same command goes on, with --table-only it writes the table of what there is"


def _remaining(points: Sequence[Point], pace: Pace) -> str:
    left = pace.left(points) if points else None
    return f" | {len(points)} remain" + ("" if left is None else f", about {duration(left)}") if points else ""
