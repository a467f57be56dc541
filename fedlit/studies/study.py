"""A study's file: which methods are compared, on which sites, by which scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fedlit.config import shipped
from fedlit.errors import BadInput
from fedlit.names import suggestion
from fedlit.schema import our_name
from fedlit.sources import Layer, with_included, words

COSTS = ("MB", "MB up", "times less", "seconds", "hours", "peak GB")
"""What runs cost, as columns beside the scores."""

OF_THE_STUDY = ("seed", "unseen_sites", "data.root", "run_dir", "name", "resume", "overwrite")
"""Keys that the study itself sets in every run, or that fit no grid."""

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Args:
        config: a shipped experiment, or the path of a file; the study's own `config` where a method names none.
        set: config words for its runs.
        model: the predictor whose scores these are; None is the one that each run was judged by.
        not_defined: the columns of the study that this method cannot be in.
    """

    name: str
    config: str
    set: tuple[str, ...] = ()
    model: str | None = None
    not_defined: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """What its runs are; methods with the same share them."""
        return (self.config, *self.set)


@dataclass(frozen=True)
class Study:
    """What a study's file says; `include` names files that it goes on from, as in an experiment's.

    Args:
        folds: `unseen_sites` leaves each site of the data out in turn; None is one fold, the config's own.
        scores: whose scores are the columns: those of `unseen` sites or of `members`.
        metrics: a table each, without their unit; the first is the main one.
        reference: the method that the others are tested against.
        bounds: methods that no federation can be, such as all data in one place: beside the others, and never the best.
        set: config words for the runs of all methods; a method's own come after them.
        columns: name -> config words: a column each, over all sites, in the place of one for each site. A key that some
            method leaves unset (`???`) is for those methods alone.
        costs: which of COSTS the main table has.
    """

    name: str
    title: str
    paper: str
    folds: str | None
    scores: str
    metrics: tuple[str, ...]
    reference: str
    methods: tuple[Method, ...]
    set: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    costs: tuple[str, ...] = ("MB", "hours", "peak GB")


ALLOWED = {"folds": (None, "unseen_sites"), "scores": ("unseen", "members")}
KEYS = ("config", *(each.name for each in fields(Study) if each.name != "name"))
METHOD_KEYS = tuple(each.name for each in fields(Method) if each.name != "name")


def read_study(name: str) -> Study:
    """The study of a file, or the shipped one of a bare name.

    Raises:
        BadInput: there is none, or with all that is wrong in it.
    """
    file = Path(name)
    if not name.endswith(SUFFIXES):
        file = shipped(f"reproduce/{name}")
    elif not file.is_file():
        raise BadInput(f"{name}: no such file; a name without suffix means a shipped study")
    values = _together(with_included(file))
    problems = list(_problems(values))
    methods, wrong = _methods(values.get("methods"), values.get("config"))
    given, unfit = _words(values.get("set"), "set")
    columns, misfit = _columns(values, methods)
    problems += [*wrong, *unfit, *misfit]
    names = [method.name for method in methods]
    reference = values.get("reference")
    if reference and not wrong and reference not in names:
        problems.append(f"reference: {reference!r} is no method{suggestion(reference, names)}")
    bounds = values.get("bounds") or []
    if not isinstance(bounds, list):
        problems.append(f"bounds: expected a list of methods, got {bounds!r}")
    elif not wrong:
        problems += [f"bounds: {name!r} is no method{suggestion(name, names)}" for name in bounds if name not in names]
    if problems:
        raise BadInput("\n  ".join([f"{file}: {len(problems)} problem{'s' * (len(problems) > 1)}", *problems]))
    return Study(
        name=file.stem,
        title=str(values.get("title") or file.stem),
        paper=str(values.get("paper") or ""),
        folds=values.get("folds"),
        scores=values.get("scores", "members"),
        metrics=tuple(values["metrics"]),
        reference=values["reference"],
        methods=tuple(methods),
        set=given,
        bounds=tuple(bounds),
        columns=columns,
        **({"costs": tuple(values["costs"])} if "costs" in values else {}),
    )


def _together(layers: Iterable[Layer]) -> dict[str, Any]:
    """What a file says with those that it includes: its own keys win, of methods and columns each one by its name.

    Its `set` comes after theirs.
    """
    together: dict[str, Any] = {}
    for layer in layers:
        values = _with_whole_paths(layer.values, layer.folder)
        for key in ("methods", "columns"):
            if isinstance(values.get(key), Mapping) and isinstance(together.get(key), Mapping):
                values[key] = {**together[key], **values[key]}
        if isinstance(values.get("set"), list) and isinstance(together.get("set"), list):
            values["set"] = [*together["set"], *values["set"]]
        together |= values
    return together


