"""AdaBN: the norm layers' statistics are those of the site. Li et al., Revisiting Batch Normalization, ICLR-W 2017."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedlit.data.pictures import Unlabelled
from fedlit.prediction.base import Learnt, Model, Predictor
from fedlit.prediction.learner import pictures_of
from fedlit.prediction.normalisation import batch_norms, settle, use_batch_statistics


@dataclass(frozen=True)
class AdaBN(Predictor):
    """The global model with the site's own statistics in its BatchNorm; no weight changes.

    None where the network has no BatchNorm: other norm layers keep no statistics. It would work at any site, and is for
    unseen ones.

    Args:
        protocol: `transductive`: mean and variance over all pictures of the site, from one pass over them; `online`:
            those of each batch as it comes to be predicted.
    """

    protocol: Literal["transductive", "online"] = "transductive"

    is_final: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("unseen",)

    def __post_init__(self) -> None:
        if self.protocol not in ("transductive", "online"):
            raise ValueError(f"protocol={self.protocol!r} is not allowed; use one of transductive, online")

    def remarks(self, learnt: Learnt, images: Unlabelled) -> Iterator[str]:
        if not batch_norms(learnt.resident.network):
            yield "the network has no BatchNorm, and other normalising layers keep no statistics"

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        if learnt.shared is None or not batch_norms(learnt.resident.network):
            return None
        images = pictures_of(learnt, images)
        network = learnt.copy(learnt.shared)
        layers = use_batch_statistics(network)
        if self.protocol == "transductive":
            settle(learnt, network, layers, images)
        return learnt.lend(network)
