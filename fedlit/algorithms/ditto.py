"""Ditto: a personal model trained at each site, held near the global one. Li et al., ICML 2021."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedlit.algorithms.base import require
from fedlit.algorithms.fedprox import proximal
from fedlit.algorithms.personalising import Personalising, train_apart
from fedlit.client import Client
from fedlit.messages import Broadcast, Slots
from fedlit.training_state import OF_TRAINING


@dataclass(frozen=True)
class Ditto(Personalising):
    """min_v F_k(v) + pull/2 |v - w_t|^2 at every site, v its personal model and w_t the global one of the round.

    v goes on from round to round, with as many passes or steps as the federation's own local training; it begins as the
    global model. Without a pull it is what the site learns alone, a strong one makes it the global model.

    Args:
        pull: lambda in the paper, which tries 0.05 to 2.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"pull": 0.0}

    pull: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(pull=(self.pull, self.pull >= 0, "0 or more"))

    def personalise(self, client: Client, broadcast: Broadcast, memory: Slots) -> Slots:
        start = memory.get("personal", broadcast.weights)
        before = {slot: memory[f"personal_{slot}"] for slot in OF_TRAINING if f"personal_{slot}" in memory}
        pulled = proximal(broadcast.weights, self.pull)
        personal, after = train_apart(client, start, broadcast.round, before, penalty=pulled)
        return {"personal": personal, **{f"personal_{slot}": values for slot, values in after.items()}}
