"""By whose models and predictors the members are served best: the Dice of their validation cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedlit.data.site import Site
from fedlit.errors import BadInput
from fedlit.federation import Federation
from fedlit.messages import Expert, Server
from fedlit.metrics import Scoring
from fedlit.prediction import Learnt, Model, Predictor
from fedlit.prediction.members import personal
from fedlit.prediction.told import dice_at
from fedlit.summary import site_metrics


@dataclass(frozen=True)
class ModelOf(Predictor):
    """The personal model of one member, at any site."""

    member: str

    def prepare(self, learnt: Learnt, images: object) -> Model:
        learnt.resident.load(personal(learnt, learnt.experts[self.member]).weights)
        return learnt.network


@dataclass(frozen=True)
class AsUnseen(Predictor):
    """A predictor at a member whose own model, entries and judgements it is not told.

    It is prepared on the member's training pictures.

    Args:
        sites: by name, the federation's.
    """

    predictor: Predictor
    sites: Mapping[str, Site]

    def prepare(self, learnt: Learnt, images: object) -> Model | None:
        site, here = learnt.site, dice_at(learnt.site)
        others = {
            name: replace(expert, scalars={told: value for told, value in expert.scalars.items() if told != here})
            for name, expert in learnt.experts.items()
            if name != site
        }
        try:
            unseen = replace(learnt, memory={}, experts=others)
            return self.predictor.prepare(unseen, self.sites[site].train.unlabelled())
        except BadInput as error:
            raise BadInput(
                f"{type(self.predictor).__name__} cannot be tried at {site} as if that were unseen: {error}; or leave "
                "it out of the candidates of chosen"
            ) from None


@dataclass(frozen=True)
class Judge:
    """How models and predictors are compared: by the Dice of members' validation cases."""

    federation: Federation
    server: Server
    scoring: Scoring
    classes: Sequence[str]

    def dice(self, predictors: Mapping[str, Predictor], experts: Mapping[str, Expert]) -> dict[str, dict[str, float]]:
        """By predictor and member, the mean over cases of the mean over classes.

        Without members where there is no model, or where no case counts.

        Raises:
            BadInput: no member has validation cases.
        """
        found = self.federation.score(
            predictors,
            self.server,
            scoring=self.scoring,
            metrics=["dice"],
            classes=self.classes,
            split="val",
            names=[member for member in experts if len(self.federation.sites[member].val)],
            experts=experts,
        )
        means = [row for row in site_metrics(found.cases, self.federation.roles) if not math.isnan(row.value)]
        if not means:
            raise BadInput(
                f"{', '.join(predictors)}: chosen by validation cases, and no member has any; leave best_member and "
                "chosen out of prediction"
            )
        return {name: {row.site: row.value for row in means if row.model == name} for name in predictors}


def candidates_of(predictors: Mapping[str, Predictor]) -> dict[str, Predictor]:
    """What predictors choose among, by name.

    Raises:
        BadInput: two of them mean different things by one name.
    """
    found: dict[str, Predictor] = {}
    for model, predictor in predictors.items():
        for name, candidate in predictor.candidates.items():
            if found.setdefault(name, candidate) != candidate:
                raise BadInput(
                    f"prediction.{model}.candidates.{name} is set otherwise elsewhere, and a trial has one "
                    "result; give one of them another name"
                )
    return found
