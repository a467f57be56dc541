"""Runs of which a study looks at other rounds than the kept one: made unless they are there, and read by round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedlit.errors import BadInput
from fedlit.record import Record
from fedlit.studies.running import DONE, Halted, in_a_process
from fedlit.sweep import Run

QUIET = ("metrics.test=[dice]", "report.pictures=false", "loggers={}")
"""Words of a run that is made for its Dice alone."""

Scores = Mapping[int, Mapping[str, Mapping[str, float]]]
"""round -> model -> member -> value."""


def make(config: str, words: Sequence[str], run_dir: Path) -> None:
    """Begin a run, or go on with it, in a process of its own.

    Raises:
        Halted: it came to no end; the same command of the study goes on.
    """
    ended = in_a_process(Run((config, *words, *QUIET, f"run_dir={run_dir}"), str(run_dir)))
    if ended.code != DONE or ended.asked:
        said = ended.said or "it was stopped"
        raise Halted(
            f"{run_dir}: {said}\nwhat is complete is saved: the same command goes on", ended.asked or ended.code
        )


def dice_of_members(run_dir: Path, split: str) -> Scores:
    """What every model scored after every round that was scored on the cases of this split.

    Raises:
        BadInput: there is no such run.
    """
    if not (run_dir / "metrics.csv").is_file():
        raise BadInput(f"{run_dir} is no run: it has no metrics.csv")
    found: dict[int, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in Record(run_dir).metrics():
        if (row.role, row.split, row.metric) == ("member", split, "dice") and row.num_cases:
            found[row.round][row.model][row.site] = row.value
    return found
