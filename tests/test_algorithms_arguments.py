"""No algorithm and no rule takes a number that is none; infinity only where it means that there is no bound."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields, replace

import pytest

from fedlit import aggregation, algorithms
from fedlit.aggregation import Aggregation, NormClipping, UpdateGuard
from fedlit.algorithms import Algorithm
from fedlit.algorithms.clock import Clock

UNBOUNDED = {(NormClipping, "limit"), (UpdateGuard, "num_deviations")}


def numbers():
    """Every number that can be given to an algorithm, a rule or a clock: its class and its name."""
    found = [Clock]
    for room, kind in ((algorithms, Algorithm), (aggregation, Aggregation)):
        classes = [value for _, value in inspect.getmembers(room, inspect.isclass)]
        found += [each for each in classes if issubclass(each, kind) and not inspect.isabstract(each)]
    return [(each, part.name) for each in found for part in fields(each) if "float" in str(part.type)]


def test_there_are_numbers_to_look_at():
    found = {(kind.__name__, name) for kind, name in numbers()}
    assert len(found) > 30
    assert found >= {("Scaffold", "lr"), ("FedProx", "mu"), ("QFedAvg", "q"), ("Ditto", "pull"), ("Clock", "spread")}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("kind", "name"), numbers(), ids=lambda part: getattr(part, "__name__", part))
def test_what_is_no_number_is_refused(kind, name, value):
    given = (value,) if isinstance(getattr(kind(), name), tuple) else value
    if (kind, name) in UNBOUNDED and value == math.inf:
        assert getattr(replace(kind(), **{name: given}), name) == math.inf
        return
    with pytest.raises(ValueError, match=rf"^{name}=.* is not allowed; use"):
        replace(kind(), **{name: given})
