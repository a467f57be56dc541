"""What crosses between sites and server in a run, found by its algorithm at work on tensors without content."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from fedlit.aggregation import ROOT, Aggregation, Comparing
from fedlit.algorithms import Algorithm, Sampling
from fedlit.client import Client
from fedlit.data.pictures import Pictures
from fedlit.errors import ClientFailed
from fedlit.federation import enrolled
from fedlit.fleet.collecting import check_comparable
from fedlit.messages import Aggregate, Broadcast, Report, Server, Slots, Update, size, tensors
from fedlit.transforms import Channel
from fedlit.weights import Weights

REHEARSED = 3
"""Rounds after which every further one sends what the last did: whatever builds up is there by then."""


@dataclass(frozen=True)
class Exchange:
    """What one round sends.

    Args:
        num_clients: that take part.
        num_sent: numbers in one client's update.
        bytes_update: of one client's update.
        bytes_broadcast: of what one client is sent.
    """

    num_clients: int
    num_sent: int
    bytes_update: int
    bytes_broadcast: int

    @property
    def bytes_up(self) -> int:
        return self.num_clients * self.bytes_update

    @property
    def bytes_down(self) -> int:
        return self.num_clients * self.bytes_broadcast


class Understudy(Client):
    """A client whose training changes nothing: it sends and remembers tensors of the right names and sizes."""

    def _train(self, round: int, **openings: Any) -> float:
        return 0.0

    def validation_dice(self, weights: Weights) -> float:
        return 0.0

    def loss_over(self, pictures: Pictures) -> float:
        return 1.0

    def distance(self, start: Weights) -> float:
        return 0.0


def rehearse(
    algorithm: Algorithm,
    clients: Mapping[str, Client],
    first: Server,
    sampling: Sampling,
    num_rounds: int,
    channel: Channel | None = None,
) -> list[Exchange]:
    """The first rounds of a run, at most REHEARSED; one of the understudies `clients` stands for all of its round.

    Raises:
        BadInput: the rule of aggregation cannot take what the clients send.
        Exception: whatever an algorithm raises that cannot work without values.
    """
    exchanges = []
    memory: Slots = {}
    channel = channel or Channel()
    server = enrolled(first, clients)
    while server.round < min(num_rounds, REHEARSED):
        cohort = algorithm.cohort(server, sorted(clients), sampling)
        broadcast = algorithm.broadcast(server)
        rule_sees, cohort = cohort, [name for name in cohort if name != ROOT]
        client = clients[cohort[0]]
        client.memory = memory
        update, memory = algorithm.local_update(client, broadcast)
        admit(algorithm.aggregate, update, broadcast, {name: len(clients[name].site.train) for name in rule_sees})
        num_sent = sum(value.numel() for value in tensors(update).values())
        num_bytes = channel.num_bytes(update, client.resident.buffers, len(cohort))
        bytes_down = size(broadcast) + channel.num_bytes_forwarded(len(cohort))
        exchanges.append(Exchange(len(cohort), num_sent, num_bytes, bytes_down))
        reports = tuple(
            Report(name, update.num_samples, num_bytes, seconds=1.0, scalars=update.scalars) for name in cohort
        )
        aggregate = Aggregate(update.weights, update.slots, reports)
        server = replace(algorithm.server_update(server, aggregate), round=server.round + 1)
    return exchanges


def admit(rule: Aggregation, update: Update, broadcast: Broadcast, num_samples: Mapping[str, int]) -> None:
    """Raises BadInput where a rule can take no update like this one."""
    if isinstance(rule, Comparing):
        check_comparable(rule, update, broadcast)
        return  # how many it needs is asked where the members are known
    with suppress(ClientFailed):  # the losses of a rehearsal mean nothing
        rule.coefficients(num_samples)(update)
