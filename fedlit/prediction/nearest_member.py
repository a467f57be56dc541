"""Nearest member: the model of whose pictures look most alike to the network. Distance of FedAP, Lu et al., 2022."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedlit.data.pictures import Unlabelled
from fedlit.errors import BadInput
from fedlit.messages import Expert
from fedlit.prediction.base import Learnt, Model, Predictor
from fedlit.prediction.features import distance, site_statistics
from fedlit.prediction.members import own_models, personal
from fedlit.weights import Weights


@dataclass(frozen=True)
class NearestMember(Predictor):
    """The personal model of the member whose pictures have the nearest feature statistics; for unseen sites.

    Statistics are means and deviations of what goes into the norm layers of the server's model, at the member over its
    training pictures; see `fedlit.prediction.features.distance`. Of equally near ones the first by name.
    """

    is_final: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("unseen",)
    needs = ("weights", "features")

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        experts = own_models(learnt)
        far = distances(site_statistics(learnt, images), experts)
        nearest = far.index(min(far))
        learnt.resident.load(personal(learnt, experts[nearest]).weights)
        return WholeMember(learnt.network, [expert.client for expert in experts], nearest)


class WholeMember:
    """One member's personal model as a mixture, so that it is told whose: 1 of that, 0 of the others.

    Also 0 of the `global` model, so that nobody takes the 1 for something that is added to it.
    """

    layers = ("all",)

    def __init__(self, model: Model, members: Sequence[str], taken: int):
        self.model, self.members = model, ("global", *members)
        self.gate = one_hot(torch.tensor(taken + 1), len(self.members)).float()
        self.gates = torch.empty(0, 1, len(self.members))

    def __call__(self, images: Tensor) -> Tensor:
        self.gates = self.gate.expand(len(images), 1, -1)
        return self.model(images)


def distances(own: Weights, experts: Sequence[Expert]) -> list[float]:
    """How far a site is from each member, in units of the variance within members.

    Raises:
        BadInput: a member shares no statistics, or those of another network.
    """
    for expert in experts:
        if expert.slots.get("features", {}).keys() != own.keys():
            raise BadInput(f"{expert.client} shares no statistics of this network's features: evaluate the run again")
    shared = [expert.slots["features"] for expert in experts]
    scale = {name: torch.stack([each[name] for each in shared]).square().mean(0).sqrt() for name in own}
    return [distance(own, each, scale) for each in shared]
