"""The ways a command can end badly, and the exit code of each."""

from __future__ import annotations


class BadInput(Exception):
    """The configuration, the data or the command is wrong. Exit 2.

    One message says what, where, what is allowed and what to do.
    """


class ClientFailed(Exception):
    """A client's local update failed: its error, or a loss that is not finite. Exit 1."""


class ProcessLost(Exception):
    """Another process of the run has ended, so this one cannot go on. Exit 1."""


class Stopped(BaseException):
    """The run was asked to stop by a signal and has reached a safe point. Exit 75.

    No Exception: no policy on failing clients may catch it.

    Args:
        may_requeue: the scheduler asked for it (USR1, or SIGTERM to every process): the job may go back to its queue.
    """

    def __init__(self, message: str, *, may_requeue: bool = False):
        super().__init__(message)
        self.may_requeue = may_requeue


NO_CLIENTS_FAULT = (BadInput, ProcessLost, Stopped)
"""What the policy on failing clients does not apply to."""
