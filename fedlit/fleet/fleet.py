"""Runs a function for clients, each on the team that is its home, and shares the results."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from lightning.fabric import Fabric
from torch import Tensor

from fedlit.display import Display, open_display
from fedlit.errors import NO_CLIENTS_FAULT, ClientFailed, ProcessLost
from fedlit.fleet.exchange import mean_of_all
from fedlit.fleet.placement import desks, pack
from fedlit.fleet.processes import raise_first, told
from fedlit.fleet.team import Team
from fedlit.fleet.world import World
from fedlit.messages import Aggregate, Broadcast, Report, Slots, Update, restore, size, tensors
from fedlit.weights import WeightedSum, Weights, to_cpu

if TYPE_CHECKING:
    from lightning.fabric.wrappers import _FabricModule

    from fedlit.aggregation import Aggregation, Coefficient
    from fedlit.client import Client, Resident
    from fedlit.data.loading import Loader

Result = TypeVar("Result")
LocalUpdate = Callable[["Client", Broadcast], tuple[Update, Slots]]
ALONE = 15.0
"""Seconds after which a process whose team did not fail with it ends the run: the team waits for its gradients."""


@dataclass(frozen=True)
class Workbench:
    """What a process lends to the client at work.

    Args:
        network: what Fabric made of the resident's network.
        synced: the same, its gradients averaged over the team; for a team of one the same object.
    """

    fabric: Fabric
    network: _FabricModule
    synced: _FabricModule
    resident: Resident
    loader: Loader
    team: Team = field(default_factory=Team)


class Fleet:
    """Runs a function for clients, each on the team that is its home for the whole run, and shares the results.

    Args:
        world: all processes.
        clients: by name, in every process; a client's memory lives only at its home, in every process of the team.
        workbench: lent to each client in turn.
        costs: by client, what its round costs relative to others.
        scoring_costs: by site, what scoring it costs relative to others.
        on_client_error: `fail` the round, or `drop` the client from it.
        min_updates: a round from which clients were dropped fails with fewer (but never with a whole cohort).
        watch: is told of rounds and clients.
    """

    def __init__(
        self,
        world: World,
        clients: Mapping[str, Client],
        workbench: Workbench,
        *,
        costs: Mapping[str, float],
        scoring_costs: Mapping[str, float],
        on_client_error: Literal["fail", "drop"] = "fail",
        min_updates: int = 1,
        watch: Display | None = None,
    ):
        team = workbench.team
        self.world = world
        self.clients = clients
        self.homes = pack(costs, world.size // team.size)
        self.desks = desks(scoring_costs, world.size, self.homes, team.size)
        self.workbench = workbench
        self.on_client_error = on_client_error
        self.min_updates = min_updates
        self.watch = watch or open_display("", 0, is_shown=False)
        self.memories: dict[str, Slots] = {}
        self.seconds_at_work = self.seconds_of_rounds = 0.0
        self._pending: dict[str, Slots] = {}
        for client in clients.values():
            client.workbench = workbench

    @property
    def is_first(self) -> bool:
        """This process is the one that writes shared files and speaks to the user."""
        return self.world.is_first

    def lives_here(self, name: str) -> bool:
        """The client's home is the team of this process."""
        return self.homes.get(name) == self.workbench.team.number

    def map(
        self, local_update: LocalUpdate, cohort: Sequence[str], broadcast: Broadcast, rule: Aggregation
    ) -> Aggregate:
        """Let every client of the cohort do its local update; returns what the rule makes of all updates.

        The result is equal in every process. What the clients remember is pending until `commit`.

        Raises:
            ClientFailed: in every process, if a client failed and the policy is `fail` or too few are left.
            BadInput, Stopped: in every process, if one of them met bad input or was asked to stop; BadInput before any
                work, if the rule cannot weigh this cohort.
            ProcessLost: another process has ended.
        """
        start = time.perf_counter()
        coefficient = rule.coefficients({name: len(self.clients[name].site.train) for name in cohort})
        self.watch.round_started(broadcast.round + 1, cohort)
        total, reports, failures, end = self._work(local_update, cohort, broadcast, coefficient)
        self.world.lookout.ends(f"sharing the updates of round {broadcast.round + 1}")
        if isinstance(end, ProcessLost):
            raise end  # the others would be waited for in vain
        shared = self.world.share((reports, failures, end, total.like, total.coefficient))
        raise_first(end for _, _, end, _, _ in shared)
        reports = sorted((report for part, *_ in shared for report in part), key=lambda report: report.client)
        failures = {name: failure for _, part, *_ in reversed(shared) for name, failure in sorted(part.items())}
        self._judge(failures, len(reports), broadcast.round + 1)
        likes, coefficients = [like for *_, like, _ in shared], [coefficient for *_, coefficient in shared]
        mean = self._mean(total, likes, coefficients)
        self.seconds_of_rounds += time.perf_counter() - start
        dropped = {name: reason for name, (reason, _) in sorted(failures.items())}
        return replace(restore(Aggregate, {}, mean), reports=tuple(reports), dropped=dropped)

    def _work(
        self, local_update: LocalUpdate, cohort: Sequence[str], broadcast: Broadcast, coefficient: Coefficient
    ) -> tuple[WeightedSum, list[Report], dict[str, tuple[str, str]], BaseException | None]:
        """The local updates of the clients that live here, one after the other.

        Returns, in the first process of a team, their sum and a report of each; the failures (reason and traceback by
        client), and what ended the work.
        """
        team, total = self.workbench.team, WeightedSum()
        reports: list[Report] = []
        failures: dict[str, tuple[str, str]] = {}
        self._pending = {}
        for name in filter(self.lives_here, cohort):
            client, start = self.clients[name], time.perf_counter()
            client.memory = self.memories.get(name, {})
            self.world.lookout.begins(name, broadcast.round + 1)
            try:
                update, memory = team.together(partial(local_update, client, broadcast), patience=ALONE)
                team.together(partial(self._add, total, update, coefficient))
            except NO_CLIENTS_FAULT as error:  # the policy does not apply
                return total, reports, failures, error
            except Exception as error:
                failed = told(error)
                failures[name] = str(failed), "".join(failed.__notes__)
                if self.on_client_error == "fail":
                    break
                continue
            seconds = time.perf_counter() - start
            self.seconds_at_work += seconds
            self._pending[name] = {slot: to_cpu(values) for slot, values in memory.items()}
            if team.is_first:
                reports.append(Report(name, update.num_samples, size(update), seconds, update.scalars))
                self.watch.client_done(name, seconds, update.scalars["loss"])
        return total, reports, failures, None

    def _add(self, total: WeightedSum, update: Update, coefficient: Coefficient) -> None:
        """Count an update, which all processes of a team have, once."""
        if self.workbench.team.is_first:
            total.add(tensors(update), coefficient(update))

    def _judge(self, failures: Mapping[str, tuple[str, str]], num_updates: int, round: int) -> None:
        """Raises ClientFailed where the failed clients are the round's end."""
        if failures and (self.on_client_error == "fail" or num_updates < self.min_updates):
            name = min(failures)
            reason, trace = failures[name]
            failed = ClientFailed(f"client {name!r} failed in round {round}: {reason}")
            failed.add_note(trace)  # where it happened, in whichever process
            raise failed

    def _mean(
        self, total: WeightedSum, likes: Sequence[Weights | None], coefficients: Sequence[float]
    ) -> dict[str, Tensor]:
        """The mean over the updates of all processes."""
        if self.world.size == 1:
            return total.mean()
        if total.like is None:
            like = next(like for like in likes if like is not None)
            total = WeightedSum.zeros(like, self.workbench.fabric.device)
        try:
            return mean_of_all(total, coefficients, self.world.place)
        except RuntimeError as error:
            raise self.world.lookout.explain(error) from error

    def commit(self) -> None:
        """The round is complete: what its clients remember counts from now on."""
        self.memories |= self._pending
        self._pending = {}

    def each(self, function: Callable[[str], Result], names: Iterable[str]) -> dict[str, Result]:
        """`function(name)`, computed at the desk of each name, known in every process.

        Results are small: they travel as objects.

        Raises:
            ClientFailed, BadInput, Stopped: in every process, if `function` failed at a site, found bad input or was
                asked to stop.
            ProcessLost: another process has ended.
        """
        names = list(names)
        here: dict[str, Result] = {}
        end: BaseException | None = None
        for name in names:
            if self.desks[name] != self.world.place:
                continue
            self.world.lookout.ends(f"scoring site {name!r}")
            try:
                self.world.lookout.safe_point(name)
                here[name] = function(name)
            except ProcessLost:
                raise
            except NO_CLIENTS_FAULT as error:
                end = error
                break
            except Exception as error:
                end = ClientFailed(f"site {name!r}: {type(error).__name__}: {error}")
                end.add_note(traceback.format_exc())
                break
        shared = self.world.share((here, end))
        raise_first(end for _, end in shared)
        found = {name: value for part, _ in shared for name, value in part.items()}
        return {name: found[name] for name in names}

    def idle_fractions(self) -> list[float]:
        """By process: the share of the rounds' time in which it had no client to work for. Measured since the start."""
        if not self.seconds_of_rounds:
            return []
        return self.world.share(max(0.0, 1 - self.seconds_at_work / self.seconds_of_rounds))
