"""Chosen: the predictor that does best at members left out in turn. Gulrajani and Lopez-Paz, ICLR 2021, section 3."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from fedlit.data.pictures import Unlabelled
from fedlit.errors import BadInput
from fedlit.messages import Expert
from fedlit.prediction.base import Learnt, Model, Predictor
from fedlit.prediction.global_model import Global
from fedlit.prediction.nearest_member import NearestMember
from fedlit.prediction.routing import Routing
from fedlit.prediction.test_time_augmentation import TTA
from fedlit.prediction.told import trial_of, trials
from fedlit.resident import Resident


class Choice(NamedTuple):
    """The name of the candidate that is used, and of each its Dice, a mean over members; without it, of one member."""

    name: str
    dice: dict[str, float]

    def __str__(self) -> str:
        at_members = ", ".join(f"{name} {value:.4f}" for name, value in self.dice.items())
        return f"{self.name}; Dice at members left out in turn: {at_members or 'unknown, only one shares a model'}"


@dataclass(frozen=True)
class Chosen(Predictor):
    """Of several predictors, the one with the largest mean Dice at the members, each as if it were unseen.

    Each member in turn is left out: its own model is taken from those that are shared, the predictor is prepared on its
    training pictures without their masks, and its validation cases are scored. But for one thing: the global model,
    which candidates predict with, adapt or learn from, has been trained with that member, so that every number is
    better than an unseen site's, and the global model's own the most. The unseen site has no say; all of a run's have
    the same.

    Args:
        candidates: by name; the first is what is used unless another does better. What has no model at any member, such
            as `adabn` of a network without BatchNorm, is not chosen.
    """

    candidates: Mapping[str, Predictor] = field(
        default_factory=lambda: {
            "global": Global(),
            "test_time_augmentation": TTA(),
            "nearest_member": NearestMember(),
            "routing": Routing(),
        }
    )

    is_final: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("unseen",)

    def __post_init__(self) -> None:
        for name, candidate in self.candidates.items():
            if not isinstance(candidate, Predictor):
                raise ValueError(f"candidates.{name}={candidate!r} is no predictor; give it _target_: its import path")
            if "unseen" not in candidate.roles or isinstance(candidate, Chosen):
                raise ValueError(f"candidates.{name}: {type(candidate).__name__} cannot be tried; leave it out")
        if len(self.candidates) < 2:
            raise ValueError(f"candidates={[*self.candidates]}: there is nothing to choose; give two or more")

    @property
    def needs(self) -> tuple[str, ...]:
        theirs = (need for candidate in self.candidates.values() for need in candidate.needs)
        return tuple(dict.fromkeys(("weights", *theirs, "trials")))

    def check_network(self, resident: Resident) -> None:
        for candidate in self.candidates.values():
            candidate.check_network(resident)

    def remarks(self, learnt: Learnt, images: Unlabelled) -> Iterator[str]:
        yield from self.candidates[self.choose(learnt.experts).name].remarks(learnt, images)

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        return self.candidates[self.choose(learnt.experts).name].prepare(learnt, images)

    def choice(self, experts: Mapping[str, Expert]) -> str:
        return str(self.choose(experts))

    def choose(self, experts: Mapping[str, Expert]) -> Choice:
        """Which one is used.

        Raises:
            BadInput: there are several members, and none has tried all that could be tried anywhere.
        """
        if len(experts) == 1:
            return Choice(next(iter(self.candidates)), {})
        names = {trial_of(name): name for name in self.candidates}
        known = set().union(*(trials(expert) & names.keys() for expert in experts.values()))
        tried = [expert for expert in experts.values() if known and known <= expert.scalars.keys()]
        if not tried:
            raise BadInput(f"no member shares trials of {', '.join(self.candidates)}: evaluate the run again")
        dice = {
            name: statistics.fmean(each.scalars[trial] for each in tried)
            for trial, name in names.items()
            if trial in known
        }
        return Choice(max(dice, key=lambda name: dice[name]), dice)  # the first of equal ones
