"""Ensemble: the members' personal models vote with their probabilities. Guha et al., One-Shot FL, 2019."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlit.data.pictures import Unlabelled
from fedlit.prediction.base import Learnt, Model, Predictor
from fedlit.prediction.members import members, predictions


@dataclass(frozen=True)
class Ensemble(Predictor):
    """The mean of the members' probabilities, each member counting once; for unseen sites.

    A batch costs one forward pass per member. The global model does not vote.
    """

    is_final: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("unseen",)
    is_of_members: ClassVar[bool] = True
    needs = ("weights",)

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        return predictions(learnt, members(learnt))
