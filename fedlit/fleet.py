"""Where clients run. The only file that knows that there is more than one process."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.distributed
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from torch import nn

from fedlit import hardware
from fedlit.display import Display, open_display
from fedlit.errors import BadInput, ClientFailed, Stopped
from fedlit.messages import Aggregate, Broadcast, Report, Slots, Update, restore, size, tensors
from fedlit.weights import WeightedSum, to_cpu

if TYPE_CHECKING:
    from fedlit.aggregation import Aggregation
    from fedlit.client import Client, Resident
    from fedlit.data.loading import Loader

Result = TypeVar("Result")
LocalUpdate = Callable[["Client", Broadcast], tuple[Update, Slots]]


@dataclass(frozen=True)
class Workbench:
    """What a process lends to the client at work.

    `network` is what Fabric made of the resident's network; `between_steps` is called with the site after every step.
    """

    fabric: Fabric
    network: nn.Module
    resident: Resident
    loader: Loader
    between_steps: Callable[[str], None]


class SideBySide(DDPStrategy):
    """Starts and connects processes as DDP does, and wraps nothing: every process trains clients of its own."""

    def setup_module(self, module: nn.Module) -> nn.Module:
        return module


def open_fabric(
    *, accelerator: str, devices: int | str, num_nodes: int, precision: str, loggers: Iterable[Any] = ()
) -> Fabric:
    """The Fabric of this run, its processes started. Flags of `fabric run` win over what is given here.

    Raises:
        BadInput: `fabric run --strategy` asks for one that does not fit.
    """
    strategy = os.environ.pop("LT_STRATEGY", "ddp")
    if strategy not in ("ddp", "auto"):
        raise BadInput(
            f"fabric run --strategy={strategy}: clients are placed side by side, which needs ddp; leave the flag out"
        )
    started = "LT_CLI_USED" in os.environ
    os.environ.pop("LT_PRECISION", None)  # the config has taken it in
    one = not started and str(devices) == "1" and num_nodes == 1 and "WORLD_SIZE" not in os.environ
    try:
        fabric = Fabric(
            accelerator="auto" if started else accelerator,
            devices="auto" if started else (1 if one else devices),
            num_nodes=1 if started else num_nodes,
            strategy="auto" if one else SideBySide(),
            precision=precision,
            loggers=list(loggers),
        )
    except (RuntimeError, TypeError, ValueError) as error:  # all that Lightning raises for devices that are not there
        raise BadInput(f"accelerator={accelerator} devices={devices} precision={precision}: {error}") from error
    if not started:
        fabric.launch()
    if fabric.device.type == "cpu":
        hardware.keep_freed_memory()
        hardware.share_cores(
            int(os.environ.get("LOCAL_WORLD_SIZE", fabric.world_size // fabric.strategy.num_nodes if not one else 1))
        )
    return fabric


def on_first(fabric: Fabric, function: Callable[[], Result]) -> Result:
    """What `function` returns in the first process, known in all.

    Raises:
        BadInput: in every process, if the first one raised it.
    """
    result: Any = None
    if fabric.global_rank == 0:
        try:
            result = (True, function())
        except BadInput as error:
            result = (False, str(error))
    done, value = fabric.broadcast(result)
    if not done:
        raise BadInput(value)
    return value


def pack(costs: Mapping[str, float], num_groups: int) -> dict[str, int]:
    """A home for every name: longest first, each to the group with the least to do.

    Ties are broken by name, so the order of `costs` is irrelevant.
    """
    load = [0.0] * num_groups
    homes = {}
    for name in sorted(costs, key=lambda name: (-costs[name], name)):
        homes[name] = min(range(num_groups), key=lambda group: (load[group], group))
        load[homes[name]] += costs[name]
    return homes


def raise_first(ends: Iterable[BaseException | None]) -> None:
    """Raise what one of the processes has met, in all of them."""
    for end in ends:
        if end is not None:
            raise end


class Fleet:
    """Runs a function for clients, each in the process that is its home for the whole run, and shares the results.

    Args:
        fabric: with its processes started.
        clients: by name, in every process; a client's memory lives only at its home.
        costs: by name, what a client's round or a site's evaluation costs relative to others; each name gets a home.
        workbench: lent to each client in turn.
        on_client_error: `fail` the round, or `drop` the client from it.
        watch: is told of rounds and clients.
        min_updates: a round from which clients were dropped fails with fewer (but never with a whole cohort).
    """

    def __init__(
        self,
        fabric: Fabric,
        clients: Mapping[str, Client],
        costs: Mapping[str, float],
        workbench: Workbench,
        *,
        on_client_error: Literal["fail", "drop"] = "fail",
        min_updates: int = 1,
        watch: Display | None = None,
    ):
        self.fabric = fabric
        self.clients = clients
        self.homes = pack(costs, fabric.world_size)
        self.workbench = workbench
        self.on_client_error = on_client_error
        self.min_updates = min_updates
        self.watch = watch or open_display("", 0, is_shown=False)
        self.memories: dict[str, Slots] = {}
        self._pending: dict[str, Slots] = {}
        for client in clients.values():
            client.workbench = workbench

    @property
    def is_first(self) -> bool:
        """This process is the one that writes shared files and speaks to the user."""
        return self.fabric.global_rank == 0

    def lives_here(self, name: str) -> bool:
        return self.homes[name] == self.fabric.global_rank

    def map(
        self, local_update: LocalUpdate, cohort: Sequence[str], broadcast: Broadcast, rule: Aggregation
    ) -> Aggregate:
        """Let every client of the cohort do its local update; returns what the rule makes of all updates.

        The result is equal in every process. What the clients remember is pending until `commit`.

        Raises:
            ClientFailed: in every process, if a client failed and the policy is `fail` or too few are left.
            BadInput, Stopped: in every process, if one of them met bad input or was asked to stop.
        """
        self.watch.round_started(broadcast.round + 1, cohort)
        total, reports, failures, end = self._work(local_update, cohort, broadcast, rule)
        shared = self.share((reports, failures, end))
        raise_first(end for _, _, end in shared)
        reports = sorted((report for part, _, _ in shared for report in part), key=lambda report: report.client)
        failures = {name: failure for _, part, _ in shared for name, failure in sorted(part.items())}
        if failures and (self.on_client_error == "fail" or len(reports) < self.min_updates):
            name, (reason, trace) = next(iter(failures.items()))
            failed = ClientFailed(f"client {name!r} failed in round {broadcast.round + 1}: {reason}")
            failed.add_note(trace)  # where it happened, in whichever process
            raise failed
        dropped = {name: reason for name, (reason, _) in failures.items()}
        return replace(restore(Aggregate, {}, self._mean(total)), reports=tuple(reports), dropped=dropped)

    def _work(
        self, local_update: LocalUpdate, cohort: Sequence[str], broadcast: Broadcast, rule: Aggregation
    ) -> tuple[WeightedSum, list[Report], dict[str, tuple[str, str]], BaseException | None]:
        """The local updates of the clients that live here, one after the other.

        Returns their sum, a report of each, the failures (reason and traceback by client), and what ended the work.
        """
        total, reports, failures = WeightedSum(), [], {}
        self._pending = {}
        for name in filter(self.lives_here, cohort):
            client, start = self.clients[name], time.perf_counter()
            client.memory = self.memories.get(name, {})
            try:
                update, memory = local_update(client, broadcast)
                total.add(tensors(update), rule.coefficient(update))
            except (BadInput, Stopped) as error:  # no failure of the client: the policy does not apply
                return total, reports, failures, error
            except Exception as error:
                failures[name] = (str(error) or type(error).__name__, traceback.format_exc())
                if self.on_client_error == "fail":
                    break
                continue
            seconds = time.perf_counter() - start
            self._pending[name] = {slot: to_cpu(values) for slot, values in memory.items()}
            reports.append(Report(name, update.num_samples, size(update), seconds, update.scalars))
            self.watch.client_done(name, seconds, update.scalars["loss"])
        return total, reports, failures, None

    def commit(self) -> None:
        """The round is complete: what its clients remember counts from now on."""
        self.memories |= self._pending
        self._pending = {}

    def each(self, function: Callable[[str], Result], names: Iterable[str]) -> dict[str, Result]:
        """`function(name)`, computed at the home of each name, known in every process.

        Results are small: they travel as objects.

        Raises:
            ClientFailed, BadInput, Stopped: in every process, if `function` failed at a site, found bad input or was
                asked to stop.
        """
        names = list(names)
        here, end = {}, None
        for name in filter(self.lives_here, names):
            try:
                self.workbench.between_steps(name)
                here[name] = function(name)
            except (BadInput, Stopped) as error:
                end = error
                break
            except Exception as error:
                end = ClientFailed(f"site {name!r}: {type(error).__name__}: {error}")
                end.add_note(traceback.format_exc())
                break
        shared = self.share((here, end))
        raise_first(end for _, end in shared)
        found = {name: value for part, _ in shared for name, value in part.items()}
        return {name: found[name] for name in names}

    def share(self, value: Result) -> list[Result]:
        """The value of every process, in the order of processes. For structure, not for tensors."""
        if self.fabric.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def _mean(self, total: WeightedSum) -> dict[str, torch.Tensor]:
        """The mean over all processes: partial sums travel in the order of processes, and everyone adds them so."""
        if self.fabric.world_size == 1:
            return total.mean()
        outlines = self.share((total.like, total.coefficient))
        like = next(like for like, _ in outlines if like is not None)
        everything = WeightedSum.zeros(like, self.fabric.device)
        for process, (part, coefficient) in enumerate(outlines):
            if part is None:
                continue
            mine = process == self.fabric.global_rank
            pair = total.pair() if mine else tuple(map(torch.empty_like, everything.pair()))
            for vector in pair:
                torch.distributed.broadcast(vector, src=process)
            everything.merge(*pair, coefficient)
        return everything.mean()
