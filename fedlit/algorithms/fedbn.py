"""FedBN and SiloBN: normalising layers stay at their site. Li et al., ICLR 2021; Andreux et al., DART 2020."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from fedlit.algorithms.base import Algorithm
from fedlit.algorithms.fedavg import FedAvg
from fedlit.errors import BadInput
from fedlit.prediction.features import norm_layers
from fedlit.resident import Resident

Keeps = Literal["layers", "statistics"]


@dataclass(frozen=True)
class FedBN(Algorithm):
    """FedAvg of all but the layers that normalise, whatever they are called in the network.

    Their other entries, beside the statistics, exist in every kind of such a layer. A site that never trained has none
    of its own: with `share_personal` it takes the mean of the members', else it has no global model.

    Args:
        keeps: the whole `layers` (FedBN), or their running `statistics` alone (SiloBN).
    """

    sends_training_alone: ClassVar[bool] = True

    keeps_local: ClassVar[bool] = True

    keeps: Keeps = "layers"

    def __post_init__(self) -> None:
        if self.keeps not in get_args(Keeps):
            raise ValueError(f"keeps={self.keeps!r} is not allowed; use one of {', '.join(get_args(Keeps))}")

    def kept(self, resident: Resident) -> tuple[str, ...]:
        layers = norm_layers(resident.network)
        inside = {f"{layer}.{entry}" for layer in layers for entry in layers[layer].state_dict()}
        among = resident.buffers if self.keeps == "statistics" else resident.entries
        found = tuple(name for name in among if name in inside)
        if found:
            return found
        kind = type(resident.network).__name__
        what = f"none of the {len(layers)} normalising layers of {kind} has running statistics"
        if not layers or self.keeps == "layers":
            what = f"{kind} has no normalising layer that is trained"
        raise BadInput(f"algorithm.keeps={self.keeps}: {what}; choose a network with batch normalisation, or fedavg")

    local_update = FedAvg.local_update
    server_update = FedAvg.server_update
