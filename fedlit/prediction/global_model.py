"""The global model, the same at every site but for the entries that a member keeps local."""

from __future__ import annotations

from dataclasses import dataclass

from fedlit.data.pictures import Unlabelled
from fedlit.prediction.base import Learnt, Model, Predictor


@dataclass(frozen=True)
class Global(Predictor):
    """The server's weights.

    Where members keep entries, a site that never trained has none of its own: with `share_personal` it takes the mean
    of the members', in the test of the kept round; else it has no global model.
    """

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        if learnt.shared is None:
            return None
        learnt.resident.load(learnt.shared)
        return learnt.network
