"""Best member: the personal model that does best at all members. Guha et al., One-Shot FL, 2019."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedlit.data.pictures import Unlabelled
from fedlit.errors import BadInput
from fedlit.messages import Expert
from fedlit.prediction.base import Learnt, Model, Predictor
from fedlit.prediction.members import own_models, personal
from fedlit.prediction.told import judgements


@dataclass(frozen=True)
class BestMember(Predictor):
    """The personal model with the largest mean Dice at the members, by their validation cases; for unseen sites.

    Of equal ones the first by name. The unseen site has no say in it.
    """

    is_final: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("unseen",)
    needs = ("weights", "scores")

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        experts = own_models(learnt)
        dice = mean_dice(experts)
        best = experts[dice.index(max(dice))]  # the first of equal ones
        learnt.resident.load(personal(learnt, best).weights)
        return learnt.network


def mean_dice(experts: Sequence[Expert]) -> list[float]:
    """Of each one's personal model, the mean over the members that have judged all of them.

    Raises:
        BadInput: there is none.
    """
    by_all = sorted(set.intersection(*(judgements(expert) for expert in experts)))
    if not by_all:
        raise BadInput(
            "no member shares its validation Dice of every model, by which one is best: evaluate the run again"
        )
    return [statistics.fmean(expert.scalars[name] for name in by_all) for expert in experts]
