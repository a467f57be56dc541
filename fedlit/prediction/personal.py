"""A member's personal model, where the algorithm made one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlit.data.pictures import Unlabelled
from fedlit.prediction.base import Learnt, Model, Predictor
from fedlit.prediction.members import own_model, personal


@dataclass(frozen=True)
class Personal(Predictor):
    """What the site remembers as `personal`, or its `average` mixed with the newest global model, as it shares them.

    A site with neither has no personal model.
    """

    roles: ClassVar[tuple[str, ...]] = ("member",)
    is_of_members: ClassVar[bool] = True

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        own = own_model(learnt.site, learnt.server, learnt.memory, kept=())
        if own is None:
            return None
        learnt.resident.load(personal(learnt, own).weights)
        return learnt.network
