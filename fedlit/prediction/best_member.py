"""Best member: the personal model that does best at all members. Guha et al., One-Shot FL, 2019."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlit.data.pictures import Unlabelled
from fedlit.errors import BadInput
from fedlit.prediction.base import Learnt, Model, Predictor
from fedlit.prediction.members import own_models, personal


@dataclass(frozen=True)
class BestMember(Predictor):
    """The personal model with the largest mean Dice over the members' validation cases; for unseen sites.

    Of equal ones the first by name. The unseen site has no say in it.
    """

    is_final: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("unseen",)
    needs = ("weights", "scores")

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        experts = own_models(learnt)
        for expert in experts:
            if "dice" not in expert.scalars:
                raise BadInput(f"{expert.client} shares no validation Dice to be chosen by: evaluate the run again")
        best = max(experts, key=lambda expert: expert.scalars["dice"])  # the first of equal ones
        learnt.resident.load(personal(learnt, best).weights)
        return learnt.network
