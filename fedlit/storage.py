"""The cache's folders: locked while they are filled, with one clear error when there is no room."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedlit.errors import BadInput

log = logging.getLogger(__name__)


def cache_folder(given: str | None = None) -> Path:
    """The one given, else $FEDLIT_CACHE, else fedlit in $XDG_CACHE_HOME, else ~/.cache/fedlit."""
    if place := given or os.environ.get("FEDLIT_CACHE"):
        return Path(place).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "fedlit"


def read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a damaged index is only slower
        return None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock dies with its process."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path.with_suffix(".lock"), "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process that fills %s", path)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def writing_to(cache: Path) -> Iterator[None]:
    """Any OSError inside is the cache's, which is made: files of the user are read with their own errors."""
    with only_written(cache, f"the cache {cache}", "set data.cache_dir or FEDLIT_CACHE to a folder on another disk"):
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield


@contextlib.contextmanager
def only_written(folder: Path, named: str, elsewhere: str) -> Iterator[None]:
    """Any OSError inside is of this folder, and what helps depends on which it is.

    Args:
        named: the folder, in the words of who reads the error.
        elsewhere: how another folder is given, as an order.

    Raises:
        BadInput: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        told, way_out = str(error.strerror or error), f"mend that, or {elsewhere}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            told += f", {shutil.disk_usage(folder).free / 1e6:.0f} MB free" if folder.is_dir() else ""
            way_out = f"make room there, or {elsewhere}"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            way_out = f"get the right to write there, or {elsewhere}"
        raise BadInput(f"{named} cannot be written ({told}); {way_out}") from error
