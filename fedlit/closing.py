"""What a run that comes to its end tells of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fedlit.checkpoint import State
from fedlit.messages import Slots
from fedlit.patients import read_patients
from fedlit.progress import Progress
from fedlit.record import Record
from fedlit.summary import summarise
from fedlit.training_state import OF_TRAINING
from fedlit.weights import sha256

if TYPE_CHECKING:
    from fedlit.experiment import Experiment


def account(experiment: Experiment, kept: State, last: State, progress: Progress, record: Record) -> dict[str, Any]:
    """What summary.json holds: scores (in the first process alone), weights, costs, and what was not as planned."""
    config, fleet, algorithm = experiment.config, experiment.fleet, experiment.algorithm
    personal = fleet.each(lambda name: personal_sha256(last.memories.get(name, {})), sorted(fleet.clients))
    hashes = "\n".join([sha256(last.server.weights), *(f"{name} {value}" for name, value in personal.items())])
    mixed = fleet.each(lambda name: own_share(kept.memories.get(name, {})), fleet.members)
    shares = {name: share for name, share in mixed.items() if share is not None}
    clock = last.server.scalars.get("clock")  # of an algorithm with a simulated one
    return {
        **(scores(experiment, kept.server.round, record) if fleet.is_first else {}),
        **({} if clock is None else {"simulated_seconds": clock}),
        **({"exchanged": algorithm.exchanged} if algorithm.exchanged else {}),
        **({"own_share": shares} if shares else {}),
        "name": config.name,
        "algorithm": type(algorithm).__name__,
        "kept_round": kept.server.round,
        "kept_by": kept_by(experiment, progress),
        "num_rounds": progress.num_rounds,
        "start": None if experiment.beginning is None else experiment.beginning.report(),
        "seconds_per_round": progress.seconds / progress.num_rounds,
        "bytes_up": progress.bytes_up,
        "bytes_down": progress.bytes_down,
        "peak_bytes": fleet.peak_bytes(),
        "weights_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        "precision": config.precision,
        "idle_fraction": fleet.idle_fractions(),
        **fleet.channel.report(progress.num_rounds, *experiment.cohort_size),
        **({"privacy": experiment.ledger.report(progress.num_rounds)} if experiment.ledger else {}),
        **({"guard": of_guard(fleet.members, progress)} if algorithm.aggregate.is_guarded else {}),
        "dropped": list(progress.dropped),
        "warnings": list(dict.fromkeys((*progress.warnings, *experiment.display.warnings))),
    }


def kept_by(experiment: Experiment, progress: Progress) -> str:
    """By what the kept round was chosen."""
    if progress.kept_round:
        return f"{experiment.config.keep_by} validation Dice"
    if any(len(site.val) for site in experiment.federation.sites.values() if site.role == "member"):
        return f"last round, since none was judged (eval_every={experiment.config.eval_every})"
    return "last round, for want of validation cases"


def scores(experiment: Experiment, round: int, record: Record) -> dict[str, Any]:
    """What the run is judged by, at a round."""
    return summarise(
        record.cases(),
        record.metrics(),
        round=round,
        model=experiment.main_model,
        elsewhere=experiment.examination.elsewhere,
        patients=read_patients(experiment.run_dir.path),
    )


def of_guard(members: Iterable[str], progress: Progress) -> dict[str, Mapping[str, int]]:
    """In how many rounds the update guard has dropped or clipped each member."""
    return {name: progress.screened.get(name, {"dropped": 0, "clipped": 0}) for name in members}


def own_share(memory: Slots) -> float | None:
    """How much of a client's personal model is a model of its own, from 0 to 1, where it is a mixture."""
    share = memory.get("mixture", {}).get("share")  # memories that earlier versions saved may lack it
    return None if share is None else share.item()


def personal_sha256(memory: Slots) -> str:
    """One hash of what makes a client's model its own: its personal state and its kept entries."""
    return sha256(*(memory[slot] for slot in sorted(memory) if slot not in OF_TRAINING))
