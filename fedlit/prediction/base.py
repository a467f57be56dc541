"""What a predictor is: it turns what was learnt into a model for one site, from that site's unlabelled images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from fedlit.client import Resident
from fedlit.data.pictures import Unlabelled
from fedlit.messages import Server, Slots

Model = Callable[[Tensor], Tensor]
"""image [B, C, H, W] -> logits, in evaluation mode."""


@dataclass(frozen=True)
class Learnt:
    """What there is at a site to predict with: the server's state, its own memory, and the network to load into."""

    server: Server
    network: Model
    resident: Resident
    memory: Slots = field(default_factory=dict)
    kept: tuple[str, ...] = ()


class Predictor(ABC):
    """Never sees a label; scoring happens elsewhere, so no method can choose by test labels."""

    @abstractmethod
    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        """The model for a site; None where there is none, such as a personal one of a site that never trained.

        `images` are the site's; None where a finished run's model is opened without its data.
        """
