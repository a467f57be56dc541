"""The runs of a study: methods x folds x seeds, checked before any is started, and how far each has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from fedlit.config import load
from fedlit.errors import BadInput
from fedlit.finished import scored_with
from fedlit.rundir import RunDirectory, changes
from fedlit.studies.asking import (
    Asked,
    columns_of,
    folder_words,
    folds_of,
    refuse_without_scores,
    refuse_wrong_requests,
    words_for,
    words_of_columns,
)
from fedlit.studies.origin import refuse_runs_on_other_data
from fedlit.studies.study import Method
from fedlit.sweep import Run, as_item, as_word, checked, folder, name_of

__all__ = ["Asked", "Plan", "Point", "Standing", "plan_of", "standing", "waiting", "words_for"]

Standing = Literal["new", "continue", "complete"]


@dataclass(frozen=True, eq=False)
class Point:
    """One run of a study: the methods that it serves, and its typed config.

    Args:
        fold: the site that is left out, or the column; `where` says it in words.
    """

    methods: tuple[str, ...]
    fold: str | None
    seed: int
    run: Run
    config: DictConfig
    where: str = ""

    @property
    def path(self) -> Path:
        """The run directory."""
        return Path(self.run.run_dir)

    @property
    def title(self) -> str:
        """`FedMSA | without BIDMC | seed 0`."""
        return " | ".join([self.methods[0], *filter(None, [self.where]), f"seed {self.seed}"])


@dataclass(frozen=True)
class Plan:
    """The runs of a study in the order in which they are made: all of one seed, then all of the next.

    Args:
        folds: the sites that are left out in turn, or the columns; (None,) where there is one fold.
        remarks: what the checks have to say of configs without a problem.
    """

    asked: Asked
    folds: tuple[str | None, ...]
    points: tuple[Point, ...]
    remarks: tuple[str, ...] = ()

    def standings(self) -> dict[Point, Standing]:
        """How far every run has come.

        Raises:
            BadInput: runs there are not what the study asks for now, or were made from other data.
        """
        found: dict[Point, Standing] = {}
        problems = []
        for point in self.points:
            try:
                found[point] = standing(point)
            except BadInput as error:
                problems.append(str(error))
        if problems:
            more = [f"and {len(problems) - 5} more of this kind"] if len(problems) > 5 else []
            raise BadInput("\n  ".join(["runs are there that are not what is asked now:", *problems[:5], *more]))
        if (data := self.asked.data) is not None:
            begun = ((point.path, point.config) for point, how in found.items() if how != "new")
            refuse_runs_on_other_data(begun, data)
        return found


def waiting(standings: Mapping[Point, Standing]) -> list[Point]:
    """The runs that are not complete."""
    return [point for point, found in standings.items() if found != "complete"]


def standing(point: Point) -> Standing:
    """How far a run has come.

    Raises:
        BadInput: what is there has other settings, in one line.
    """
    run_dir, config = RunDirectory(point.path), point.config
    if not run_dir.has_rounds and not run_dir.is_scored:
        return run_dir.standing(config)
    changed = [*run_dir.changed(config).splitlines(), *scored_otherwise(run_dir, config)]
    if lines := [line.strip() for line in changed]:
        shown = "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")
        raise BadInput(f"{point.path}: {shown}; set this back, give another --out, or remove that folder")
    return run_dir.standing(config)


def scored_otherwise(run_dir: RunDirectory, config: DictConfig) -> list[str]:
    """Settings of predictors that a finished run was not scored with, then or since. Until then they may change."""
    old = run_dir.read_config()
    old.prediction = scored_with(run_dir)
    scored, asked = {*old.prediction}, {*config.prediction}
    if not run_dir.is_scored or old.num_rounds != config.num_rounds or not scored & asked:
        return []
    others = ({*old, *config} - {"prediction"}) | {f"prediction.{name}" for name in scored ^ asked}
    return changes(old, config, others).splitlines()


def plan_of(asked: Asked) -> Plan:
    """Every run that a study asks for, all of them checked.

    Raises:
        BadInput: with all problems of all runs, or of what was asked.
    """
    study, title = asked.study, f"study {asked.study.name}"
    refuse_wrong_requests(asked)
    columns = columns_of(asked)
    runs = {column: runs_of(asked, given) for column, given in zip(columns, words_of_columns(asked), strict=True)}
    every = [words for of_column in runs.values() for words in of_column]
    found = dict(zip(every, checked(title, every), strict=True))
    for of_column in runs.values():
        refuse_without_scores(study, ((methods, found[words]) for words, methods in of_column.items()))
    folds = columns if study.columns else folds_of(asked, every[0])
    remarks = [line for words in every for line in load(words[0], words[1:]).notices]
    points = []
    for fold in folds:
        here = runs[fold if study.columns else None]
        left_out = [] if fold is None or study.columns else [f"unseen_sites=[{as_item(fold)}]"]
        wanted = [(*words, *left_out) for words in here]
        configs = checked(title, wanted) if left_out else [found[words] for words in wanted]
        for methods, name, words, result in zip(here.values(), names_of(title, here), wanted, configs, strict=True):
            for seed in asked.seeds:  # another one makes no other problem
                parts = [name, *folder_words(fold, study), f"seed={seed}"]
                run_dir = (asked.out / name_of(parts)).as_posix()
                run = Run((*words, f"seed={seed}", as_word("run_dir", run_dir)), run_dir)
                config = result.require().copy()
                config.update({"seed": seed, "run_dir": run_dir})
                where = "" if fold is None else fold if study.columns else f"without {fold}"
                points.append(Point(tuple(method.name for method in methods), fold, seed, run, config, where))
    order = {seed: place for place, seed in enumerate(asked.seeds)}
    points.sort(key=lambda point: order[point.seed])
    return Plan(asked, folds, tuple(points), tuple(dict.fromkeys(remarks)))


Runs = dict[tuple[str, ...], list[Method]]
"""The words of a run -> the methods that it serves."""


def runs_of(asked: Asked, given: Mapping[str, Sequence[str]]) -> Runs:
    """The runs of a column, or of a study without any.

    Args:
        given: by method, the words of the column and those that hold in every run; not of those it is not defined for.
    """
    data = [] if asked.data is None else [as_word("data.root", str(asked.data))]
    runs: Runs = {}
    for method in asked.study.methods:
        if method.name in given:
            words = (method.config, *asked.study.set, *method.set, *given[method.name], *data)
            runs.setdefault(words, []).append(method)
    return runs


def names_of(title: str, runs: Runs) -> list[str]:
    """The beginnings of their folders' names.

    Raises:
        BadInput: two are alike.
    """
    names = []
    for words, methods in runs.items():
        own = [word for word in methods[0].set if not word.endswith("=???")]  # the columns say what it is
        names.append(name_of([Path(words[0]).stem, *filter(None, [folder(own)])], most=140))
    if alike := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"{title}: two methods would share the folder {alike[0]}; write a word of one in another way")
    return names