def _with_whole_paths(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a file says, with the paths of experiments, which it gives from where it lies, made whole."""
    whole = dict(values)
    if isinstance(config := values.get("config"), str) and config.endswith(SUFFIXES):
        whole["config"] = (folder / config).as_posix()
    if isinstance(methods := values.get("methods"), Mapping):
        whole["methods"] = {
            name: _with_whole_paths(given, folder) if isinstance(given, Mapping) else given
            for name, given in methods.items()
        }
    return whole


def _problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong beside the methods."""
    problems = [f"{key}: unknown key{suggestion(key, KEYS)}" for key in values if key not in KEYS]
    problems += [f"{key}: is not set" for key in ("metrics", "reference", "methods") if not values.get(key)]
    for key, allowed in ALLOWED.items():
        if key in values and values[key] not in allowed:
            listed = ", ".join("null" if value is None else value for value in allowed)
            problems.append(f"{key}: is {values[key]!r}; allowed are {listed}")
    costs = values.get("costs", [])
    if not isinstance(costs, list) or not set(costs) <= set(COSTS):
        problems.append(f"costs: is {costs!r}; allowed is a list of {', '.join(COSTS)}")
    metrics = values.get("metrics") or []
    if not isinstance(metrics, list) or not all(isinstance(each, str) for each in metrics):
        problems.append(f"metrics: expected a list of names, got {metrics!r}")
    elif len(set(metrics)) < len(metrics):
        problems.append(f"metrics: a name stands twice in {', '.join(metrics)}")
    return problems


def _methods(values: Any, usual: Any) -> tuple[list[Method], list[str]]:
    """The rows, and what is wrong with them.

    Args:
        usual: the config of those that name none.
    """
    if not isinstance(values, Mapping):
        return [], [f"methods: expected `name: {{config: ..., set: [...]}}`, got {values!r}"] if values else []
    methods, problems = [], []
    for name, given in values.items():
        where = f"methods.{name}"
        if not isinstance(given, Mapping):
            problems.append(f"{where}: expected {{config: ..., set: [...]}}, got {given!r}")
            continue
        problems += [
            f"{where}.{key}: unknown key{suggestion(key, METHOD_KEYS)}" for key in given if key not in METHOD_KEYS
        ]
        config = given.get("config", usual)
        if not isinstance(config, str):
            problems.append(
                f"{where}.config: {'is not set' if config is None else f'is {config!r}'}; name an experiment"
            )
            continue
        wanted, unfit = _words(given.get("set"), f"{where}.set")
        problems += unfit
        if config.endswith(SUFFIXES) and not Path(config).is_file():
            problems.append(f"{where}.config: {config}: no such file; a name without suffix is a shipped one")
        model, not_defined = given.get("model"), given.get("not_defined") or []
        if not isinstance(not_defined, list):
            problems.append(f"{where}.not_defined: expected a list of columns, got {not_defined!r}")
            not_defined = []
        methods.append(
            Method(str(name), config, wanted, None if model is None else str(model), tuple(map(str, not_defined)))
        )
    return methods, problems


def _columns(values: Mapping[str, Any], methods: list[Method]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The words of every column, and what is wrong with them."""
    given = values.get("columns") or {}
    if not isinstance(given, Mapping):
        return {}, [f"columns: expected `name: [KEY=VALUE, ...]`, got {given!r}"]
    found, problems = {}, []
    for name, wanted in given.items():
        found[str(name)], unfit = _words(wanted, f"columns.{name}")
        problems += [*unfit, *([f"columns.{name}: a comma in its name would divide it"] if "," in str(name) else [])]
    if found and (values.get("folds") or values.get("scores") == "unseen"):
        problems.append("columns: are over all members; leave folds and scores out")
    for method in methods:
        problems += [
            f"methods.{method.name}.not_defined: {name!r} is no column{suggestion(name, [*found])}"
            for name in method.not_defined
            if name not in found
        ]
    if found and any(method.not_defined for method in methods if method.name == values.get("reference")):
        problems.append("reference: must be defined in every column")
    return found, problems


def _words(value: Any, where: str) -> tuple[tuple[str, ...], list[str]]:
    """The config words of a list, and what is wrong with it."""
    wanted = value or []
    if not isinstance(wanted, list) or not all(isinstance(word, str) for word in wanted):
        return (), [f"{where}: expected a list of KEY=VALUE words, got {wanted!r}"]
    return tuple(wanted), [f"{where}: {text}" for text in word_problems(wanted)]


def word_problems(given: list[str] | tuple[str, ...]) -> list[str]:
    """What is wrong with config words that are to hold in several runs of a study."""
    try:
        keys = words(given)
    except BadInput as error:
        return [str(error)]
    return [
        f"{key} is set by the study itself, or fits no grid of runs; leave it out"
        for key in keys
        if our_name(key) in OF_THE_STUDY
    ]
