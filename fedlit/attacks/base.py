"""What an attack is: what a malicious member does where an honest one would do its local update."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedlit.client import Client
from fedlit.data.site import Site
from fedlit.messages import Broadcast, Slots, Update

Honest = Callable[[Client, Broadcast], tuple[Update, Slots]]
"""The local update of the algorithm that is attacked."""


@dataclass(frozen=True)
class Plot:
    """Who is in it: the sites of all malicious members, in order of names, and the number of all members."""

    sites: tuple[Site, ...]
    num_members: int


@dataclass(frozen=True)
class Conspirator(Site):
    """The site of a malicious member, which knows the plot."""

    plot: Plot = field(kw_only=True)


class Attack(ABC):
    """Takes the place of the honest local update."""

    @abstractmethod
    def local_update(self, client: Client, broadcast: Broadcast, honest: Honest) -> tuple[Update, Slots]:
        """What a malicious member sends, and what it remembers."""

    def admit(self, plot: Plot) -> None:  # noqa: B027 (most attacks can be made by anybody)
        """Raises BadInput where so few cannot make the attack."""


def acting_as(client: Client, **changes: Any) -> Client:
    """The client with other attributes, in the same network and on the same workbench."""
    actor = copy.copy(client)
    for name, value in changes.items():
        setattr(actor, name, value)
    return actor


def conspirators(sites: Sequence[Site], plot: Plot) -> list[Site]:
    """All sites, those of the plot knowing it."""
    inside = {site.name for site in plot.sites}
    return [Conspirator(**vars(site), plot=plot) if site.name in inside else site for site in sites]
