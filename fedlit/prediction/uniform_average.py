"""Uniform average: one model with the mean of the members' personal weights. Wortsman et al., ICML 2022."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlit.data.pictures import Unlabelled
from fedlit.prediction.base import Learnt, Model, Predictor
from fedlit.prediction.members import members
from fedlit.weights import WeightedSum


@dataclass(frozen=True)
class UniformAverage(Predictor):
    """The mean of the members' personal models, each counting once; for unseen sites."""

    is_final: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("unseen",)
    is_of_members: ClassVar[bool] = True
    needs = ("weights",)

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        total = WeightedSum()
        for expert in members(learnt):
            total.add(expert.weights, 1)
        learnt.resident.load(total.mean())
        return learnt.network
