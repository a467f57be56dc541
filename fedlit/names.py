"""Names that other tools have for what is ours, and what to say of a name that is nobody's."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

ALIASES = {
    "num_rounds": "num_server_rounds comm_round global_rounds global_epoch central_num_iterations rounds_to_train",
    "fraction_train": "fraction_fit join_ratio sample_client_rate",
    "clients_per_round": "cohort_size client_num_per_round num_clients_per_iteration users_per_round",
    "min_available_clients": "min_available_nodes min_fit_clients min_clients",
    "local_epochs": "epochs local_num_epochs",
    "local_steps": "num_local_steps local_num_steps",
    "lr": "learning_rate client_lr local_learning_rate",
    "batch_size": "local_batch_size",
    "algorithm.mu": "mu proximal_mu fedproxloss_mu",
    "algorithm.pull": "ditto_lambda lambda",
    "algorithm.lr": "server_learning_rate server_lr eta",
    "algorithm.momentum": "server_momentum",
    "algorithm.beta1": "beta_1",
    "algorithm.beta2": "beta_2",
    "algorithm.tau": "tau",
    "algorithm.alpha": "alpha_coef",
    "algorithm.q": "q_param q",
    "algorithm.aggregate.num_malicious": "num_malicious_clients num_malicious_nodes",
    "algorithm.aggregate.num_chosen": "num_clients_to_keep num_nodes_to_select",
    "transform.differential_privacy.clip": "clipping_norm clipping_bound",
}
BUFFERS = {"global": "average", "drop": "local"}
"""Other tools' values of `buffers`."""

OURS = {alias: ours for ours, aliases in ALIASES.items() for alias in aliases.split()}

SYNONYMS = (
    *("mu proximal_mu fedproxloss_mu", "lr learning_rate eta server_learning_rate", "beta1 beta_1", "beta2 beta_2"),
    *("momentum server_momentum", "alpha partition_alpha alpha_coef", "q q_param", "temperature tau"),
    *("pull lambda lam lambda_ lamda ditto_lambda", "num_malicious num_malicious_clients num_malicious_nodes"),
    "num_chosen num_clients_to_keep num_nodes_to_select",
)
"""Arguments of components that mean the same; whichever the component has is used."""

SYNONYMS_OF = {
    "TrimmedMean": ("fraction beta",),
    "DifferentialPrivacy": ("clip clipping_norm clipping_bound",),
}
"""Those that mean the same in one component alone."""

CONVERSIONS = {
    "qffl_learning_rate": "algorithm=qfedavg has its reciprocal: lipschitz = 1 / qffl_learning_rate",
    "exclude_vars": "keep_local has shell patterns of the entries that stay at their site, such as [*norm*]",
    "personalize": "personal models are an algorithm: algorithm=iopfl algorithm.inner=fedprox",
    "partition_alpha": "sites are dealt before a run: fedlit partition --alpha",
}
"""Other tools' names of what is another value here, and how to find that."""


def suggestion(key: str, known: Iterable[str]) -> str:
    """How to convert it, or `; did you mean X?`, else all that is known unless it is very much."""
    if key in CONVERSIONS:
        return f"; {CONVERSIONS[key]}"
    known = sorted(map(str, known))
    if close := closest(key, known):
        return f"; did you mean {close}?"
    return f"; allowed are {', '.join(known) or 'none'}" if len(known) <= 15 else ""


def closest(key: str, known: Iterable[str]) -> str:
    """The known name that is most like it; empty where none is."""
    return next(iter(get_close_matches(str(key), known, n=1)), "")


def as_list(value: str) -> str:
    """`; write [X]` for one that stands where a list is wanted; quoted where YAML would take a star for an alias."""
    return f'; write ["{value}"]' if value.startswith("*") else f"; write [{value}]"
