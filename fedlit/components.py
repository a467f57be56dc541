"""From a `_target_` node to an object: its arguments checked against the signature, then built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlit.errors import BadInput
from fedlit.names import SYNONYMS, SYNONYMS_OF, as_list, suggestion
from fedlit.schema import Problem
from fedlit.signatures import CHANGES, UNKNOWN, Parameters, as_declared, fits, parameters_of
from fedlit.targets import PACKAGES, locate

PLAIN = frozenset({"augment"})
"""Arguments whose nodes are inspected but handed over as nodes: a pipeline is built where its pictures are decoded, by
`fedlit.data.augmentation`, which builds what is below albumentations and nothing else."""


@dataclass
class Inspection:
    """What is wrong with nodes and those inside them; `renamed` are synonyms of arguments, as pairs of dotted keys."""

    problems: list[Problem] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)

    def component(self, node: Any, key: str, supplied: Sequence[str] = ()) -> Any:
        """Inspect a node; returns the component where making it costs nothing (dataclass, augmentation), else UNKNOWN.

        What is wrong with some arguments does not hide what the component itself finds wrong with the others.
        """
        if not isinstance(node, Mapping) or "_target_" not in node:
            self._add(key, f"expected a mapping with _target_, the import path of a component, got {node!r}")
            return UNKNOWN
        if node["_target_"] is UNKNOWN:
            return UNKNOWN
        try:
            found = locate(str(node["_target_"]))
            named, takes_any = parameters_of(found)
        except (BadInput, ValueError) as error:
            self._add(key, str(error))
            return UNKNOWN
        given, good = set(supplied), {}
        for name, value in node.items():
            if name == "_target_":
                continue
            before = len(self.problems)
            value = completed(found, name, value)
            known = name if name in named or takes_any else self._synonym(name, key, named, node)
            inside = self._inside(value, f"{key}.{name}")
            self._type(inside, f"{key}.{name}", named.get(known))
            given.add(known)
            if len(self.problems) == before and not any(leaf is UNKNOWN for leaf in _leaves(inside)):
                good[known] = value if known in PLAIN else inside
        needed = {name for name, parameter in named.items() if parameter.default is parameter.empty}
        for name in sorted(needed - given):
            self._add(f"{key}.{name}", f"is missing: {node['_target_']} needs it")
        if supplied or not _costs_nothing(found) or not needed <= good.keys():
            return UNKNOWN
        made = self._made(found, good, named, key)
        return made if good.keys() == given else UNKNOWN

    def _synonym(self, name: str, key: str, named: Parameters, node: Mapping[str, Any]) -> str:
        free = named.keys() - node.keys()
        groups = (*SYNONYMS, *SYNONYMS_OF.get(str(node["_target_"]).rpartition(".")[2], ()))
        same = [other for group in groups if name in group.split() for other in group.split() if other in free]
        if same:
            self.renamed.append((f"{key}.{name}", f"{key}.{same[0]}"))
            return same[0]
        self._add(f"{key}.{name}", f"{node['_target_']} has no such argument{suggestion(name, named)}")
        return name

    def _inside(self, value: Any, key: str) -> Any:
        if isinstance(value, Mapping) and "_target_" in value:
            return self.component(value, key)
        return _mapped(self._inside, value, key)

    def _type(self, value: Any, key: str, parameter: inspect.Parameter | None) -> None:
        if parameter is None or value is None is parameter.default:
            return
        if not fits(value, parameter.annotation):
            expected = inspect.formatannotation(parameter.annotation)
            hint = as_list(value) if isinstance(value, str) and fits([value], parameter.annotation) else ""
            self._add(key, f"expected {expected}, got {value!r} ({type(value).__name__}){hint}")

    def _made(self, found: Callable, arguments: Mapping[str, Any], named: Parameters, key: str) -> Any:
        try:
            made = found(**{name: as_declared(value, named.get(name)) for name, value in arguments.items()})
            for text in made.check() if hasattr(made, "check") else ():
                if not text.startswith(tuple(f"{key}.{name}[" for name in PLAIN)):  # inspected above
                    named_key = re.match(rf"{re.escape(key)}(\.\w+)+", text)
                    self._add(named_key.group() if named_key else key, text)
        except Exception as error:  # the component's own validation, whatever it raises
            self._add(key, str(error) or type(error).__name__)
            return UNKNOWN
        return made

    def _add(self, key: str, text: str) -> None:
        self.problems.append(Problem(key, text))


def completed(found: Callable, name: str, value: Any) -> Any:
    """A mapping that names no component changes fields of the argument's default: that default, with the changes.

    So `algorithm.aggregate.by=uniform` is enough where the default is a `Mean`.
    """
    if not isinstance(value, Mapping) or "_target_" in value or not is_dataclass(found):
        return value
    declared = {each.name: each for each in fields(found)}.get(name)
    if declared is None:
        return value
    make = declared.metadata.get(CHANGES, declared.default_factory)
    default = declared.default if make is MISSING else make()
    if not is_dataclass(default) or isinstance(default, type):
        return value
    kept = {each.name: getattr(default, each.name) for each in fields(default) if each.init}
    kind = type(default)
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **kept, **value}


def _costs_nothing(found: Callable) -> bool:
    """To make: a dataclass of ours or of a trusted package, or an augmentation. Those of others may touch a device."""
    package = found.__module__.split(".")[0]
    return package == "albumentations" or (is_dataclass(found) and package not in PACKAGES - {"fedlit"})


def _mapped(function: Callable[[Any, str], Any], value: Any, key: str) -> Any:
    """The function applied to the items of a mapping or list, each with its dotted key; any other value as it is."""
    if isinstance(value, Mapping):
        return {name: function(item, f"{key}.{name}") for name, item in value.items()}
    return [function(item, f"{key}.{index}") for index, item in enumerate(value)] if isinstance(value, list) else value


def _leaves(value: Any) -> Iterator[Any]:
    if not isinstance(value, Mapping | list):
        yield value
        return
    for item in value.values() if isinstance(value, Mapping) else value:
        yield from _leaves(item)


def build(node: DictConfig | Mapping[str, Any], **supplied: Any) -> Any:
    """The object a node describes, with the objects its inner nodes describe (those of PLAIN stay nodes).

    Args:
        supplied: what the program knows (`in_channels`, `params`): given where the component has an argument of that
            name and the node does not set it.

    Raises:
        BadInput: naming the dotted key: an unset value, an argument that does not fit, what the component refuses.
    """
    return _called(bind(node, **supplied), _key(node))


def bind(node: DictConfig | Mapping[str, Any], **supplied: Any) -> partial:
    """The component of a node with its arguments, to be called later or often; see `build`."""
    if not isinstance(node, DictConfig):
        return _bound(node, _key(node), supplied)
    try:
        plain = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise BadInput(f"{error.full_key}: {str(error).splitlines()[0]}; give {error.full_key}=VALUE") from None
    return _bound(plain, _key(node), supplied)


def _key(node: DictConfig | Mapping[str, Any]) -> str:
    return (isinstance(node, DictConfig) and node._get_full_key("")) or "node"


def _bound(node: Mapping[str, Any], key: str, supplied: Mapping[str, Any]) -> partial:
    try:
        found = locate(str(node.get("_target_", "")))
    except BadInput as error:
        raise BadInput(f"{key}: {error}") from error
    named, _ = parameters_of(found)
    arguments = {name: value for name, value in supplied.items() if name in named}
    for name, value in node.items():
        if name != "_target_":
            value = completed(found, name, value)
            inside = value if name in PLAIN else _built_inside(value, f"{key}.{name}")
            arguments[name] = as_declared(inside, named.get(name))
    return partial(found, **arguments)


def _called(component: partial, key: str) -> Any:
    try:
        return component()
    except (BadInput, ImportError, TypeError, ValueError) as error:
        is_lacking = isinstance(error, ImportError) and str(error)
        text = f"{str(error).splitlines()[0]}; install that" if is_lacking else error
        raise BadInput(f"{key}: {component.func.__module__}.{component.func.__qualname__}: {text}") from error


def _built_inside(value: Any, key: str) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        return _called(_bound(value, key, {}), key)
    return _mapped(_built_inside, value, key)
