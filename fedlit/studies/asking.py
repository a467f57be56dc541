"""What is asked of a study, and what of it fits neither the study nor its data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fedlit.assembly import predictors
from fedlit.config import Checked, build, load
from fedlit.errors import BadInput
from fedlit.names import suggestion
from fedlit.prediction import Predictor
from fedlit.schema import our_name
from fedlit.studies.study import Method, Study, word_problems
from fedlit.sweep import folder, members

ROLES = {"unseen": "unseen", "members": "member"}
"""Of the sites that are meant by a study's `scores`."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a study.

    Args:
        data: the folder of sites.csv; None where the configs need none.
        folds: sites that are left out in turn, or columns of the study; None means all.
        out: the folder above the runs, for the tables.
        words: config words for every run, see `words_for`.
    """

    study: Study
    out: Path
    data: Path | None = None
    folds: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    words: tuple[str, ...] = ()


def words_of_columns(asked: Asked) -> list[dict[str, tuple[str, ...]]]:
    """For each column by the name of each method that is defined in it: the column's words, then those for every run.

    Without columns of its own a study is one of them.
    """
    study = asked.study
    unset = unset_in(study.methods, study.set)
    return [
        {
            method.name: words
            for method, words in zip(
                study.methods, divided(unset, (*study.columns.get(column or "", ()), *asked.words)), strict=True
            )
            if column not in method.not_defined
        }
        for column in columns_of(asked)
    ]


def unset_in(methods: Sequence[Method], shared: Sequence[str] = ()) -> list[set[str]]:
    """The keys that the runs of each method leave unset (`???`)."""
    return [OmegaConf.missing_keys(load(each.config, (*shared, *each.set)).config) for each in methods]


def words_for(methods: Sequence[Method], words: Sequence[str]) -> list[tuple[str, ...]]:
    """The given words of each method: all of them, but a key that some leave unset (`???`) is for those alone.

    So the checkpoint of a SAM is not given to the U-Net beside it, which has no such argument.
    """
    return divided(unset_in(methods), words)


def divided(unset: Sequence[set[str]], words: Sequence[str]) -> list[tuple[str, ...]]:
    """As `words_for`, for methods of which the keys are known that they leave unset."""
    everywhere = set[str]().union(*unset)
    keys = [our_name(word.partition("=")[0].strip()) for word in words]
    return [
        tuple(word for word, key in zip(words, keys, strict=True) if key in own or key not in everywhere)
        for own in unset
    ]


def columns_of(asked: Asked) -> tuple[str | None, ...]:
    """The columns in the order asked for; (None,) where the study has none.

    Raises:
        BadInput: one that the study has not.
    """
    if not asked.study.columns:
        return (None,)
    wanted = asked.folds or tuple(asked.study.columns)
    if unknown := [name for name in wanted if name not in asked.study.columns]:
        there = ", ".join(asked.study.columns)
        raise BadInput(f"--columns: {', '.join(unknown)} is no column of the study; they are {there}")
    if twice := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise BadInput(f"--columns: {twice[0]} stands there twice")
    return wanted


def folder_words(fold: str | None, study: Study) -> list[str]:
    """What of a run's folder says which site is left out, or which column it is of."""
    if fold is None:
        return []
    return [folder([f"column={fold}" if study.columns else f"unseen_sites=[{fold}]"])]


def refuse_wrong_requests(asked: Asked) -> None:
    """Raises BadInput, with all problems, where the request itself fits neither the study nor its data."""
    problems = [
        f"--seeds: {seed} stands there twice" for seed in sorted(set(asked.seeds)) if asked.seeds.count(seed) > 1
    ]
    problems += word_problems(asked.words)
    if asked.folds is not None and asked.study.folds is None and not asked.study.columns:
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
        makers = predictors(config.prediction)
        models = {name: makers[name]() for name in (*build(config.algorithm).models, *config.prediction)}
        problems += [text for method in methods for text in _model_problems(method, models, study.scores)]
    if problems:
        raise BadInput("\n  ".join([f"study {study.name}:", *problems]))


def _model_problems(method: Method, models: Mapping[str, Predictor], scores: str) -> list[str]:
    """Why the model of a method has no scores of the sites that a study is about.

    Args:
        models: those that its run has, by name.
        scores: as a study has it.
    """
    where = f"methods.{method.name}"
    if method.model is not None and method.model not in models:
        return [
            f"{where}.model: this run has no {method.model}{suggestion(method.model, models)}; "
            f"prediction={method.model} adds one"
        ]
    role = ROLES[scores]
    allowed = [name for name, each in models.items() if role in each.roles]
    usual = [name for name in allowed if not models[name].is_final]  # without `model` it is the first of these
    if method.model in allowed or (method.model is None and usual):
        return []
    way_out = f"allowed are {', '.join(allowed)}"
    if not allowed:
        way_out = f"this run has no model for {role} sites; prediction=[best_member] with share_personal=true adds one"
    if method.model is None:
        return [f"{where}.model: is not set, and {', '.join(models)} of this run is not for {role} sites; {way_out}"]
    meant = " and ".join(models[method.model].roles)
    return [f"{where}.model: {method.model} is for {meant} sites, and the study has scores: {scores}; {way_out}"]


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
        if (other := first.setdefault("".join(folder_words(name, asked.study)), name)) != name:
            raise BadInput(f"--folds: {other} and {name} would share a folder; give one another name, or leave it out")
    return wanted
