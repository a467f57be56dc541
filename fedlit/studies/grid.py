"""The runs of a study: methods x folds x seeds, checked before any is started, and how far each has come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig, OmegaConf

from fedlit.config import Checked, build, load
from fedlit.errors import BadInput
from fedlit.rundir import RunDirectory, changes
from fedlit.schema import our_name, suggestion
from fedlit.studies.study import Method, Study, word_problems
from fedlit.sweep import Run, as_item, as_word, checked, folder, members

Standing = Literal["new", "continue", "complete"]


@dataclass(frozen=True)
class Asked:
    """What is asked of a study.

    Args:
        data: the folder of sites.csv; None where the configs need none.
        folds: sites that are left out in turn; None means all.
        out: the folder above the runs, for the tables.
        words: config words for every run, see `words_for`.
    """

    study: Study
    out: Path
    data: Path | None = None
    folds: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    words: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Point:
    """One run of a study: the methods that it serves, the site that is left out, and its typed config."""

    methods: tuple[str, ...]
    fold: str | None
    seed: int
    run: Run
    config: DictConfig

    @property
    def path(self) -> Path:
        """The run directory."""
        return Path(self.run.run_dir)

    @property
    def title(self) -> str:
        """`FedMSA | without BIDMC | seed 0`."""
        fold = [] if self.fold is None else [f"without {self.fold}"]
        return " | ".join([self.methods[0], *fold, f"seed {self.seed}"])


@dataclass(frozen=True)
class Plan:
    """The runs of a study in the order in which they are made: all of one seed, then all of the next.

    Args:
        folds: the sites that are left out in turn; (None,) where there is one fold.
        remarks: what the checks have to say of configs without a problem.
    """

    asked: Asked
    folds: tuple[str | None, ...]
    points: tuple[Point, ...]
    remarks: tuple[str, ...] = ()

    def standings(self) -> dict[Point, Standing]:
        """How far every run has come.

        Raises:
            BadInput: runs there are not what the study asks for now.
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
    if not run_dir.has_rounds and not run_dir.is_whole:
        return run_dir.standing(config)
    changed = [*run_dir.changed(config).splitlines(), *scored_otherwise(run_dir, config)]
    if lines := [line.strip() for line in changed]:
        shown = "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")
        raise BadInput(f"{point.path}: {shown}; set this back, give another --out, or remove that folder")
    if run_dir.is_whole and run_dir.read_config().num_rounds == config.num_rounds:
        return "complete"  # also where somebody has removed its checkpoints
    return run_dir.standing(config)


def scored_otherwise(run_dir: RunDirectory, config: DictConfig) -> list[str]:
    """Settings of predictors that a finished run was not scored with. Until then they may change."""
    old = run_dir.read_config()
    scored, asked = {*(old.get("prediction") or {})}, {*config.prediction}
    if not run_dir.is_whole or old.num_rounds != config.num_rounds or not scored & asked:
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
    every = [] if asked.data is None else [as_word("data.root", str(asked.data))]
    runs: dict[tuple[str, ...], list[Method]] = {}
    for method, given in zip(study.methods, words_for(study.methods, asked.words), strict=True):
        runs.setdefault((method.config, *study.set, *method.set, *given, *every), []).append(method)
    found = checked(title, [*runs])
    refuse_without_scores(study, zip(runs.values(), found, strict=True))
    folds = folds_of(asked, next(iter(runs)))
    names = [",".join([Path(words[0]).stem, *filter(None, [folder(each[0].set)])]) for words, each in runs.items()]
    if alike := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"{title}: two methods would share the folder {alike[0]}; write a word of one in another way")
    remarks = [line for words in runs for line in load(words[0], words[1:]).notices]
    points = []
    for fold in folds:
        left_out = [] if fold is None else [f"unseen_sites=[{as_item(fold)}]"]
        configs = checked(title, [(*words, *left_out) for words in runs]) if left_out else found
        for (words, methods), name, result in zip(runs.items(), names, configs, strict=True):
            for seed in asked.seeds:  # another one makes no other problem
                run_dir = (asked.out / ",".join([name, *folder_words(fold), f"seed={seed}"])).as_posix()
                run = Run((*words, *left_out, f"seed={seed}", as_word("run_dir", run_dir)), run_dir)
                config = result.require().copy()
                config.update({"seed": seed, "run_dir": run_dir})
                points.append(Point(tuple(method.name for method in methods), fold, seed, run, config))
    order = {seed: place for place, seed in enumerate(asked.seeds)}
    points.sort(key=lambda point: order[point.seed])
    return Plan(asked, folds, tuple(points), tuple(dict.fromkeys(remarks)))


