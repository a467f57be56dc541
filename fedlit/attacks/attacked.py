"""FedAvg under attack: some of the members are malicious, for a study of how the others fare."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from fedlit.algorithms import FedAvg
from fedlit.attacks.base import Attack, Conspirator, Plot, conspirators
from fedlit.attacks.updates import SignFlip
from fedlit.client import Client
from fedlit.data.site import Site
from fedlit.errors import BadInput
from fedlit.messages import Broadcast, Slots, Update


@dataclass(frozen=True)
class Attacked(FedAvg):
    """FedAvg with malicious members, against which `aggregate` is to help.

    Args:
        attack: what the malicious members do.
        malicious: their names; a number means so many, drawn by `seed`. Of one seed fewer are among the more.
    """

    sends_training_alone: ClassVar[bool] = False

    attack: Attack = field(default_factory=SignFlip)
    malicious: Sequence[str] | int = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.malicious, int) and self.malicious < 0:
            raise ValueError(f"malicious={self.malicious} needs names, or how many, 0 or more")

    def drawn(self, names: Collection[str]) -> frozenset[str]:
        """Who of these members is malicious."""
        if not isinstance(self.malicious, int):
            return frozenset(self.malicious)
        return frozenset(Random(self.seed).sample(sorted(names), len(names))[: self.malicious])

    def participants(self, sites: Sequence[Site]) -> list[Site]:
        """All sites.

        Raises:
            BadInput: a malicious one is not among them, there are too few, or they cannot make the attack.
        """
        names = {site.name for site in sites}
        if isinstance(self.malicious, int) and self.malicious > len(names):
            raise BadInput(f"algorithm.malicious={self.malicious}: there are {len(names)} members")
        malicious = self.drawn(names)
        if unknown := sorted(malicious - names):
            raise BadInput(f"algorithm.malicious: {unknown[0]} is no member; they are {', '.join(sorted(names))}")
        if not malicious:
            return list(sites)
        inside = sorted((site for site in sites if site.name in malicious), key=lambda site: site.name)
        plot = Plot(tuple(inside), len(sites))
        self.attack.admit(plot)
        return conspirators(sites, plot)

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        honest = super().local_update
        if not isinstance(client.site, Conspirator):
            return honest(client, broadcast)
        return self.attack.local_update(client, broadcast, honest)
