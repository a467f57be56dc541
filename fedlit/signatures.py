"""What a component's signature declares: its parameters by name, and which values from YAML their types take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

UNKNOWN = object()
"""Stands for a value that is not known yet: left unset, unresolvable, or supplied when the component is built."""

CHANGES = "changes"
"""In the metadata of a dataclass field that is None until other fields are known: what a mapping changes fields of."""

Parameters = Mapping[str, inspect.Parameter]


def parameters_of(found: Callable[..., Any]) -> tuple[Parameters, bool]:
    """The parameters that can be given by name, and whether any other name is taken too.

    Raises:
        ValueError: the callable has no signature.
    """
    try:
        signature = inspect.signature(found, eval_str=True)
    except Exception:  # annotations that only a type checker can read: their types are not checked then
        signature = inspect.signature(found)
    hints: Mapping[str, Any] = {}
    if is_dataclass(found):  # whose inherited fields are annotated in other files
        with suppress(NameError):
            hints = get_type_hints(found)
    parameters = [
        each.replace(annotation=hints.get(each.name, each.annotation)) for each in signature.parameters.values()
    ]
    named = {each.name: each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    return named, any(each.kind is each.VAR_KEYWORD for each in parameters)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML can be meant by a type hint; True where the hint is none of the simple ones."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if value is UNKNOWN:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin in (None, NoneType):
        return value is None
    if origin in (bool, str):
        return isinstance(value, origin)
    if origin in (int, float):
        return isinstance(value, int | origin) and not isinstance(value, bool)
    if origin in (dict, Mapping):
        pairs = value.items() if isinstance(value, Mapping) and args else ()
        return isinstance(value, Mapping) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in pairs)
    if isinstance(value, Mapping) and isinstance(origin, type) and origin is not Any:
        return issubclass(dict, origin)  # names no component
    if isinstance(origin, type) and origin.__module__.split(".")[0] == "fedlit":
        is_protocol = getattr(origin, "_is_protocol", False)  # which says nothing of a component
        return not isinstance(value, str | int | float | list) if is_protocol else isinstance(value, origin)
    if origin not in (list, tuple, Sequence):
        return True
    if not isinstance(value, list | tuple):
        return False
    if origin is tuple and args and args[-1] is not ...:
        return len(value) == len(args) and all(map(fits, value, args))
    return not args or all(fits(item, args[0]) for item in value)


def as_declared(value: Any, parameter: inspect.Parameter | None) -> Any:
    """YAML has no tuples: a list becomes one where the signature says tuple and not list."""
    hint = parameter.annotation if parameter is not None else None
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    origins = [get_origin(each) or each for each in hints]
    return tuple(value) if isinstance(value, list) and tuple in origins and list not in origins else value
