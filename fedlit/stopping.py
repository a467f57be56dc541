"""Stopping on request: a signal is noted, the run acts on it at the next safe point."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HEEDED = (signal.SIGTERM, signal.SIGUSR1)

_asked: set[signal.Signals] = set()
_arrivals: list[socket.socket] = []  # where the interpreter writes each signal, also while it waits for a message


def ask(number: int) -> None:
    """Note a signal."""
    if number in HEEDED:
        _asked.add(signal.Signals(number))


def asked() -> set[signal.Signals]:
    """The signals that have come; any thread may ask."""
    for arrivals in _arrivals:
        with suppress(BlockingIOError):
            for number in arrivals.recv(4096):
                ask(number)
    return set(_asked)


@contextmanager
def heeding_signals() -> Iterator[None]:
    """SIGTERM and SIGUSR1 ask the run to stop; Ctrl-C stays what Python makes of it."""
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    before = {number: signal.signal(number, lambda number, frame: ask(number)) for number in HEEDED}
    wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    _arrivals.append(reading)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        _arrivals.remove(reading)
        reading.close()
        writing.close()
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
