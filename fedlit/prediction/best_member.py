"""Best member: the personal model that does best at all members. Guha et al., One-Shot FL, 2019."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
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
    is_of_members: ClassVar[bool] = True
    needs = ("weights", "scores")

    def choice(self, experts: Mapping[str, Expert]) -> str:
        dice = mean_dice(experts)
        at_members = ", ".join(f"{name} {value:.4f}" for name, value in dice.items())
        return f"{best_of(dice)}; mean Dice at the members: {at_members}"

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        experts = {expert.client: expert for expert in own_models(learnt)}
        learnt.resident.load(personal(learnt, experts[best_of(mean_dice(experts))]).weights)
        return learnt.network


def best_of(dice: Mapping[str, float]) -> str:
    """The name of the largest; of equal ones the first."""
    return max(sorted(dice), key=lambda name: dice[name])


def mean_dice(experts: Mapping[str, Expert]) -> dict[str, float]:
    """Of each one's personal model, the mean over the members that have judged all of them.

    Raises:
        BadInput: there is none.
    """
    by_all = sorted(set.intersection(*(judgements(expert) for expert in experts.values())))
    if not by_all:
        raise BadInput(
            "no member shares its validation Dice of every model, by which one is best: evaluate the run again"
        )
    return {member: statistics.fmean(expert.scalars[name] for name in by_all) for member, expert in experts.items()}
