"""FedBuff: the server steps when a buffer of updates is full, and nobody waits. Nguyen et al., AISTATS 2022."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from fedlit.aggregation import Aggregation, Mean
from fedlit.algorithms.base import Algorithm, Sampling, require, require_own_weights, step, step_towards
from fedlit.algorithms.clock import Clock, as_scalars
from fedlit.client import Client
from fedlit.data.site import Site
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update
from fedlit.weights import Weights, add, subtract, zeros_like


@dataclass(frozen=True)
class FedBuff(Algorithm):
    """w <- w + lr / sum_k n_k * sum_k n_k s(t_k) (w_k - w^(t_k)), s(t) = 1 / sqrt(1 + t).

    t_k is the staleness: how many steps the server has made since client k was sent the model w^(t_k) it began with.
    The buffer holds as many updates as the experiment lets clients take part in a round (`clients_per_round`), those
    that arrive first by a simulated clock. A client whose update is in it begins anew after the server's step, so a
    buffer holds at most one of each. With all clients in it this is FedAvg. The paper's buffers hold 10, and its
    clients count alike. Where all are equally fast they come in turn, by their names.

    Args:
        lr: of the server.
        clock: how fast clients are.
    """

    aggregate: Aggregation = field(default_factory=partial(Mean, by="reported"))
    lr: float = 1.0
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        require(lr=(self.lr, self.lr > 0, "above 0"))
        require_own_weights(self.aggregate, "FedBuff")

    def participants(self, sites: Sequence[Site]) -> list[Site]:
        self.clock.admit([site.name for site in sites])
        return list(sites)

    def cohort(self, server: Server, names: Sequence[str], sampling: Sampling) -> list[str]:
        return sorted(self.clock.arrivals(server, len(sampling(names, server.round))).names)

    def older(self, server: Server, cohort: Sequence[str]) -> Mapping[str, Broadcast]:
        jobs = self.clock.arrivals(server, len(cohort)).jobs
        begun = {name: jobs[name].round for name in cohort if jobs[name].round < server.round}
        return {
            name: Broadcast(round, version(server, round), scalars={"staleness": server.round - round})
            for name, round in begun.items()
        }

    def num_begun_anew(self, server: Server, cohort: Sequence[str]) -> int:
        return self.clock.arrivals(server, len(cohort)).num_lost

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(broadcast.weights)
        client.fit(broadcast.round)
        discount = 1 / math.sqrt(1 + broadcast.scalars.get("staleness", 0))  # counted by the server, in a real run
        return client.update(numbers={"coefficient": len(client.site.train) * discount}), client.memory

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        arrivals = self.clock.arrivals(server, len(aggregate.reports) + len(aggregate.dropped))
        next_jobs = self.clock.begun_anew(server, arrivals)
        seen = {job.round for job in next_jobs.values() if job.round <= server.round}
        slots = {f"version_{round}": version(server, round) for round in sorted(seen)}
        stepped = self.stepped(server, aggregate, {name: job.round for name, job in arrivals.jobs.items()})
        return replace(stepped, slots=slots, scalars=as_scalars(arrivals.now, next_jobs))

    def stepped(self, server: Server, aggregate: Aggregate, begun: Mapping[str, int]) -> Server:
        """The server after a step along the mean change; `begun` says with which round's server each client began."""
        shares: dict[int, float] = {}
        for report in aggregate.reports:
            round = begun[report.client]
            shares[round] = shares.get(round, 0.0) + report.scalars["coefficient"]
        if [*shares] == [server.round]:
            return step_towards(server, aggregate, self.lr)
        total = math.fsum(shares.values())
        start: Weights = zeros_like(server.trained(server.weights))
        for round, share in sorted(shares.items()):
            start = add(start, server.trained(version(server, round)), scale=share / total)
        change = subtract(server.trained(aggregate.weights), start)
        scale = self.lr * total / math.fsum(report.num_samples for report in aggregate.reports)
        return step(server, add(server.trained(server.weights), change, scale=scale), aggregate)


def version(server: Server, round: int) -> Weights:
    """The weights that the server had when a round began."""
    return server.weights if round == server.round else server.slots[f"version_{round}"]
