"""All processes of a run: how they meet, form teams and part."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from lightning.fabric import Fabric

from fedlit.errors import BadInput
from fedlit.fleet.lookout import Lookout, open_store
from fedlit.fleet.processes import FOR_EVER, Processes, Result
from fedlit.fleet.starting import Placed
from fedlit.fleet.team import Team

PARTING = 5.0
"""Seconds in which the process groups are taken down; one that waits for a message is left as it is."""


@dataclass(frozen=True)
class World(Processes):
    """All processes of a run, watched over; a `with` block, at whose end they part."""

    fabric: Fabric = field(kw_only=True)

    @classmethod
    def of(cls, fabric: Fabric, client_timeout: float | None = None) -> World:
        """The processes that Fabric has started; for `client_timeout` see `Lookout`."""
        size, place = fabric.world_size, fabric.global_rank
        if size == 1:
            return cls(lookout=Lookout(client_timeout=client_timeout), fabric=fabric)
        strategy = fabric.strategy
        assert isinstance(strategy, Placed) and strategy.cluster_environment is not None
        host = strategy.cluster_environment.main_address
        store = open_store(host, 0, size) if place == 0 else None
        port = fabric.broadcast(store.port if store else 0)
        lookout = Lookout(store or open_store(host, place, size, port), place, size, client_timeout)
        return cls(size, place, dist.new_group(backend="gloo", timeout=FOR_EVER), lookout, fabric=fabric)

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.share(None)  # nobody may think that a process which is done has been lost
        self.lookout.close(f"{kind.__name__}: {error}" if kind else "")
        if self.size > 1:  # a thread of gloo that still lets go of a message at the interpreter's end would abort it
            parting = threading.Thread(target=dist.destroy_process_group, name="parting", daemon=True)
            parting.start()
            parting.join(PARTING)

    def on_first(self, function: Callable[[], Result]) -> Result:
        """What `function` returns in the first process, known in all.

        Raises:
            BadInput: in every process, if the first one raised it.
        """
        result: Any = None
        if self.is_first:
            try:
                result = (True, function())
            except BadInput as error:
                result = (False, str(error))
        done, value = self.share(result)[0]
        if not done:
            raise BadInput(value)
        return value

    def form_team(self, size: int) -> Team:
        """The team that this process belongs to; all teams have `size` processes, in the order of processes."""
        if size == 1:
            return Team(number=self.place, lookout=self.lookout)
        teams = [list(range(first, first + size)) for first in range(0, self.size, size)]
        groups = [(dist.new_group(ranks), dist.new_group(ranks, backend="gloo", timeout=FOR_EVER)) for ranks in teams]
        number, place = divmod(self.place, size)
        gradients, lane = groups[number]
        return Team(size, place, lane, self.lookout, number, gradients)
