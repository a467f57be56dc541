"""Rounds of updates that are given, not learnt: what a rule makes of them, through the fleet as in a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from fedlit.aggregation import ROOT
from fedlit.algorithms import FedAvg
from fedlit.messages import Broadcast, Update
from tests.conftest import make_federation, make_site

NAMES = (*"abcdefg", ROOT)
START = {"conv": torch.linspace(-1, 1, 30).reshape(5, 6), "bias": torch.full((3,), 0.5)}


@dataclass(frozen=True)
class Given(FedAvg):
    """Clients send what they are given; their memory is what they sent."""

    updates: Mapping = field(default_factory=dict)
    slots: Mapping = field(default_factory=dict)

    def local_update(self, client, broadcast):
        weights = self.updates[client.site.name]
        update = Update(client.site.name, len(client.site.train), weights, self.slots, {"loss": 1.0})
        return update, {"sent": weights}


def make_fleet(names=NAMES, *, world=None, **options):
    """A fleet of clients with 1, 2, 3 ... pictures."""
    sites = [make_site(name, (place + 1, 1, 1)) for place, name in enumerate(names)]
    return make_federation(sites, world=world, **options)[0].fleet


def play(fleet, rule, updates, *, start=None, cohort=None, slots=None, round=0):
    """The aggregate of a round in which each client sends its update."""
    broadcast = Broadcast(round, START if start is None else start)
    algorithm = Given(aggregate=rule, updates=updates, slots=slots or {})
    return fleet.map(algorithm.local_update, list(cohort or updates), broadcast, rule)


def drawn(names=NAMES, *, seed=0, size=0.1, start=None):
    """Updates that differ by noise from what was sent out, of a norm that differs too."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator)
    start = START if start is None else start
    return {
        name: {
            entry: (value + size * (1 + place / 10) * (0.5 + draw(value.shape))).to(value.dtype)
            for entry, value in start.items()
        }
        for place, name in enumerate(names)
    }


def vectors(**values):
    """Updates of one entry: `vectors(a=[1, 2], b=[3, 4])`."""
    return {name: {"w": torch.tensor(value, dtype=torch.float32)} for name, value in values.items()}
