"""What is done to all data sets alike: decode side by side, write, go on where it was interrupted, report."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from fedlit.data.manifest import SITE_NAME
from fedlit.errors import BadInput
from fedlit.preparation.cases import Case, Found, Reader, Skipped
from fedlit.preparation.describing import summary, write_description, write_manifest
from fedlit.preparation.folder_out import Journal, check_places, earlier, key_of, remove_left_over
from fedlit.preparation.splits import Assigned, assigned
from fedlit.preparation.writing import Written, is_whole, stem, write_case
from fedlit.storage import only_written

ELSEWHERE = "give another OUT; the same command goes on where it stopped"
FEW = 8  # cases: starting processes takes longer


@dataclass(frozen=True)
class Result:
    """What a case became, or why it was left out."""

    key: str
    written: Written | None
    reason: str = ""


def prepare(name: str, reader: Reader, source: Path, out: Path, *, sites: Sequence[str] = (), seed: int = 0,
            workers: int | None = None, console: Console) -> int:  # fmt: skip
    """Bring the data set below `source` to the manifest layout in `out`; returns how much was left out.

    Args:
        name: of the data set, as `out` remembers it.
        sites: only these; all by default.
        seed: of the splits that are not published.
        workers: processes; by default one for each core.

    Raises:
        BadInput: source, options or `out` cannot be used, or no case can; `out` is full or read-only.
    """
    check_places(source, out)
    found = reader.find(source)
    chosen = _chosen(found.cases, sites)
    _check_names(chosen)
    split = assigned(chosen, seed=seed)
    cases = sorted(split.cases, key=lambda case: (case.site, case.name))
    keys = [key_of(case, source) for case in cases]
    with only_written(out, f"OUT={str(out)!r}", ELSEWHERE):
        before = earlier(out, name)
        results = _written(name, cases, keys, before, out, workers, console)
        skipped = _all_skipped(found, sites, cases, results, source)
        done = [(case, result.written) for case, result in zip(cases, results, strict=True) if result.written]
        if not done:
            raise BadInput("\n  ".join(["no case can be used:", *(f"{s.what}: {s.reason}" for s in skipped[:20])]))
        notes = _notes(found, split, {case.site for case, _ in done}, [] if sites else found.absent)
        skipped = sorted([*skipped, *_lost(found, done)], key=lambda each: (each.what, each.reason))
        write_manifest(out, done)
        write_description(out, name, reader, found, done, skipped, notes, seed=seed)
        kept = {result.key: result.written for result in results if result.written}
        remove_left_over(out, before.values(), kept.values())
        Journal(out, name).rewrite(kept)
    reused = sum(key in before and before[key] is written for key, written in kept.items())
    summary(console, out, found, done, skipped, notes, reused=reused)
    return len(skipped)


def _notes(found: Found, split: Assigned, written: Collection[str], absent: Sequence[str]) -> list[str]:
    """What was decided, of the sites that were written: one whose cases were all refused is not described."""
    return [*found.remarks(written), *found.notes, *split.notes(written), *absent]


def _chosen(cases: list[Case], sites: Sequence[str]) -> list[Case]:
    known = sorted({case.site for case in cases})
    if unknown := [site for site in sites if site not in known]:
        raise BadInput(f"--sites names {', '.join(map(repr, unknown))}; the sites found are {', '.join(known)}")
    return [case for case in cases if not sites or case.site in sites]


def _check_names(cases: Sequence[Case]) -> None:
    if strange := sorted({case.site for case in cases if not SITE_NAME.fullmatch(case.site)}):
        raise BadInput(f"site {strange[0]!r}: allowed are letters, digits, blank and _ . + - inside; rename the folder")
    places: dict[str, Case] = {}
    for case in cases:
        other = places.setdefault(stem(case).lower(), case)
        if other is not case:
            files = " and ".join(str(each.sources[0]) for each in (other, case))
            raise BadInput(f"two cases are called {case.site} {case.name}: {files}; leave one of them out of SOURCE")


def _written(name: str, cases: Sequence[Case], keys: Sequence[str], before: Mapping[str, Written], out: Path,
             workers: int | None, console: Console) -> list[Result]:  # fmt: skip
    """The results in the order of the cases; every finished case is in the journal at once."""
    out.mkdir(parents=True, exist_ok=True)
    out = out.resolve()
    results: dict[str, Result] = {}
    columns = ("preparing", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with Journal(out, name).open(is_new=not before) as journal, bar as progress:
        task = progress.add_task("", total=len(cases))
        try:
            for result in _results(list(zip(cases, keys, strict=True)), before, out, workers):
                results[result.key] = result
                if result.written and result.written is not before.get(result.key):
                    journal.add(result.key, result.written)
                progress.advance(task)
        except KeyboardInterrupt:
            told = (
                f"stopped by Ctrl-C; {len(results)} of {len(cases)} cases are prepared: run the same command to go on"
            )
            raise Interrupted(told) from None
    return [results[key] for key in keys]


class Interrupted(BaseException):
    """Ctrl-C, with what to do next. Exit 130."""


def _results(work: Sequence[tuple[Case, str]], before: Mapping[str, Written], out: Path,
             workers: int | None) -> Iterator[Result]:  # fmt: skip
    """One result for each case, in any order. At most four cases a process wait, so memory does not grow with them."""
    count = min(workers or len(os.sched_getaffinity(0)), len(work))
    if count <= 1 or len(work) < FEW:
        yield from (_one(case, key, before.get(key), out) for case, key in work)
        return
    queue = iter(work)
    waiting: set[Future[Result]] = set()
    context = get_context("forkserver")
    context.set_forkserver_preload(["fedlit.preparation.prepare", "cv2"])  # imported once and not by every process
    with ProcessPoolExecutor(count, context, _quiet) as pool:
        try:
            while True:
                while len(waiting) < 4 * count and (item := next(queue, None)):
                    case, key = item
                    waiting.add(pool.submit(_one, case, key, before.get(key), out))
                if not waiting:
                    return
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    result = future.result()
                    same = before.get(result.key)
                    yield Result(result.key, same) if same == result.written and same else result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _quiet() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to answer; cases under way are ended


def _one(case: Case, key: str, before: Written | None, out: Path) -> Result:
    if before is not None and is_whole(out, before):
        return Result(key, before)
    try:
        return Result(key, write_case(case, out))
    except BadInput as error:
        return Result(key, None, str(error))


def _all_skipped(found: Found, sites: Sequence[str], cases: Sequence[Case], results: Sequence[Result],
                 source: Path) -> list[Skipped]:  # fmt: skip
    skipped = [] if sites else list(found.skipped)
    for case, result in zip(cases, results, strict=True):
        if result.written is None:
            skipped.append(Skipped(f"{case.site} {case.name}", result.reason))
        else:
            skipped += result.written.skipped
    plain = (Skipped(each.what, each.reason.replace(f"{source}/", "")) for each in skipped)
    return sorted(plain, key=lambda each: (each.what, each.reason))


def _lost(found: Found, done: Sequence[tuple[Case, Written]]) -> list[Skipped]:
    """Classes without a single pixel in all that was written."""
    if found.lost is None:
        return []
    return found.lost({value for _, written in done for value in written.values}, [case for case, _ in done])
