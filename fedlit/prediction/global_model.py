"""The global model, the same at every site but for the entries that a member keeps local."""

from __future__ import annotations

from dataclasses import dataclass

from fedlit.data.pictures import Unlabelled
from fedlit.prediction.base import Learnt, Model, Predictor


@dataclass(frozen=True)
class Global(Predictor):
    """The server's weights.

    With `keep_local`, a site that never trained has no entries of its own and therefore no global model.
    """

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        kept = learnt.memory.get("kept", {})
        if learnt.kept and not kept:
            return None
        learnt.resident.load({**learnt.server.weights, **kept})
        return learnt.network
