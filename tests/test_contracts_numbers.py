"""Every number of every algorithm and rule, those of what is inside it too, is set from the command line."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml

from fedlit.aggregation import Aggregation
from fedlit.algorithms import Algorithm
from fedlit.config import build, check, load
from tests.components import ALGORITHMS, RULES

CONFIGS = Path(__file__).parents[1] / "configs"


def numbers(component) -> dict:
    """Dotted name of every numeric field -> another value that it may have; of components inside it too."""
    found, hints = {}, get_type_hints(type(component))
    for name in [each.name for each in dataclasses.fields(component)]:
        value, hint = getattr(component, name), hints[name]
        if dataclasses.is_dataclass(value):
            found |= {f"{name}.{inner}": other for inner, other in numbers(value).items()}
        elif (other := another(value, hint)) is not None:
            found[name] = other
    return found


def another(value, hint):
    """A number, or some, other than `value`; None where the field takes none."""
    if isinstance(value, tuple):
        others = tuple(another(each, float) for each in value)
        return others if others and None not in others else None
    if isinstance(value, float):
        return value / 2 or 0.25
    if isinstance(value, int) and not isinstance(value, bool):
        return value + 1
    return next(
        (other for kind, other in {int: 2, float: 0.5}.items() if value is None and kind in get_args(hint)), None
    )


def config_of(kind) -> str:
    """The bare name of a component's shipped config."""
    group = CONFIGS / ("algorithm" if issubclass(kind, Algorithm) else "aggregation")
    targets = {path.stem: yaml.safe_load(path.read_text())["_target_"] for path in sorted(group.glob("*.yaml"))}
    return next(stem for stem, target in targets.items() if target.endswith(f".{kind.__name__}"))


def assert_reached(config_file, key, kind, *words) -> None:
    """Each number of the component at `key` of an experiment is what the command line says."""
    wanted = numbers(kind())
    given = [f"{key}.{name}={[*value] if isinstance(value, tuple) else value}" for name, value in wanted.items()]
    checked = check(load(config_file, [*words, f"{key}={config_of(kind)}", *given]))
    experiment = {"algorithm": build(checked.require()["algorithm"])}
    found = {name: reduce(value_at, f"{key}.{name}".split("."), experiment) for name in wanted}
    assert found == wanted


def value_at(component, name):
    return component[name] if isinstance(component, dict) else getattr(component, name)


NUMERIC = [kind for kind in (*ALGORITHMS, *RULES) if numbers(kind())]
HOLDERS = [
    (holder, name, base)
    for holder in (*ALGORITHMS, *RULES)
    for name, base in get_type_hints(holder).items()
    if base in (Algorithm, Aggregation) and name != "aggregate"
]


def holder_of(kind) -> tuple[type, str]:
    """A component that can hold one of this kind, by turns, and its field; (None, "") if there is none."""
    fitting = []
    for holder, name, base in HOLDERS:
        with suppress(ValueError):
            if issubclass(kind, base):
                holder(**{name: kind()})
                fitting.append((holder, name))
    return fitting[NUMERIC.index(kind) % len(fitting)] if fitting else (None, "")


@pytest.mark.parametrize("kind", NUMERIC, ids=lambda kind: kind.__name__)
def test_every_number_is_reached_from_the_command_line(kind, config_file):
    key = "algorithm" if issubclass(kind, Algorithm) else "algorithm.aggregate"
    assert_reached(config_file, key, kind)
    holder, name = holder_of(kind)
    if holder is not None:
        assert_reached(config_file, f"{key}.{name}", kind, f"{key}={config_of(holder)}")
