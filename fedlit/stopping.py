"""Stopping on request: a signal sets a flag, the run acts on it at the next safe point."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from fedlit.errors import Stopped

_requested: list[signal.Signals] = []


def between_steps(site: str) -> None:
    """A safe point. Raises Stopped where a signal has come."""
    if _requested:
        raise Stopped(f"asked to stop by {_requested[0].name} while {site} was training")


@contextmanager
def heeding_signals() -> Iterator[None]:
    """SIGTERM and SIGUSR1 ask the run to stop; Ctrl-C stays what Python makes of it."""

    def note(number: int, frame: object) -> None:
        _requested.append(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        _requested.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
