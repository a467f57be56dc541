"""A simulated clock: how long clients take for a local update, and which updates are lost on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from fedlit.algorithms.base import require
from fedlit.errors import BadInput
from fedlit.messages import Server
from fedlit.seeding import address


class Job(NamedTuple):
    """One local update of a client: of which round's server, when it ends, the how-manieth try in that round."""

    round: int
    ends: float
    attempt: int = 0


class Arrivals(NamedTuple):
    """Whose updates are the first to arrive, when the last of them does, what all clients are at by then, and how many
    updates were lost meanwhile."""

    names: list[str]
    now: float
    jobs: dict[str, Job]
    num_lost: int


@dataclass(frozen=True)
class Clock:
    """Simulated seconds; the same for the same seed, whatever the machine does.

    Args:
        seconds: of a local update, for all clients or by name.
        spread: sigma of the factor e^(sigma z), z normal, that each local update takes longer or shorter by.
        stragglers: share of the clients that are slow, rounded; who is, is drawn once.
        slowdown: how many times longer they take.
        dropout: probability that a local update is lost; the client then begins another one, with the newest model.
    """

    seconds: float | Mapping[str, float] = 1.0
    spread: float = 0.0
    stragglers: float = 0.0
    slowdown: float = 10.0
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        each = [*self.seconds.values()] if isinstance(self.seconds, Mapping) else [self.seconds]
        require(
            seconds=(
                min(each, default=0.0),
                bool(each) and all(0 < value < math.inf for value in each),
                "numbers above 0",
            ),
            spread=(self.spread, self.spread >= 0, "0 or more"),
            stragglers=(self.stragglers, 0 <= self.stragglers <= 1, "a share from 0 to 1"),
            slowdown=(self.slowdown, self.slowdown >= 1, "1 or more"),
            dropout=(self.dropout, 0 <= self.dropout < 1, "0 or more, below 1"),
        )

    def admit(self, names: Sequence[str]) -> None:
        """Raises BadInput where `seconds` are by name, and not by those of the clients."""
        if isinstance(self.seconds, Mapping) and (wrong := sorted(self.seconds.keys() ^ set(names))):
            what = "is no client" if wrong[0] in self.seconds else "is missing"
            raise BadInput(
                f"algorithm.clock.seconds: {wrong[0]} {what}; give a number for each of {', '.join(sorted(names))}"
            )

    def arrivals(self, server: Server, count: int) -> Arrivals:
        """The first `count` updates that arrive after the server's last step; a lost one is begun again at once."""
        jobs, now = self.jobs(server), server.scalars.get("clock", 0.0)
        names: list[str] = []
        num_lost = 0
        while len(names) < count:
            name = min(jobs.keys() - set(names), key=lambda name: (jobs[name].ends, name))
            job = jobs[name]
            now = max(now, job.ends)
            if self.is_lost(name, job):
                attempt = job.attempt + 1 if job.round == server.round else 0
                jobs[name] = self.begin(name, server.clients, server.round, now, attempt)
                num_lost += 1
            else:
                names.append(name)
        return Arrivals(names, now, jobs, num_lost)

    def jobs(self, server: Server) -> dict[str, Job]:
        """What clients are at when the server's round begins, as its scalars tell; before the first, all begin."""
        if "clock" not in server.scalars:
            return {name: self.begin(name, server.clients, server.round, 0.0) for name in server.clients}
        read = server.scalars
        return {
            name: Job(int(read[f"round/{name}"]), read[f"ends/{name}"], int(read[f"attempt/{name}"]))
            for name in server.clients
        }

    def begun_anew(self, server: Server, arrivals: Arrivals) -> dict[str, Job]:
        """What clients are at after the server's next step: those whose updates arrived begin with it."""
        anew = {name: self.begin(name, server.clients, server.round + 1, arrivals.now) for name in arrivals.names}
        return {**arrivals.jobs, **anew}

    def begin(self, name: str, names: Sequence[str], round: int, now: float, attempt: int = 0) -> Job:
        """The local update that a client begins now, with the server of a round."""
        usual = self.seconds[name] if isinstance(self.seconds, Mapping) else self.seconds
        slow = self.slowdown if name in self.slow(names) else 1.0
        factor = math.exp(self.spread * self._draw(name, round, attempt, "seconds").gauss(0, 1))
        return Job(round, now + usual * slow * factor, attempt)

    def is_lost(self, name: str, job: Job) -> bool:
        return self._draw(name, job.round, job.attempt, "lost").random() < self.dropout

    def slow(self, names: Sequence[str]) -> list[str]:
        """The stragglers among all clients."""
        return self._draw("stragglers").sample(sorted(names), round(self.stragglers * len(names)))

    def _draw(self, *where: str | int) -> Random:
        return Random(address(self.seed, "clock", *where))


def as_scalars(now: float, jobs: Mapping[str, Job]) -> dict[str, float]:
    """The time and what clients are at, as the server keeps them."""
    parts = {f"{part}/{name}": value for name, job in jobs.items() for part, value in job._asdict().items()}
    return {"clock": now, **parts}
