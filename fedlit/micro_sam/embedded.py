"""The micro SAM that ships with the package."""

from __future__ import annotations

from pathlib import Path

from fedlit.networks.sam_checkpoint import EMBEDDED


def embedded_teacher() -> Path:
    """The weights of the embedded teacher, for `SAM(size="micro", checkpoint=...)`; how they were made lies beside.

    They were learnt from drawn pictures alone (`fedlit pretrain-teacher`), never from a real one.
    """
    return EMBEDDED
