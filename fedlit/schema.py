"""What an experiment may say: the keys of the closed part with type, default and range."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlit.names import ALIASES, OURS, as_list, suggestion


def such_that(holds: Callable[[Any], bool], allowed: str, default: Any = MISSING) -> Any:
    """A field whose value, unless None, must hold; `allowed` says so to the user."""
    return field(default=default, metadata={"holds": holds, "allowed": allowed})


def at_least(low: int, default: Any = MISSING) -> Any:
    return such_that(lambda value: value >= low, f"{low} or more", default)


def above_zero(default: Any) -> Any:
    return such_that(lambda value: 0 < value < inf, "above 0", default)


def one_of(default: Any, *others: Any) -> Any:
    allowed = (default, *others)
    return such_that(lambda value: value in allowed, "one of " + ", ".join(map(str, allowed)).lower(), default)


def is_devices(value: int | str) -> bool:
    return value >= 1 if isinstance(value, int) else bool(re.fullmatch(r"auto|\d+(,\d+)*,?", value))


def is_share(value: int | str) -> bool:
    return value >= 1 if isinstance(value, int) else value in ("auto", "world")


@dataclass
class Report:
    pictures: bool = True  # false where pictures must not travel


@dataclass
class Experiment:
    """The closed part. A node is a mapping with `_target_`: the component's import path, and its arguments."""

    name: str = such_that(lambda value: re.fullmatch(r"\w[\w.-]*", value) is not None, "letters, digits, '.', '_', '-'")
    seed: int = at_least(0, 0)
    # what is learnt
    data: dict[str, Any] = MISSING
    network: dict[str, Any] = MISSING
    loss: dict[str, Any] = MISSING
    algorithm: dict[str, Any] = MISSING
    start: dict[str, Any] | None = None  # how the first global model is made at the server
    prediction: dict[str, Any] = field(default_factory=dict)  # name -> node
    transform: dict[str, Any] = field(default_factory=dict)  # name -> node: what happens to updates on their way
    privacy: dict[str, Any] | None = None  # of every case, in local training
    metrics: dict[str, Any] = field(default_factory=lambda: {"_target_": "fedlit.metrics.Scoring"})
    activation: str = one_of("sigmoid", "softmax")
    unseen_sites: list[str] | None = None  # None: those the data have
    server_site: str | None = None
    unseen_roots: list[str] = field(default_factory=list)  # further folders with a manifest: all their sites are unseen
    share_personal: bool = False  # members send models of their own once, after the kept round
    # rounds
    num_rounds: int = at_least(1)
    clients_per_round: int | None = at_least(1, None)
    fraction_train: float | None = such_that(lambda value: 0 < value <= 1, "above 0, at most 1", None)
    min_available_clients: int = at_least(1, 1)
    on_client_error: str = one_of("fail", "drop")
    # scoring
    eval_every: int = at_least(1, 1)  # rounds
    keep_by: str = one_of("worst", "mean")
    patience: int | None = at_least(1, None)  # evaluations without a better one
    # local training
    local_epochs: int | None = at_least(1, 1)
    local_steps: int | None = at_least(1, None)
    batch_size: int = at_least(1, 8)  # pictures of one client
    lr: float = above_zero(1e-3)
    optimizer: dict[str, Any] = field(default_factory=lambda: {"_target_": "torch.optim.Adam", "lr": "${lr}"})
    schedule: dict[str, Any] | None = None  # global round -> factor on lr
    optimizer_state: str = one_of("recreate", "keep")
    gradient_clip: float | None = above_zero(None)  # norm
    accumulate_batches: int = at_least(1, 1)
    buffers: str = one_of("average", "local")  # float buffers; integer ones are never averaged
    keep_local: list[str] = field(default_factory=list)  # shell patterns of entries that stay at their site
    # machine
    accelerator: str = one_of("auto", "cpu", "cuda", "mps")
    devices: int | str = such_that(is_devices, "1 or more, auto, or a list such as 0,1", 1)
    num_nodes: int = at_least(1, 1)
    processes_per_client: int | str = such_that(is_share, "1 or more, auto or world", "auto")
    client_timeout: float | None = above_zero(None)  # seconds of a client's local update
    num_workers: int = at_least(0, 0)
    precision: str = one_of("auto", "32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true")
    channels_last: bool | str = one_of("auto", True, False)
    deterministic: bool = False
    # the run
    run_dir: str = "runs/${name}"
    resume: str = one_of("auto", "never", "must")
    overwrite: bool = False
    inspect_data: bool = True  # before the first round; what is found are warnings
    report: Report = field(default_factory=Report)
    loggers: dict[str, Any] = field(default_factory=dict)  # name -> node


