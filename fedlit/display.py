"""What a person watches while a run goes on: one live screen on a terminal, else plain lines; both also in the log."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from os import PathLike
from typing import TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedlit.provenance import masked, printable
from fedlit.units import duration, megabytes


def open_display(
    name: str,
    num_rounds: int,
    *,
    console: Console | None = None,
    log: str | PathLike | None = None,
    is_shown: bool = True,
) -> Display:
    """A display for a `with` block. `log`: a file to append to. `is_shown=False`: another process tells."""
    if not is_shown:
        return Display(name, num_rounds, console=Console(quiet=True), log=None)
    return Display(name, num_rounds, console=console or Console(), log=log)


class Display:
    """Progress of one run. Rounds count from 1; Dice in 0..1, seconds, bytes. `warnings` holds each text once."""

    def __init__(self, name: str, num_rounds: int, *, console: Console, log: str | PathLike | None):
        self.name, self.num_rounds, self.console, self.log = printable(name), num_rounds, console, log
        self.warnings: list[str] = []
        self.round = self.num_finished = self.bytes_up = self.bytes_down = 0
        self.cohort: tuple[str, ...] = ()
        self.num_done, self.last_client = 0, ""
        self.scores: dict[str, float] = {}
        self.scored_round = 0
        self.started = self.round_began = time.monotonic()
        self.first_round_began: float | None = None
        self.is_in_round = False
        self._finished_line: tuple[int, str] | None = None  # waits for the scores of its round
        self._file: TextIO | None = None
        self._early: deque[str] = deque(maxlen=1000)  # lines told before there was a log
        is_screen = console.is_terminal and not console.is_dumb_terminal and not console.quiet
        self._live = Live(self, console=console, refresh_per_second=2, vertical_overflow="crop") if is_screen else None

    def __enter__(self) -> Display:
        self.started = time.monotonic()
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._tell_finished_round()
        finally:
            if self._live:
                self._live.stop()  # gives the cursor back, also after Ctrl-C
            if self._file:
                self._file.close()
                self._file = None

    def round_started(self, round: int, cohort: Sequence[str]) -> None:
        self._tell_finished_round()
        self.round, self.cohort, self.num_done, self.is_in_round = round, tuple(cohort), 0, True
        self.round_began = time.monotonic()
        self.first_round_began = self.first_round_began or self.round_began

    def client_done(self, name: str, seconds: float, loss: float) -> None:
        """A client of this process came back. Only a slow one (a minute or more) is worth a plain line."""
        self.num_done += 1
        self.last_client = f"{printable(name)} {duration(seconds)}, loss {loss:.3f}"
        line = f"round {self.round} | client {name} | {duration(seconds)} | loss {loss:.3f}"
        self._tell(line, is_shown=seconds >= 60 and not self._live)

    def round_finished(self, round: int, seconds: float, bytes_up: int, bytes_down: int) -> None:
        """The round's line waits for `scored` of the same round, or for whatever comes next."""
        self._tell_finished_round()
        self.round, self.num_finished, self.num_done = round, self.num_finished + 1, len(self.cohort)
        self.is_in_round = False
        self.bytes_up, self.bytes_down = self.bytes_up + bytes_up, self.bytes_down + bytes_down
        facts = [f"round {round}", duration(seconds), f"{megabytes(bytes_up)} up", f"{megabytes(bytes_down)} down"]
        if self.cohort:
            facts.insert(1, f"{len(self.cohort)} clients" if len(self.cohort) > 1 else "1 client")
        self._finished_line = (round, " | ".join(facts))

    def scored(self, round: int, dice: Mapping[str, float]) -> None:
        """Validation Dice by site; sites without a value (None or NaN) are left out."""
        found = {site: value for site, value in dice.items() if value is not None and not math.isnan(value)}
        self.scores, self.scored_round = dict(sorted(found.items(), key=lambda item: (item[1], item[0]))), round
        line = f"round {round}"
        if self._finished_line and self._finished_line[0] == round:
            line, self._finished_line = self._finished_line[1], None
        self._tell(f"{line} | {self._worst() or 'no site has a validation case'}", is_shown=not self._live)

    def warn(self, text: str) -> None:
        """Show a warning; the same text is shown once."""
        text = masked(text)
        if text not in self.warnings:
            self.warnings.append(text)
            self._tell_finished_round()
            self._tell(f"warning | {text}", style="yellow")

    def say(self, text: str) -> None:
        self._tell_finished_round()
        self._tell(text)

    def _tell_finished_round(self) -> None:
        if self._finished_line:
            (_, line), self._finished_line = self._finished_line, None
            self._tell(line, is_shown=not self._live)

    def _tell(self, text: str, *, is_shown: bool = True, style: str = "") -> None:
        for line in text.splitlines():
            line = printable(masked(line))
            self._write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}\n")
            if is_shown:
                self.console.print(Text(line, style=style), soft_wrap=True)  # Text: a site called [red] is not markup

    def log_to(self, path: str | PathLike[str]) -> None:
        """Append to a file from now on, beginning with what was told so far."""
        self.log = path
        while self._early:
            self._write(self._early.popleft())

    def _write(self, stamped: str) -> None:
        if self.log is None:
            self._early.append(stamped)
            return
        if self._file is None:
            self._file = open(self.log, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 (closed on exit)
        self._file.write(stamped)

    def _worst(self) -> str:
        return next((f"worst site {printable(site)} {value:.3f}" for site, value in self.scores.items()), "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        lines = self._facts(options.max_width)
        room = console.size.height - 1 - len(lines)  # the last line of the terminal stays free for the cursor
        scores = dict(self.scores)  # a copy: this runs in the thread that redraws
        if scores and room >= 3:
            lines.append(self._site_table(scores, room, options.max_width))
        yield Group(*lines[: max(1, console.size.height - 1)])

    def _facts(self, width: int) -> list[RenderableType]:
        head = Table.grid(padding=(0, 1))
        done = self.num_rounds - self._rounds_left()
        bar = ProgressBar(total=self.num_rounds, completed=done, width=max(4, width // 3))
        head.add_row(_cut(self.name, "bold"), _cut(f"round {self.round}/{self.num_rounds}"), bar)
        now = time.monotonic()
        left = self._seconds_left(now)
        times = f"{duration(now - self.started)} gone" + ("" if left is None else f" | about {duration(left)} left")
        sites = f"sites {self.num_done}/{len(self.cohort)}" + (f" | {self.last_client}" if self.last_client else "")
        lines: list[RenderableType] = [head, _cut(times), _cut(sites)]
        lines.append(_cut(f"{megabytes(self.bytes_up)} up | {megabytes(self.bytes_down)} down"))
        if self.warnings:
            count = len(self.warnings)
            lines.append(_cut(f"{count} warning{'s' * (count > 1)} | {printable(self.warnings[-1])}", "yellow"))
        if self.scores:
            lines.append(_cut(f"{self._worst()} | round {self.scored_round}", "bold"))
        return lines

    def _site_table(self, scores: Mapping[str, float], room: int, width: int) -> RenderableType:
        shown = list(scores.items())
        hidden = 0
        if len(shown) + 1 > room:  # one line is the heading, one says how many are hidden
            shown, hidden = shown[: room - 2], len(shown) - (room - 2)
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(8, width // 3))
        table.add_column(justify="right", no_wrap=True)
        table.add_row(Text("site", "dim"), Text("Dice", "dim"), Text("validation", "dim"))
        for rank, (site, value) in enumerate(shown):
            colour = "yellow" if rank == 0 else "green"
            bar = ProgressBar(total=1, completed=value, width=max(4, width // 3), complete_style=colour)
            table.add_row(Text(printable(site)), f"{value:.3f}", bar)
        if hidden:
            table.add_row(Text(f"{hidden} more", "dim"))
        return table

    def _rounds_left(self) -> int:
        return max(0, self.num_rounds - self.round + self.is_in_round)

    def _seconds_left(self, now: float) -> float | None:
        """From the mean round of this session, or the clients of its first one; None: too early to say."""
        in_round = now - self.round_began if self.is_in_round else 0.0
        if self.num_finished and self.first_round_began:
            per_round = (now - in_round - self.first_round_began) / self.num_finished
        elif self.num_done and self.cohort:
            per_round = in_round * len(self.cohort) / self.num_done
        else:
            return None
        return max(0.0, per_round * self._rounds_left() - in_round)


def _cut(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
