"""A hospital's data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedlit.data.pictures import Pictures

ROLES = ("member", "unseen", "server")


@dataclass(frozen=True)
class Site:
    """`role`: a member trains, an unseen site is only evaluated (all its cases are test), the server's own data are of
    role server. `seed_name` stands for the site in every seed; it is the name unless data.seed_names says else.
    `remarks` are what a person should know of its data before training."""

    name: str
    role: str
    train: Pictures
    val: Pictures
    test: Pictures
    seed_name: str
    remarks: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        """The number of training pictures."""
        return len(self.train)


def num_pictures(sites: Iterable[Site]) -> dict[str, int]:
    """The number of training pictures of each, by name."""
    return {site.name: site.num_samples for site in sites}
