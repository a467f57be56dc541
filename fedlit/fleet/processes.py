"""The processes of a run, all of them or a team, and what they can tell each other."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fedlit.errors import NO_CLIENTS_FAULT, ClientFailed
from fedlit.fleet.lookout import Lookout

Result = TypeVar("Result")
FOR_EVER = timedelta(days=365)
"""How long a message may wait: others work on their clients meanwhile, and the lookout sees who ends."""


@dataclass(frozen=True)
class Processes:
    """Some processes of a run, in a fixed order.

    Args:
        size, place: how many there are, and which of them this is.
        lane: the gloo group in which structure travels; None for one process.
        lookout: knows why a message fails.
    """

    size: int = 1
    place: int = 0
    lane: Any = None
    lookout: Lookout = field(default_factory=Lookout)

    @property
    def is_first(self) -> bool:
        return self.place == 0

    def share(self, value: Result) -> list[Result]:
        """The value of every process, in their order. For structure, not for tensors.

        Raises:
            ProcessLost: one of them has ended.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(values, value, group=self.lane)
        except RuntimeError as error:
            raise self.lookout.explain(error) from error
        return values

    def spread(self, content: bytes, source: int) -> bytes:
        """The bytes that the process at place `source` has, known in all.

        Raises:
            ProcessLost: one of them has ended.
        """
        if self.size == 1:
            return content
        length = self.share(len(content))[source]
        here = bytearray(content) if self.place == source else bytearray(length)
        try:
            dist.broadcast(torch.frombuffer(here, dtype=torch.uint8), source, group=self.lane)
        except RuntimeError as error:
            raise self.lookout.explain(error) from error
        return bytes(here)

    def add_up(self, values: Tensor) -> Tensor:
        """The sum over all processes of an int64 tensor on the CPU, modulo 2^64; `values` is used up.

        Raises:
            ProcessLost: one of them has ended.
        """
        if self.size > 1:
            try:
                dist.all_reduce(values, group=self.lane)
            except RuntimeError as error:
                raise self.lookout.explain(error) from error
        return values

    def together(self, function: Callable[[], Result], patience: float | None = None) -> Result:
        """What `function` returns here, once it has failed in no process; what one of them met is raised in all.

        Args:
            patience: seconds after which a failure here ends the run, for the others may wait for this process
                elsewhere. None where nothing in `function` waits for the others.
        """
        if self.size == 1:
            return function()
        problem: BaseException | None = None
        try:
            result = function()
        except NO_CLIENTS_FAULT as error:
            problem = error
        except Exception as error:
            problem = told(error)
        if self._any(problem is not None, patience if problem else None, str(problem)):
            raise_first(self.share(problem))
        return result

    def _any(self, mine: bool, patience: float | None, reason: str) -> bool:
        flag = torch.tensor([mine], dtype=torch.uint8)
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.lane, async_op=True)
        begin = time.monotonic()
        try:
            work.wait(FOR_EVER if patience is None else timedelta(seconds=patience))
        except RuntimeError as error:
            if patience is not None and time.monotonic() - begin >= patience:
                self.lookout.end_all(f"{self.lookout.doing} failed in one process of its team alone: {reason}")
            raise self.lookout.explain(error) from error
        return bool(flag.item())


def raise_first(ends: Iterable[BaseException | None]) -> None:
    """Raise what one of the processes has met, in all of them."""
    for end in ends:
        if end is not None:
            raise end


def told(error: Exception) -> ClientFailed:
    """An error of whatever kind as one that can travel, with its traceback as a note."""
    failed = error if isinstance(error, ClientFailed) else ClientFailed(str(error) or type(error).__name__)
    if not getattr(failed, "__notes__", None):
        failed.add_note("".join(traceback.format_exception(error)))
    return failed
