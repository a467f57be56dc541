"""Fine-tuning: the global model, trained on at each site and not fed back. Cheng et al., arXiv 2108.07313."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedlit.algorithms.base import require
from fedlit.algorithms.personalising import Personalising, train_apart
from fedlit.client import Client
from fedlit.messages import Broadcast, Slots


@dataclass(frozen=True)
class FineTuning(Personalising):
    """The personal model is the newest global model that clients have seen, trained on at the site.

    That is the model which the round began with: it is fine-tuned beside the local update of every round, and scored
    next to the global model that the round ended with. The learning rate is that of the first round, whatever the
    schedule of the federation.

    Args:
        epochs: passes over the site's pictures.
        steps: optimizer steps instead of passes.
    """

    epochs: int = 1
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(epochs=(self.epochs, self.epochs >= 1, "1 or more"))
        if self.steps is not None:
            require(steps=(self.steps, self.steps >= 1, "1 or more"))

    def personalise(self, client: Client, broadcast: Broadcast, memory: Slots) -> Slots:
        epochs = self.epochs if self.steps is None else None
        plan = replace(client.plan, epochs=epochs, steps=self.steps, schedule=None, optimizer_state="recreate")
        personal, _ = train_apart(client, broadcast.weights, broadcast.round, {}, plan=plan)
        return {"personal": personal}
