"""What a predictor is: it turns what was learnt into a model for one site, from that site's unlabelled images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from fedlit.data.pictures import Unlabelled
from fedlit.errors import BadInput
from fedlit.messages import Expert, Server, Slots
from fedlit.resident import Resident
from fedlit.weights import WeightedSum, Weights, select

Model = Callable[[Tensor], Tensor]
"""image [B, C, H, W] -> logits, in evaluation mode."""


@runtime_checkable
class Mixture(Protocol):
    """A model whose layers are mixtures of the members' models.

    After each call `gates` [B, layers, members] says how much of each went into which layer, picture by picture.
    """

    layers: Sequence[str]
    members: Sequence[str]
    gates: Tensor

    def __call__(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Learnt:
    """What there is at a site to predict with.

    Args:
        network: the resident network at work; loading into `resident` changes it.
        memory: the site's own.
        kept: shell patterns of the entries that stay at their site.
        experts: what members share once after the kept round, by member; empty where nobody asked for it.
        site: its name.
        num_classes: K; the logits have K channels (sigmoid), or K + 1 with the background first (softmax).
        seed: of the run; what is drawn at a site is addressed by (seed, site, ...).
        batch_size: pictures at once.
        channels: of the pictures that the network takes; None where that is not known.
        lend: makes a network of one's own work on the device and in the precision of the run.
    """

    server: Server
    network: Model
    resident: Resident
    memory: Slots = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    experts: Mapping[str, Expert] = field(default_factory=dict)
    site: str = ""
    num_classes: int = 1
    seed: int = 0
    batch_size: int = 8
    channels: int | None = None
    lend: Callable[[nn.Module], Model] = lambda network: network

    @property
    def shared(self) -> Weights | None:
        """The global model at this site, with the entries that it keeps.

        Where it has none of its own, with the mean of the members'; None where they share none.
        """
        if not self.kept:
            return self.server.weights
        kept = self.memory.get("kept") or mean_kept(self.experts, self.kept)
        return {**self.server.weights, **kept} if kept else None

    def check_pictures(self, images: Unlabelled) -> None:
        """Raises BadInput where the network takes pictures of another number of channels."""
        if self.channels not in (None, images.channels):
            raise BadInput(
                f"{images.name}: its pictures have {images.channels} channels, and the network takes {self.channels}; "
                f"read them with data.channels={self.channels}"
            )

    def copy(self, weights: Weights) -> nn.Module:
        """The network with these weights, to be changed freely: in evaluation mode, no parameter trainable.

        Frozen parameters, such as an image encoder's, are not copied but shared.
        """
        self.resident.load(weights)
        return at_rest(self.resident.network)


def at_rest(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode, no parameter trainable. Parameters that are not trained are shared with it."""
    frozen = {id(value): value for value in network.parameters() if not value.requires_grad}
    return deepcopy(network, frozen).eval().requires_grad_(False)


def mean_kept(experts: Mapping[str, Expert], kept: Sequence[str]) -> Weights:
    """The mean over members of the entries that each keeps, by shell patterns; empty where none is shared."""
    total = WeightedSum()
    for expert in experts.values():
        total.add(select(expert.weights, kept), 1.0)
    return total.mean() if experts else {}


class Predictor(ABC):
    """Never sees a label; scoring happens elsewhere, so no method can choose by test labels."""

    is_final: ClassVar[bool] = False
    """Scored on the kept round's test cases alone, not after every round: it is dear, or members share for it."""

    roles: ClassVar[tuple[str, ...]] = ("member", "unseen", "server")
    """Of the sites it is meant for."""

    is_of_members: ClassVar[bool] = False
    """It predicts with the members' own models alone, so that no global one need have been trained."""

    candidates: Mapping[str, Predictor] = MappingProxyType({})
    """The predictors among which it chooses by trials, by name."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What members must share once.

        `weights` of their own models, `features` (statistics of their pictures), `scores` (the validation Dice of every
        member's personal model at all members), `trials` (the validation Dice of each of the `candidates` at every
        member, as if that were unseen).
        """
        return ()

    def check_network(self, resident: Resident) -> None:  # noqa: B027 (most take any)
        """Raises BadInput where it cannot predict with such a network."""

    def remarks(self, learnt: Learnt, images: Unlabelled) -> Iterable[str]:
        """What one should know who predicts with such a network."""
        return ()

    def choice(self, experts: Mapping[str, Expert]) -> str | None:
        """What it has chosen for all sites by what members share, and why; None where it chooses nothing so."""
        return None

    @abstractmethod
    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        """The model for a site; None where there is none, such as a personal one of a site that never trained.

        It is valid until the next one is prepared. `images` are the site's; None where a finished run's model is opened
        without its data.
        """
