"""An experiment's file: read with what it includes and the command line, checked as a whole, compared with another."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlit.components import Inspection, bind, build
from fedlit.errors import BadInput
from fedlit.fedfms_score import FEDFMS, FORMERLY
from fedlit.schema import GROUPS, NAMED_GROUPS, Problem, out_of_range, typed
from fedlit.signatures import UNKNOWN
from fedlit.sources import COMMAND_LINE, Layer, Reading, flat, shipped, with_included, words

__all__ = ["Checked", "Loaded", "Problem", "bind", "build", "check", "differences", "flatten", "load", "shipped"]

SUPPLIED = {"network": ("in_channels", "out_channels"), "optimizer": ("params",), "loggers": ("root_dir",)}
"""Arguments that the program gives when it builds a component."""


@dataclass(frozen=True)
class Loaded:
    """What was written, before types, defaults and interpolation.

    Args:
        notices: one line for each name of another tool that was understood, and for each node that was replaced.
        sources: dotted key -> the file that set it, or `command line`.
        problems: what could not be read as it is meant, such as an unknown name; `check` reports it with all others.
    """

    config: DictConfig
    notices: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Checked:
    """The typed experiment with all its problems at once; `unset` are the keys left at `???`."""

    config: DictConfig
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]
    unset: tuple[str, ...]

    def require(self) -> DictConfig:
        """The experiment, ready to run.

        Raises:
            BadInput: with every problem and every key left unset, one a line.
        """
        lines = [*map(str, self.problems), *(f"{key}: is not set; give {key}=VALUE" for key in self.unset)]
        if lines:
            raise BadInput("\n".join(lines))
        return self.config


def load(path: str | Path, overrides: Iterable[str] = ()) -> Loaded:
    """Read an experiment from a file (or the name of a shipped one) and `key=value` words.

    What a file includes comes first, its own keys win, the command line wins over both. A node is replaced by a bare
    name (`algorithm: local`) and, in a file, by a node with another `_target_`; anything else is merged into it. Dotted
    keys (`algorithm.mu=0.1`, in a file too) come after whole ones, in whatever order they are written.

    Raises:
        BadInput: a file or a word that cannot be read; what it says is judged by `check`.
    """
    file = Path(path) if Path(path).is_file() else shipped(path)
    reading = Reading()
    for layer in (*with_included(file), Layer(words(overrides), COMMAND_LINE, Path())):
        reading.add(layer)
    reading.tree.setdefault("name", file.stem)
    try:
        config = OmegaConf.create(reading.tree)
    except OmegaConfBaseException as error:
        raise BadInput(f"{file}: {error.full_key or ''}: {str(error).splitlines()[0]}") from None
    return Loaded(config, tuple(reading.notices), reading.sources, tuple(reading.problems))


def check(loaded: Loaded) -> Checked:
    """Find all that is wrong before a device is touched: keys, types, ranges, interpolation, components, arguments."""
    config, problems = typed(_plain(loaded.config))
    unread = {problem.key for problem in loaded.problems}
    problems = [*loaded.problems, *(problem for problem in problems if problem.key not in unread)]
    unset: list[str] = []
    values = {str(key): _resolved(config, key, problems, unset) for key in config}
    problems += [*out_of_range(values), *_unscorable(values)]
    inspection = Inspection()
    nodes = {key: values[key] for key in GROUPS}
    for group in NAMED_GROUPS:
        named = values[group] if isinstance(values[group], dict) else {}
        nodes |= {f"{group}.{name}": node for name, node in named.items()}
    made: dict[str, Any] = {}
    for key, node in nodes.items():
        if node is not UNKNOWN and (node is not None or "." in key):  # a group may be null, what has a name not
            made[key] = inspection.component(node, key, SUPPLIED.get(key.partition(".")[0], ()))
    problems += [*_unshared(made, values), *_unsendable(made, values), *_unprivate(made, values)]
    remarks = [f"{old} is called {new} here" for old, new in inspection.renamed]
    remarks += [
        f"metrics.{key}: {name} is called {FORMERLY[name]} now" for key, name in _metrics(values) if name in FORMERLY
    ]
    if values["share_personal"] is True and not _has_personal(made, values):
        name = type(made["algorithm"]).__name__
        remarks.append(
            f"share_personal=true does nothing: {name} makes no personal models, and members keep no entries"
        )
    for key in unset:
        group = key.partition(".")[0]
        remarks.append(f"{key} is not set: {'pictures' if group == 'data' else group} not checked")
    for old, new in inspection.renamed:
        _rename(config, old, new)
    problems += inspection.problems
    found = (each._replace(file=each.file or _source(each.key, loaded.sources)) for each in problems)
    return Checked(config, tuple(dict.fromkeys(found)), tuple(remarks), tuple(unset))


def _unscorable(values: Mapping[str, Any]) -> list[Problem]:
    """Metrics that are not defined for the activation."""
    if values["activation"] != "softmax":
        return []
    return [
        Problem(f"metrics.{key}", f"{name} cuts the one raw logit of a class; use activation=sigmoid or leave it out")
        for key, name in _metrics(values)
        if FORMERLY.get(name, name) in FEDFMS
    ]


def _metrics(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(validation or test, metric) of all that are named."""
    metrics = values["metrics"] if isinstance(values["metrics"], dict) else {}
    return [
        (key, name)
        for key in ("validation", "test")
        for name in (metrics[key] if isinstance(metrics.get(key), list) else [])
        if isinstance(name, str)
    ]