def words_for(methods: Sequence[Method], words: Sequence[str]) -> list[tuple[str, ...]]:
    """The given words of each method: all of them, but a key that some leave unset (`???`) is for those alone.

    So the checkpoint of a SAM is not given to the U-Net beside it, which has no such argument.
    """
    unset = [OmegaConf.missing_keys(load(method.config, method.set).config) for method in methods]
    everywhere = set[str]().union(*unset)
    keys = [our_name(word.partition("=")[0].strip()) for word in words]
    return [
        tuple(word for word, key in zip(words, keys, strict=True) if key in own or key not in everywhere)
        for own in unset
    ]


def folder_words(fold: str | None) -> list[str]:
    return [] if fold is None else [folder([f"unseen_sites=[{fold}]"])]


def refuse_wrong_requests(asked: Asked) -> None:
    """Raises BadInput, with all problems, where the request itself fits neither the study nor its data."""
    problems = [
        f"--seeds: {seed} stands there twice" for seed in sorted(set(asked.seeds)) if asked.seeds.count(seed) > 1
    ]
    problems += word_problems(asked.words)
    if asked.folds is not None and asked.study.folds is None:
        problems.append(f"--folds: study {asked.study.name} leaves no site out, it has one fold; leave --folds away")
    if asked.data is not None and not asked.data.is_dir():
        problems.append(f"--data {asked.data}: no such folder; give the one that holds sites.csv, see fedlit prepare")
    if problems:
        raise BadInput("\n  ".join(problems))
    if asked.data is None:
        for method in asked.study.methods:
            data = load(method.config, (*asked.study.set, *method.set, *asked.words)).config.get("data")
            if isinstance(data, DictConfig) and OmegaConf.is_missing(data, "root"):
                raise BadInput(
                    f"study {asked.study.name} needs --data DIR, the folder that holds sites.csv; "
                    "`fedlit prepare` makes it of what the data's owners publish"
                )


def refuse_without_scores(study: Study, runs: Iterable[tuple[Sequence[Method], Checked]]) -> None:
    """Raises BadInput, with all problems, where runs would not make the scores that the table needs."""
    problems = []
    for methods, checked_config in runs:
        config = checked_config.require()
        scored = getattr(build(config.metrics), "test", None)
        if scored is not None and (missing := [name for name in study.metrics if name not in scored]):
            problems.append(
                f"methods.{methods[0].name}: metrics.test does not hold {', '.join(missing)}; "
                f"add metrics.test=[{','.join([*scored, *missing])}]"
            )
        models = dict.fromkeys([*build(config.algorithm).models, *config.prediction])
        for method in methods:
            if method.model is not None and method.model not in models:
                problems.append(
                    f"methods.{method.name}.model: this run has no {method.model}{suggestion(method.model, models)}; "
                    f"prediction={method.model} adds one"
                )
    if problems:
        raise BadInput("\n  ".join([f"study {study.name}:", *problems]))


def folds_of(asked: Asked, words: Sequence[str]) -> tuple[str | None, ...]:
    """The sites that are left out in turn, in the order asked for; (None,) where the study has one fold.

    Raises:
        BadInput: a site that the data have not.
    """
    if asked.study.folds is None:
        return (None,)
    sites = members(words[0], words[1:])
    wanted = asked.folds or tuple(sites)
    if unknown := [name for name in wanted if name not in sites]:
        raise BadInput(f"--folds: {', '.join(unknown)} is no site of the data; the sites are {', '.join(sites)}")
    if twice := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise BadInput(f"--folds: {twice[0]} stands there twice")
    first: dict[str, str] = {}
    for name in wanted:
        if (other := first.setdefault("".join(folder_words(name)), name)) != name:
            raise BadInput(f"--folds: {other} and {name} would share a folder; give one another name, or leave it out")
    return wanted
