"""Every case looked at once, in parallel processes where that pays; no picture stays in memory."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import TypeVar

from fedlit.data.manifest import Row
from fedlit.errors import BadInput

BYTES_ALONE = 100_000_000  # of files that one process reads before a pool has even imported its libraries
AHEAD = 8  # cases of a process under way

Found = TypeVar("Found")


def each(
    work: Callable[[Row], Found], rows: Sequence[Row], *, num_workers: int | None = None
) -> Iterator[Found | BadInput]:
    """What `work` (a function that can be pickled) makes of every row, in their order; a `BadInput` comes as a value.

    Args:
        num_workers: processes; None chooses one for little data, else one for each core.

    Raises:
        BadInput: a process was killed.
    """
    tolerant = partial(_tolerant, work)
    num_workers = num_workers or _num_workers(rows)
    if num_workers == 1:
        yield from map(tolerant, rows)
        return
    # forkserver: forking a process whose libraries have threads can hang, and it imports the libraries once for all
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.func.__module__ if isinstance(work, partial) else work.__module__])
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_quiet) as pool:
        try:
            for chunk in _chunks(rows, AHEAD * num_workers):
                yield from pool.map(tolerant, chunk)
        except BrokenProcessPool:
            raise BadInput(
                f"one of {num_workers} processes that read pictures was killed, for lack of memory most likely;"
                " give fewer with --workers"
            ) from None


def _quiet() -> None:
    """One thread a process."""
    import cv2

    cv2.setNumThreads(0)


def _tolerant(work: Callable[[Row], Found], row: Row) -> Found | BadInput:
    try:
        return work(row)
    except BadInput as error:
        return error


def _num_workers(rows: Sequence[Row]) -> int:
    num_bytes = sum(path.stat().st_size for row in rows for path in (row.image, row.mask))
    return 1 if num_bytes < BYTES_ALONE else min(len(rows), len(os.sched_getaffinity(0)))


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    left = iter(rows)
    while chunk := list(islice(left, size)):
        yield chunk
