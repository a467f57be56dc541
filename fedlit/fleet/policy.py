"""When the loss of clients is the end of a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedlit.errors import ClientFailed

Failures = dict[str, tuple[str, str]]
"""By client, the reason and the traceback."""


@dataclass(frozen=True)
class Policy:
    """What is done about clients that failed, or whose updates the rule of aggregation has dropped.

    Args:
        on_client_error: `fail` the round, or `drop` the client from it.
        min_updates: a round from which clients were dropped fails with fewer.
    """

    on_client_error: Literal["fail", "drop"] = "fail"
    min_updates: int = 1

    def judge_failed(self, failures: Failures, num_updates: int, round: int) -> None:
        """Raises ClientFailed where the failed clients are the round's end."""
        if failures and (self.on_client_error == "fail" or num_updates < self.min_updates):
            name = min(failures)
            reason, trace = failures[name]
            failed = ClientFailed(f"client {name!r} failed in round {round}: {reason}")
            failed.add_note(trace)  # where it happened, in whichever process
            raise failed

    def judge_dropped(self, dropped: Mapping[str, str], num_updates: int, round: int) -> None:
        """Raises ClientFailed where too few updates are left."""
        if dropped and num_updates < self.min_updates:
            name, reason = min(dropped.items())
            raise ClientFailed(
                f"client {name!r} was dropped in round {round}: {reason}; {num_updates} updates are left, fewer than "
                f"min_available_clients={self.min_updates}"
            )
