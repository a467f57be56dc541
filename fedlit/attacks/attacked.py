"""FedAvg under attack: some of the members are malicious, for a study of how the others fare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
        malicious: their names.
    """

    sends_training_alone: ClassVar[bool] = False

    attack: Attack = field(default_factory=SignFlip)
    malicious: tuple[str, ...] = ()

    def participants(self, sites: Sequence[Site]) -> list[Site]:
        """All sites.

        Raises:
            BadInput: a malicious one is not among them, or they cannot make the attack.
        """
        names = {site.name for site in sites}
        if unknown := sorted(set(self.malicious) - names):
            raise BadInput(f"algorithm.malicious: {unknown[0]} is no member; they are {', '.join(sorted(names))}")
        if not self.malicious:
            return list(sites)
        inside = sorted((site for site in sites if site.name in self.malicious), key=lambda site: site.name)
        plot = Plot(tuple(inside), len(sites))
        self.attack.admit(plot)
        return conspirators(sites, plot)

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        honest = super().local_update
        if not isinstance(client.site, Conspirator):
            return honest(client, broadcast)
        return self.attack.local_update(client, broadcast, honest)
