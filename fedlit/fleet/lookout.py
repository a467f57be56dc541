"""Sees in every process whether another has ended, hangs or was asked to stop, so that none waits for ever."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from torch.distributed import Store, TCPStore

from fedlit import stopping
from fedlit.errors import ClientFailed, ProcessLost, Stopped

BEAT = 1.0  # seconds from one sign of life to the next
SILENCE = 20.0  # seconds without one after which a process counts as ended
SUSPECTED_SILENCE = 5.0  # the same, where a connection to some process broke or a launcher is ending all
PATIENCE = 20.0  # seconds in which all processes must have been asked to stop, or else one of them crashed
LAST_WORDS = 3.0  # seconds for the others to read why a process ends


@dataclass
class Neighbour:
    """What another process said last, and when that was heard here."""

    words: dict[str, Any]
    heard: float = field(default_factory=time.monotonic)


class Lookout:
    """A thread that tells the other processes what this one does, and listens to them.

    Alone (`size` 1) it watches only over `client_timeout`.

    Args:
        store: where every process leaves its words; it lives in the first process and ends with it.
        place, size: of this process, and how many there are.
        client_timeout: seconds that a client's local update may take. One that comes to a step boundary later fails;
            one that does not come back at all ends every process.
    """

    def __init__(self, store: Store | None = None, place: int = 0, size: int = 1, client_timeout: float | None = None):
        self.store, self.place, self.size, self.client_timeout = store, place, size, client_timeout
        self.problem: ProcessLost | None = None
        self._since = 0.0  # when the problem was seen
        self._suspects = False
        self._neighbours: dict[int, Neighbour] = {}
        who = f"process {place} ({socket.gethostname()}, pid {os.getpid()})"
        self._words: dict[str, Any] = {"who": who, "doing": "the start", "asked": [], "beat": 0}
        self._client, self._client_began = "", 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lookout", daemon=True)
        self._tell()
        if self.store is not None or client_timeout is not None:
            self._thread.start()

    # The process's own work

    @property
    def doing(self) -> str:
        return self._words["doing"]

    def begins(self, client: str, round: int) -> None:
        """A client of this process begins a local update."""
        self._client, self._client_began = client, time.monotonic()
        self._words["doing"] = f"client {client!r} in round {round}"
        self._tell()

    def ends(self, doing: str) -> None:
        """The client has ended; what the process does next."""
        self._client = ""
        self._words["doing"] = doing
        self._tell()

    def safe_point(self, site: str) -> None:
        """Where work at a site may end, as it does between two steps.

        Raises:
            ClientFailed: the client has taken longer than `client_timeout`.
            Stopped: the run was asked to stop.
            ProcessLost: another process has ended.
        """
        if self.problem:
            raise self.problem
        if asked := stopping.asked():
            raise self._stopped(asked, site)
        seconds = time.monotonic() - self._client_began
        if self._client and self.client_timeout is not None and seconds > self.client_timeout:
            raise ClientFailed(f"it has taken {seconds:.1f} s, longer than client_timeout={self.client_timeout:g}")

    def explain(self, error: RuntimeError) -> Exception:
        """Why a message between processes failed: the process that has ended, where one has."""
        self._suspects = True
        deadline = time.monotonic() + PATIENCE
        while self.problem is None and self.size > 1 and time.monotonic() < deadline:
            time.sleep(BEAT / 4)
        return self.problem or error

    def close(self, last_words: str = "") -> None:
        """Stop watching. `last_words`: the error this process ends with, for the others."""
        if last_words:
            self._words = {**self._words, "ended": last_words}
            self._tell()
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()  # at the interpreter's end it must not be asking the store

    def end_all(self, reason: str) -> None:
        """End this process and, by its last words, every other one."""
        self._words = {**self._words, "verdict": reason}
        self._tell()
        if self.place == 0 and self.size > 1:
            time.sleep(LAST_WORDS)  # the store ends with this process
        self._die(reason)

    def _stopped(self, asked: set[signal.Signals], site: str) -> BaseException:
        names = " and ".join(sorted(each.name for each in asked))
        what = f"asked to stop by {names} while {site} was at work"
        if signal.SIGUSR1 in asked:
            return Stopped(what, may_requeue=True)
        self._suspects = True
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.problem is None:
            if all("SIGTERM" in self._heard(place).get("asked", ()) for place in self._others()):
                return Stopped(what, may_requeue=True)
            time.sleep(BEAT / 4)
        return self.problem or Stopped(f"{what}, which not every process was")

    # The thread

    def _others(self) -> list[int]:
        return [place for place in range(self.size) if place != self.place]

    def _heard(self, place: int) -> dict[str, Any]:
        return self._neighbours[place].words if place in self._neighbours else {}

    def _watch(self) -> None:
        while not self._closing.wait(BEAT):
            if self._hangs():
                self.end_all(
                    f"client {self._client!r} hangs: {self._words['who']} has not come back from a step although "
                    f"client_timeout={self.client_timeout:g} s is long over; all processes end"
                )
            if self.store is not None:
                self._tell()
                self._listen(self.store)
            if self.problem and self._waited_in_vain():
                self._die(str(self.problem))

    def _hangs(self) -> bool:
        if not self._client or self.client_timeout is None:
            return False
        grace = max(10.0, 0.1 * self.client_timeout)
        return time.monotonic() - self._client_began > self.client_timeout + grace

    def _tell(self) -> None:
        if self.store is None:
            return
        self._words["asked"] = sorted(each.name for each in stopping.asked())
        self._words["beat"] += 1
        try:
            self.store.set(f"words of {self.place}", json.dumps(self._words))
        except RuntimeError:
            self._lost(0, "ended")

    def _listen(self, store: Store) -> None:
        for place in self._others():
            try:
                key = f"words of {place}"
                words = json.loads(store.get(key)) if store.check([key]) else {}
            except RuntimeError:  # of the store, which lives in the first process
                return self._lost(0, "ended")
            known = self._neighbours.setdefault(place, Neighbour(words))
            if words.get("beat") != known.words.get("beat"):
                self._neighbours[place] = known = Neighbour(words)
            if "verdict" in words:
                self._die(words["verdict"])
            if "SIGUSR1" in words.get("asked", ()):
                stopping.ask(signal.SIGUSR1)
            silence = time.monotonic() - known.heard
            if "ended" in words:
                self._lost(place, f"ended: {words['ended']}")
            elif silence > (SUSPECTED_SILENCE if self._suspects else SILENCE):
                self._lost(place, f"ended or cannot be reached, silent for {silence:.0f} s")

    def _lost(self, place: int, how: str) -> None:
        if self.problem is None and not self._closing.is_set():
            known = self._heard(place)
            who, doing = known.get("who", f"process {place}"), known.get("doing", "the start")
            self.problem = ProcessLost(f"{who} has {how}; it was at: {doing}")
            self._since = time.monotonic()

    def _waited_in_vain(self) -> bool:
        """The work should have come to a safe point by now; it waits for one that will not answer."""
        return time.monotonic() - self._since > PATIENCE

    def _die(self, reason: str) -> None:
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
        os.write(2, f"{show_cursor}error: {reason}\n".encode())
        os._exit(1)


def open_store(host: str, place: int, size: int, port: int = 0) -> TCPStore:
    """The store of all processes; the first one opens it, at a free port, before the others come."""
    return TCPStore(host, port, size, place == 0, timeout=timedelta(seconds=60), wait_for_workers=False)
