"""Runs a function for clients, each on the team that is its home, and shares the results."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fedlit.aggregation import ROOT
from fedlit.display import Display, open_display
from fedlit.errors import NO_CLIENTS_FAULT, ClientFailed, ProcessLost
from fedlit.fleet.collecting import Collected, Outcome, collecting
from fedlit.fleet.masked import Masked
from fedlit.fleet.placement import desks, pack
from fedlit.fleet.policy import Failures, Policy
from fedlit.fleet.processes import raise_first, told
from fedlit.fleet.workbench import Workbench
from fedlit.fleet.world import World
from fedlit.hardware import peak_bytes
from fedlit.messages import Aggregate, Broadcast, Expert, Report, Slots, Update, header, restore, tensors
from fedlit.transforms import Channel, Sent
from fedlit.weights import dumps, loads, to_cpu

if TYPE_CHECKING:
    from fedlit.aggregation import Aggregation, Coefficient
    from fedlit.client import Client

Result = TypeVar("Result")
LocalUpdate = Callable[["Client", Broadcast], tuple[Update, Slots]]
ALONE = 15.0
"""Seconds after which a process whose team did not fail with it ends the run: the team waits for its gradients."""


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
        channel: what happens to updates on their way.
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
        channel: Channel | None = None,
        watch: Display | None = None,
    ):
        team = workbench.team
        self.world = world
        self.clients = clients
        self.homes = pack(costs, world.size // team.size)
        self.desks = desks(scoring_costs, world.size, self.homes, team.size)
        self.workbench = workbench
        self.policy = Policy(on_client_error, min_updates)
        self.channel = channel or Channel()
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

    @property
    def members(self) -> list[str]:
        """The clients by name; what the server trains itself, where the rule of aggregation asks for it, is none."""
        return sorted(name for name in self.clients if name != ROOT)

    def lives_here(self, name: str) -> bool:
        """The client's home is the team of this process."""
        return self.homes.get(name) == self.workbench.team.number

    def map(
        self,
        local_update: LocalUpdate,
        cohort: Sequence[str],
        broadcast: Broadcast,
        rule: Aggregation,
        older: Mapping[str, Broadcast] | None = None,
    ) -> Aggregate:
        """Let every client of the cohort do its local update; returns what the rule makes of all updates.

        The result is equal in every process. What the clients remember is pending until `commit`.

        Args:
            older: what some clients have seen instead of `broadcast`.

        Raises:
            ClientFailed: in every process, if a client failed and the policy is `fail` or too few are left.
            BadInput, Stopped: in every process, if one of them met bad input or was asked to stop; BadInput before any
                work, if the rule cannot weigh this cohort.
            ProcessLost: another process has ended.
        """
        start = time.perf_counter()
        coefficient = rule.coefficients({name: len(self.clients[name].site.train) for name in cohort})
        for client in self.clients.values():
            client.reports_validation = rule.needs_validation
        self.watch.round_started(broadcast.round + 1, [name for name in cohort if name != ROOT])
        collected = self._collecting(rule, coefficient, broadcast, cohort)
        seen = dict.fromkeys(cohort, broadcast) | dict(older or {})
        reports, failures, end = self._work(local_update, seen, broadcast.round + 1, collected)
        self.world.lookout.ends(f"sharing the updates of round {broadcast.round + 1}")
        if isinstance(end, ProcessLost):
            raise end  # the others would be waited for in vain
        shared = self.world.share((reports, failures, end, collected.part()))
        raise_first(end for _, _, end, _ in shared)
        reports = sorted((report for part, *_ in shared for report in part), key=lambda report: report.client)
        failures = {name: failure for _, part, *_ in reversed(shared) for name, failure in sorted(part.items())}
        root = next((report for report in reports if report.client == ROOT), None)
        reports = [report for report in reports if report is not root]
        self.policy.judge_failed(failures, len(reports), broadcast.round + 1)
        outcome = collected.outcome([part for *_, part in shared])
        reports = [report for report in reports if report.client not in outcome.dropped]
        self._forget(outcome, len(reports), broadcast.round + 1)
        self.seconds_of_rounds += time.perf_counter() - start
        dropped = {name: reason for name, (reason, _) in failures.items()} | dict(outcome.dropped)
        dropped = dict(sorted(dropped.items()))
        found = {"reports": tuple(reports), "dropped": dropped, "root": root, "screened": outcome.screened()}
        aggregate = restore(Aggregate, found, outcome.tensors)
        buffers = self.workbench.resident.buffers
        return self.channel.receive(aggregate, broadcast, len(cohort), buffers, self._spread)

    def _collecting(
        self, rule: Aggregation, coefficient: Coefficient, broadcast: Broadcast, cohort: Sequence[str]
    ) -> Collected:
        """What the rule needs of the round's updates, or of their sum, where nothing else may be known."""
        if self.channel.masking is None:
            return collecting(rule, coefficient, broadcast, self.workbench.resident.buffers, self.world)
        here = [name for name in cohort if self.lives_here(name) and self.workbench.team.is_first]
        return Masked(self.channel.masking, coefficient, broadcast, self.world, here=here, num_clients=len(cohort))

    def _spread(self, make: Callable[[], bytes]) -> bytes:
        """The bytes that the first process makes, known in all."""
        return self.world.spread(make() if self.is_first else b"", 0)

    def _work(
        self, local_update: LocalUpdate, seen: Mapping[str, Broadcast], round: int, collected: Collected
    ) -> tuple[list[Report], Failures, BaseException | None]:
        """The local updates of the clients that live here, one after the other, collected by the first of a team.

        Returns, in the first process of a team, a report of each; the failures, and what ended the work.
        """
        team = self.workbench.team
        reports: list[Report] = []
        failures: Failures = {}
        buffers = self.workbench.resident.buffers
        self._pending = {}
        for name in filter(self.lives_here, seen):
            client, start = self.clients[name], time.perf_counter()
            client.memory = self.memories.get(name, {})
            self.world.lookout.begins(name, round)
            try:
                update, memory = team.together(partial(local_update, client, seen[name]), patience=ALONE)
                send = partial(self.channel.send, update, seen[name], self.memories.get(name, {}), buffers, len(seen))
                sent = Sent(update, 0, {}) if name == ROOT else team.together(send)  # what is there is not sent
                team.together(partial(self._add, collected, sent.update))
            except NO_CLIENTS_FAULT as error:  # the policy does not apply
                return reports, failures, error
            except Exception as error:
                failed = told(error)
                failures[name] = str(failed), "".join(failed.__notes__)
                if self.policy.on_client_error == "fail":
                    break
                continue
            seconds = time.perf_counter() - start
            self.seconds_at_work += seconds
            memory = {**memory, **sent.memory}
            self._pending[name] = {slot: to_cpu(values) for slot, values in memory.items()}
            if team.is_first:
                reports.append(Report(name, update.num_samples, sent.num_bytes, seconds, update.scalars))
                if name != ROOT:
                    self.watch.client_done(name, seconds, update.scalars["loss"])
        return reports, failures, None

    def _add(self, collected: Collected, update: Update) -> None:
        """Count an update, which all processes of a team have, once."""
        if self.workbench.team.is_first:
            collected.add(update)

    def _forget(self, outcome: Outcome, num_updates: int, round: int) -> None:
        """Forget what the clients that the rule has dropped remember of the round, and tell of those it has clipped."""
        for name, reason in outcome.clipped.items():
            self.watch.warn(f"round {round}: {name} was clipped: {reason}")
        for name in outcome.dropped:
            self._pending.pop(name, None)
        self.policy.judge_dropped(outcome.dropped, num_updates, round)

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

    def gather(self, function: Callable[[str], Expert | None], names: Iterable[str]) -> dict[str, Expert]:
        """The messages that `function(name)` makes at the desk of each name, known in every process; None is left out.

        Structure travels as an object, tensors as their safetensors form. Raises as `each` does.
        """
        contents: dict[str, bytes] = {}

        def opened(name: str) -> dict[str, Any] | None:
            message = function(name)
            if message is None:
                return None
            contents[name] = dumps(tensors(message))
            return header(message)

        headers = {name: found for name, found in self.each(opened, names).items() if found is not None}
        return {
            name: restore(Expert, found, loads(self.world.spread(contents.pop(name, b""), self.desks[name])))
            for name, found in headers.items()
        }

    def peak_bytes(self) -> int | None:
        """The most memory that one process has held at once since it started; None where it cannot be known."""
        found = self.world.share(peak_bytes(self.workbench.fabric.device))
        return max((each for each in found if each is not None), default=None)

    def idle_fractions(self) -> list[float]:
        """By process: the share of the rounds' time in which it had no client to work for. Measured since the start."""
        if not self.seconds_of_rounds:
            return []
        return self.world.share(max(0.0, 1 - self.seconds_at_work / self.seconds_of_rounds))
