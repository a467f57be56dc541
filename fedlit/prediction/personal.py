"""A member's personal model, where the algorithm made one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlit.data.pictures import Unlabelled
from fedlit.prediction.base import Learnt, Model, Predictor


@dataclass(frozen=True)
class Personal(Predictor):
    """The weights that the site remembers as `personal`; a site without them has no personal model."""

    roles: ClassVar[tuple[str, ...]] = ("member",)

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        if "personal" not in learnt.memory:
            return None
        learnt.resident.load(learnt.memory["personal"])
        return learnt.network
