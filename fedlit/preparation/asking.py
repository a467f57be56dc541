"""The question that only a person at a terminal is asked: which value of masks is foreground."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from fedlit.errors import BadInput
from fedlit.preparation.prepare import Interrupted

ABORT = "abort"


def asked_for(told: str, values: Sequence[int], refusal: str) -> int:
    """One of the values, as a person says it: there is no answer that is taken without being typed.

    Args:
        told: what the person has to know.
        refusal: what is said in place of the question where stdin or stderr is no terminal, or on the answer `abort`.

    Raises:
        BadInput: with the refusal.
        Interrupted: Ctrl-C or Ctrl-D.
    """
    if not at_terminal():
        raise BadInput(refusal)
    click.echo(told, err=True)
    words = click.Choice([*map(str, values), ABORT])
    try:
        answer = click.prompt("the value that is to be found", type=words, err=True)
    except click.Abort:
        raise Interrupted("\nstopped; nothing is written. --foreground VALUE answers without a question") from None
    if answer == ABORT:
        raise BadInput(refusal)
    click.echo(f"taken: {answer}, as --foreground {answer} says it without a question", err=True)
    return int(answer)


def at_terminal() -> bool:
    """A person can answer and sees the question."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
