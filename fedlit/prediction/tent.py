"""TENT: scales and shifts of the norm layers, by the entropy of predictions. Wang et al., ICLR 2021."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fedlit.data.pictures import Unlabelled
from fedlit.prediction.adaptation import Adaptation, check_adaptation
from fedlit.prediction.base import Learnt, Model, Predictor
from fedlit.prediction.normalisation import tuned_norms, untuned
from fedlit.prediction.unsupervised import entropy


@dataclass(frozen=True)
class TENT(Predictor):
    """Makes the global model sure of the site's pictures: the mean entropy over all pixels falls.

    BatchNorm sees the statistics of the site's pictures, as in the paper; other norm layers keep theirs, and their
    scales and shifts adapt alike. None where the federation trains no norm layer. It would work at any site, and is for
    unseen ones, because adapting costs as much as training.

    Args:
        adaptation: how long and on what. The paper adapts online, one step a batch: see configs/prediction/tent_online.
            Here it is one pass over the site's pictures: on phantoms predictions were surer and worse after 10.
    """

    adaptation: Adaptation = field(default_factory=lambda: Adaptation(passes=1))

    is_final: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("unseen",)

    def __post_init__(self) -> None:
        check_adaptation(self.adaptation)

    def remarks(self, learnt: Learnt, images: Unlabelled) -> Iterator[str]:
        return untuned(learnt.resident, self.adaptation.lr)

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        def unsure(model: Model, batch: Tensor, seed: int) -> Tensor:
            return entropy(model(batch), learnt.num_classes).mean()

        return tuned_norms(learnt, images, self.adaptation, unsure)
