"""Every algorithm, rule and predictor there is, found by walking the folders."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import fedlit.aggregation
import fedlit.algorithms
import fedlit.prediction
from fedlit.aggregation import Aggregation
from fedlit.algorithms import Algorithm
from fedlit.prediction import Predictor


def components(package, base: type) -> list[type]:
    """The final classes of a kind, by name."""
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)
    ]
    classes = {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base)
    }
    return sorted((kind for kind in classes if not inspect.isabstract(kind)), key=lambda kind: kind.__name__)


ALGORITHMS = components(fedlit.algorithms, Algorithm)
RULES = components(fedlit.aggregation, Aggregation)
PREDICTORS = components(fedlit.prediction, Predictor)
