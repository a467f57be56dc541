"""How a command ends: its exit code, and its error in words."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import click

from fedlit.errors import BadInput, ClientFailed, ProcessLost, Stopped

EXIT_CODES = """\b
Exit codes: 0 done, 1 failed, 2 bad input, 75 saved and to be run again, 130 Ctrl-C (saved)."""

ROUNDS = "the rounds that were complete are saved: run the same command to go on (without overwrite=true)"
LEFT = {
    **dict.fromkeys(("run", "warm-start", "reproduce"), ROUNDS),
    "evaluate": "models that were scored whole are recorded: run the same command again for the others and the report",
    "pretrain-teacher": "all but its last minutes is saved: run the same command to go on",
}
"""What a command that was stopped leaves, and how to go on; others leave nothing that one need know of."""


def guarded(function: Callable[[], None], command: str, debug: bool) -> int:
    """The exit code of a command, its error said in words; with `debug` errors keep their traceback."""
    left = f"; {LEFT[command]}" if command in LEFT else ""
    try:
        function()
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        say(f"\nstopped by Ctrl-C{left}")
        return 130
    except Stopped as stop:
        say(f"{stop}{left}")
        return 75
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, ProcessLost):
            click.echo(f"error: {error}{left}", err=True)  # by every process: the first may be the one that is lost
            return 1
        if isinstance(error, BadInput | ClientFailed):
            say(f"error: {error}")
            return 2 if isinstance(error, BadInput) else 1
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        click.echo(f"error: {type(error).__name__}: {error}{where}\nadd --debug for the traceback", err=True)
        return 1


def say(text: str) -> None:
    """A line that concerns all processes alike, written to stderr once."""
    if is_first():
        click.echo(text, err=True)


def is_first() -> bool:
    """This process speaks to the user; the launchers of several processes number them in one of these variables."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
