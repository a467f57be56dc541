"""Pictures decoded once into memory-mapped files that all processes share; the folder may be deleted at any time.

    CACHE/hashes/ROOT.json      path -> size, time of change, sha256: a changed file is read again, others are not
    CACHE/packs/KEY/index.json  the cases of one site by content, and their sizes; KEY: hash of contents and preparation
    CACHE/packs/KEY/pixels.bin  the pixels of all images, then the label codes of all masks

It holds patients' pictures: only its owner may enter it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from fedlit.data.pack import Pack, open_pack
from fedlit.data.preparing import Preparation
from fedlit.errors import BadInput
from fedlit.files import replacing, write_atomically
from fedlit.storage import locked, read_json, writing_to

FORMAT = 3  # part of every pack's key: raise it when decoding or preparing changes
FACTS = ("st_size", "st_mtime_ns", "st_ctime_ns")  # of a file; other ones are kept in an index of their own
NUM_THREADS = min(8, os.cpu_count() or 1)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Files:
    """The two files of a case and where the manifest names them, for messages."""

    image: Path
    mask: Path
    where: str


@dataclass(frozen=True)
class PackedCase:
    """A case's pictures in a pack: numbers `first` to `first + num_slices - 1`; size and spacing are as decoded.

    `foreground` is the share of the pixels that belong to a class, in [0, 1]; `turned_grey`: it was in colour.
    """

    first: int
    num_slices: int
    size: tuple[int, int]
    spacing: tuple[float, ...] | None
    is_volume: bool
    foreground: float
    turned_grey: bool


def file_hashes(paths: Sequence[Path], *, root: Path, cache: Path) -> dict[Path, str]:
    """The sha256 of every file; only files that are new or changed in size or times since the last call are read.

    Also in the time of their last change on this disk, which nobody sets: a copy may bring its older time along.
    """
    index = cache / "hashes" / f"{hashlib.sha256(f'{FACTS} {root}'.encode()).hexdigest()[:16]}.json"
    known, found = read_json(index) or {}, {}
    stale = []
    for path in dict.fromkeys(paths):
        stat = path.stat()
        *facts, digest = known.get(str(path), [""])
        if facts == _facts(stat):
            found[path] = digest
        else:
            stale.append((path, stat))
    if not stale:
        return found
    try:
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            digests = list(pool.map(_sha256, (path for path, _ in stale)))
    except OSError as error:
        raise BadInput(f"{error.filename} cannot be read ({error.strerror}); correct its rights or its disk") from error
    fresh = {}
    for (path, stat), digest in zip(stale, digests, strict=True):
        found[path] = digest
        fresh[str(path)] = (*_facts(stat), digest)
    with writing_to(cache), locked(index):
        write_atomically(index, json.dumps({**(read_json(index) or {}), **fresh}))
    return found


def _facts(stat: os.stat_result) -> list[int]:
    return [getattr(stat, name) for name in FACTS]


def packed(
    files: Mapping[str, Files], preparation: Preparation, *, cache: Path
) -> tuple[Pack | None, dict[str, PackedCase], list[str]]:
    """The pack of these cases (content key -> files), decoded now if it is not yet in the cache.

    Returns the pack, where each case lies in it, and the problems of all files; with problems nothing is kept.
    Raises `BadInput` when the cache cannot be written.
    """
    key = hashlib.sha256(json.dumps([FORMAT, asdict(preparation), sorted(files)]).encode()).hexdigest()[:32]
    folder = cache.resolve() / "packs" / key
    found = _opened(folder)
    if found is None:
        with writing_to(cache), locked(folder):
            found = _opened(folder)  # another process may have decoded them meanwhile
            if found is None:
                if problems := _decode_into(folder, files, preparation):
                    return None, {}, problems
                found = _opened(folder)
    assert found is not None
    pack, cases = found
    return pack, cases, []


def _opened(folder: Path) -> tuple[Pack, dict[str, PackedCase]] | None:
    try:
        pack = open_pack(folder)
        cases = json.loads((folder / "index.json").read_text(encoding="utf-8"))["cases"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        log.warning("the cached pictures in %s are damaged (%s): decoding them again", folder, error)
        return None
    return pack, {
        key: PackedCase(first, num, tuple(size), tuple(spacing) if spacing else None, *others)
        for key, (first, num, size, spacing, *others) in cases.items()
    }


def _decode_into(folder: Path, files: Mapping[str, Files], preparation: Preparation) -> list[str]:
    log.info("decoding %d cases, once, into %s", len(files), folder)
    partial = folder.with_suffix(".partial")
    try:
        for dtype in (np.uint8, np.uint16):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True, mode=0o700)
            try:
                problems = _write(partial, files, preparation, dtype)
                break
            except OverflowError:  # a case needs 16 bits: once more, all of them wide
                continue
        if not problems:
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(partial, folder)
        return problems
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, files: Mapping[str, Files], preparation: Preparation, dtype: type) -> list[str]:
    """Writes, never through a memory map: on a full disk that would kill the process instead of raising.

    Returns the problems of the files, in their order.
    """
    cases: dict[str, tuple] = {}
    sizes: list[tuple[int, int]] = []
    problems: dict[str, str] = {}
    with replacing(folder / "pixels.bin") as pixels, open(folder / "codes.tmp", "w+b") as masks:
        for key, outcome in _decoded(files, preparation):
            if isinstance(outcome, BadInput):
                problems[key] = f"{files[key].where}: {outcome}"
                continue
            images, codes, decoded = outcome
            if images.dtype.itemsize > np.dtype(dtype).itemsize:
                raise OverflowError
            if images.dtype != dtype:
                images = images.astype(dtype) * dtype(257)  # 255 * 257 = 65535, so no value changes
            pixels.write(images.data)
            masks.write(codes.data)
            foreground = np.count_nonzero(codes) / codes.size
            size = decoded.array.shape[1:3]
            grey = preparation.turns_grey(decoded)
            cases[key] = (len(sizes), len(codes), size, decoded.spacing, decoded.is_volume, foreground, grey)
            sizes += [codes.shape[1:]] * len(codes)
        masks.seek(0)
        shutil.copyfileobj(masks, pixels)
    os.unlink(folder / "codes.tmp")
    index = {"dtype": np.dtype(dtype).name, "channels": preparation.channels, "cases": cases, "sizes": sizes}
    write_atomically(folder / "index.json", json.dumps(index))
    return [problems[key] for key in files if key in problems]


def _decoded(files: Mapping[str, Files], preparation: Preparation) -> Iterator[tuple]:
    """The cases in order of their keys, a few at a time, so that memory does not grow with their number."""

    def decode(key: str) -> tuple | BadInput:
        try:
            return preparation.case(files[key].image, files[key].mask)
        except BadInput as error:
            return error

    keys = iter(sorted(files))
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        while chunk := list(islice(keys, 2 * NUM_THREADS)):
            yield from zip(chunk, pool.map(decode, chunk), strict=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
