"""Makes the numbers of flwr's strategies again from the random tensors beside this file, and compares, or writes them.

flwr's pins clash with ours, so it lives elsewhere: python -m venv V; V/bin/pip install flwr==1.41.0 safetensors;
V/bin/python tests/golden/from_flwr.py [--write]
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.common import FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi, QFedAvg
from flwr.server.strategy.aggregate import (
    aggregate_bulyan,
    aggregate_krum,
    aggregate_median,
    aggregate_trimmed_avg,
)
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
SAMPLES = {"a": 7, "b": 5, "c": 4}
ROUND = 4


def rules(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Aggregates of the `rows`, 5 pictures each."""
    updates = [([row], 5) for row in tensors["rows"]]
    found = {
        "median": aggregate_median(updates),
        "trimmed_mean": aggregate_trimmed_avg(updates, 0.2),
        "krum": aggregate_krum(updates, 2, 0),
        "multi_krum": aggregate_krum(updates, 2, 7),
        "bulyan": aggregate_bulyan(updates, 2, aggregation_rule=aggregate_krum, to_keep=0),
    }
    return {name: value[0] for name, value in found.items()}


def server_steps(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters after one aggregate_fit of each strategy."""
    names = sorted(key.partition("/")[2] for key in tensors if key.startswith("before/"))
    of = {part: [tensors[f"{part}/{name}"] for name in names] for part in {key.partition("/")[0] for key in tensors}}
    start = ndarrays_to_parameters(of["before"])
    moments = {"m_t": of["first_moment"], "v_t": of["second_moment"]}
    adaptive: dict[str, Any] = {"initial_parameters": start, "eta": 0.1, "tau": 1e-3, **moments}
    adam = strategy(FedAdam, **adaptive, beta_1=0.9, beta_2=0.99)
    correction = np.sqrt(1 - 0.99 ** (ROUND + 1)) / (1 - 0.9 ** (ROUND + 1))  # which the paper does not have
    after = {
        "FedAdam": [old + (new - old) / correction for old, new in zip(of["before"], step(adam, of), strict=True)],
        "FedYogi": step(strategy(FedYogi, **{**adaptive, "eta": 0.01}, beta_1=0.9, beta_2=0.99), of),
        "FedAdagrad": step(strategy(FedAdagrad, **adaptive), of),
    }
    momentum = strategy(FedAvgM, initial_parameters=start, server_learning_rate=0.7, server_momentum=0.9)
    momentum.momentum_vector = [-value for value in of["first_moment"]]
    after["FedAvgM"] = step(momentum, of, round=2)
    fair = strategy(QFedAvg, initial_parameters=start, q_param=0.3, qffl_learning_rate=0.05)
    fair.pre_weights = of["before"]
    fair.evaluate = lambda *_: (0.8, {})
    after["QFedAvg"] = step(fair, of)
    return {
        f"{part}/{name}": value for part, values in after.items() for name, value in zip(names, values, strict=True)
    }


def strategy(kind: type, **arguments: Any) -> Any:
    state = {name: arguments.pop(name) for name in ("m_t", "v_t") if name in arguments}
    made = kind(**arguments)
    for name, value in state.items():
        setattr(made, name, value)
    return made


def step(made: Any, of: dict[str, list[np.ndarray]], round: int = ROUND) -> list[np.ndarray]:
    results = [
        (SimpleNamespace(cid=k), FitRes(Status(0, ""), ndarrays_to_parameters(of[f"update_{k}"]), count, {"loss": 0.8}))
        for k, count in SAMPLES.items()
    ]
    parameters, _ = made.aggregate_fit(round, results, [])
    return parameters_to_ndarrays(parameters)


def main() -> None:
    for file, make in (("robust_rules_flwr", rules), ("flwr_server_steps", server_steps)):
        path = HERE / f"{file}.safetensors"
        tensors = load_file(path)
        found = make(tensors)
        if "--write" in sys.argv:
            save_file({**tensors, **found}, path)
        apart = {name: float(np.abs(value - tensors[name]).max()) for name, value in found.items()}
        print(file, {name: f"{value:.1e}" for name, value in apart.items()})
        if max(apart.values()) > 1e-6:
            sys.exit(f"{file}: flwr has other numbers")


if __name__ == "__main__":
    main()
