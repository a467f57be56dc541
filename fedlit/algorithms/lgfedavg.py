"""LG-FedAvg: only the head of the network is shared. Liang et al., arXiv 2001.01523."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlit.algorithms.base import Algorithm
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.fedper import head_of
from fedlit.resident import Resident


@dataclass(frozen=True)
class LGFedAvg(Algorithm):
    """FedAvg of the head; the layers that make features of a picture stay at their site.

    The reverse of FedPer. Few bytes are sent, and a site that never trained has no features of its own.

    Args:
        head: shell patterns of the shared entries; None: the layer that the network calls its `classifier`.
    """

    sends_training_alone: ClassVar[bool] = True

    keeps_local: ClassVar[bool] = True

    head: tuple[str, ...] | None = None

    def kept(self, resident: Resident) -> tuple[str, ...]:
        head = head_of(resident, self.head)
        return tuple(name for name in resident.entries if name not in head)

    local_update = FedAvg.local_update
    server_update = FedAvg.server_update