KEYS = tuple(each.name for each in dataclasses.fields(Experiment))

GROUPS = ("data", "network", "loss", "algorithm", "start", "privacy", "optimizer", "schedule", "metrics")
"""Keys that hold one node."""

INNER_GROUPS = {
    "algorithm": {"aggregate": "aggregation", "inner": "algorithm"},
    "aggregation": {"rule": "aggregation", "weigh": "aggregation"},
}
"""Arguments of a group's nodes that hold one node, and the group of that one."""

NAMED_GROUPS = ("prediction", "transform", "loggers")
"""Keys that hold nodes by name."""

EXCLUSIVE = (("clients_per_round", "fraction_train"), ("local_epochs", "local_steps"))


class Problem(NamedTuple):
    key: str
    text: str
    file: str = ""

    def __str__(self) -> str:
        where = f" ({self.file})" if self.file else ""
        return self.text + where if self.text.startswith(self.key) else f"{self.key}{where}: {self.text}"


def our_name(key: str) -> str:
    """What we call a top-level key; hyphens are read as underscores. Unknown keys stay as they are."""
    plain = key.replace("-", "_")
    plain = OURS.get(plain, plain)
    return plain if plain in KEYS or plain in ALIASES else key


def typed(values: Mapping[str, Any]) -> tuple[DictConfig, list[Problem]]:
    """The experiment with its defaults, and what is wrong with its closed part; what is wrong keeps its default."""
    config = OmegaConf.structured(Experiment)
    problems = _fill(config, Experiment, values)
    wrong = {problem.key for problem in problems}
    for key in KEYS:
        if OmegaConf.is_missing(config, key) and key not in wrong and not OmegaConf.is_interpolation(config, key):
            how = "; name a shipped one or give a node with _target_" if key in GROUPS else f"; give {key}=VALUE"
            problems.append(Problem(key, f"is not set{how}"))
    for one, other in EXCLUSIVE:
        if values.get(one) is not None and values.get(other) is not None:
            problems.append(Problem(one, f"cannot be set together with {other}; set one of them to null"))
    if values.get("local_steps") is not None and values.get("local_epochs") is None:
        config.local_epochs = None
    elif config._get_node("local_epochs")._value() is None:
        problems.append(Problem("local_epochs", "is null; give local_epochs or local_steps"))
    return config, problems


def _fill(config: DictConfig, schema: type, values: Mapping[str, Any], prefix: str = "") -> list[Problem]:
    fields = {each.name: each for each in dataclasses.fields(schema)}
    problems = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in fields:
            problems.append(Problem(key, f"unknown key{suggestion(name, fields)}"))
        elif key == "report" and isinstance(value, Mapping):
            problems += _fill(config.report, Report, value, "report.")
        else:
            problems += _set(config, fields[name], key, value)
    return problems


def _set(config: DictConfig, declared: dataclasses.Field, key: str, value: Any) -> list[Problem]:
    try:
        if declared.type.startswith("list[str]") and any(isinstance(item, dict | list) for item in value or ()):
            raise ValueError  # OmegaConf would turn a mapping into text
        OmegaConf.update(config, declared.name, value, merge=declared.type == "dict[str, Any]")
    except (OmegaConfBaseException, ValueError, TypeError):
        expected = "a mapping with _target_" if declared.type.startswith("dict") else declared.type
        hint = as_list(value) if declared.type.startswith("list[str]") and isinstance(value, str) else ""
        return [Problem(key, f"expected {expected}, got {value!r} ({type(value).__name__}){hint}")]
    return []


def out_of_range(values: Mapping[str, Any]) -> list[Problem]:
    """The range of every value that is a plain one; interpolations must be resolved."""
    problems = []
    for each in dataclasses.fields(Experiment):
        value, rule = values.get(each.name), each.metadata
        if rule and isinstance(value, bool | int | float | str) and not rule["holds"](value):
            problems.append(Problem(each.name, f"is {value}; allowed is {rule['allowed']}"))
    return problems