def _unshared(made: Mapping[str, Any], values: Mapping[str, Any]) -> list[Problem]:
    """Predictors that need what members do not share, or do not have."""
    needing = [
        key for key, component in made.items() if key.startswith("prediction.") and len(getattr(component, "needs", ()))
    ]
    problems = []
    for key in needing:
        what = f"{key.partition('.')[2]} needs the members' personal models"
        if values["share_personal"] is not True:
            text = f"{what}; set share_personal=true, and each member sends its own once, after the kept round"
            problems.append(Problem(key, text))
        if not _has_personal(made, values):
            name = type(made["algorithm"]).__name__
            text = f"{what}, and {name} makes none; use an algorithm that does, such as algorithm=iopfl"
            problems.append(Problem(key, text))
    return problems


def _has_personal(made: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Members have models of their own, or entries of the common one that they keep."""
    models = getattr(made.get("algorithm"), "models", ("personal",))
    keeps: bool = getattr(made.get("algorithm"), "keeps_local", False)
    return "personal" in models or keeps or bool(values["keep_local"]) or values["buffers"] == "local"


def _unsendable(made: Mapping[str, Any], values: Mapping[str, Any]) -> list[Problem]:
    """Transforms of updates that fit neither each other nor what else the experiment asks for."""
    named = [(key, each) for key, each in made.items() if key.startswith("transform.") and each is not UNKNOWN]
    problems = []
    for place, (key, transform) in enumerate(named):
        before = [each for _, each in named[:place]]
        if not hasattr(transform, "problems"):
            problems.append(Problem(key, f"{type(transform).__name__} is no transform of updates"))
            continue
        texts = transform.problems(made.get("algorithm"), values, before)
        problems += [Problem(key, text) for text in texts]
    return problems


def _unprivate(made: Mapping[str, Any], values: Mapping[str, Any]) -> list[Problem]:
    """What else the experiment asks for that would tell of a case."""
    privacy = made.get("privacy")
    if privacy is None or privacy is UNKNOWN:
        return []
    if not hasattr(privacy, "problems"):
        return [Problem("privacy", f"{type(privacy).__name__} is no privacy of local training")]
    transforms = {key: each for key, each in made.items() if key.startswith("transform.")}
    return [Problem("privacy", text) for text in privacy.problems(made.get("algorithm"), values, transforms)]


def refusal(path: str | Path, problems: Sequence[object]) -> BadInput:
    """The error that names every problem of a config."""
    listed = "".join(f"\n  {problem}" for problem in problems)
    return BadInput(f"{path}: {len(problems)} problem{'s' * (len(problems) > 1)}{listed}")


def _plain(config: DictConfig, *, resolve: bool = False) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))


def _rename(config: DictConfig, old: str, new: str) -> None:
    above, _, name = old.rpartition(".")
    parent = OmegaConf.select(config, above)
    OmegaConf.update(config, new, _plain(parent)[name], force_add=True)
    del parent[name]


def _resolved(parent: Any, key: Any, problems: list[Problem], unset: list[str]) -> Any:
    """The plain value at a key, with UNKNOWN for every part that is unset or cannot be resolved."""
    full = parent._get_full_key(key)
    try:
        if OmegaConf.is_missing(parent, key):
            if "." in full and not OmegaConf.is_interpolation(parent, key):
                unset.append(full)  # whole groups left unset are problems of the closed part
            return UNKNOWN
        value = parent[key]
    except OmegaConfBaseException as error:
        text = str(error).splitlines()[0]
        if text not in (problem.text for problem in problems):  # not again for what interpolates this key
            problems.append(Problem(full, text))
        return UNKNOWN
    if isinstance(value, DictConfig):
        return {name: _resolved(value, name, problems, unset) for name in value}
    return [_resolved(value, i, problems, unset) for i in range(len(value))] if OmegaConf.is_list(value) else value


def _source(key: str, sources: Mapping[str, str]) -> str:
    return next((file for leaf, file in sources.items() if f"{leaf}.".startswith(f"{key}.")), "")


def flatten(config: DictConfig) -> dict[str, Any]:
    """Dotted key -> resolved value; a list of plain values is one value, an unset value is `???`."""
    return dict(flat(_plain(config, resolve=True), ""))


def differences(old: DictConfig, new: DictConfig, free: Collection[str] = frozenset()) -> list[str]:
    """One line, `batch_size: 8 -> 4`, for each key that differs; those in `free`, with all below them, may."""
    before, after = flatten(old), flatten(new)
    free = tuple(f"{name}." for name in free)
    bound = sorted(key for key in before.keys() | after.keys() if not f"{key}.".startswith(free))
    both = ((key, before.get(key, "not there"), after.get(key, "not there")) for key in bound)
    changed = ((key, one, other) for key, one, other in both if one != other)
    # a key that the old config did not have yet, and that is not used now, changes nothing
    return [f"{key}: {one} -> {other}" for key, one, other in changed if key in before or other is not None]
