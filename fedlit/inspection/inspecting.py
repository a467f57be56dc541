"""The check of a manifest's data: read, look at every case, find what is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fedlit.data.cache import file_hashes
from fedlit.data.checks import duplicates, listed_twice, patients_in_two_splits
from fedlit.data.manifest import Row, read_manifest
from fedlit.data.preparing import INTENSITIES
from fedlit.data.slices import slice_problems
from fedlit.errors import BadInput
from fedlit.inspection.cases import cases_of, place, shares
from fedlit.inspection.findings import Finding, warnings
from fedlit.inspection.gathering import each
from fedlit.inspection.measuring import NUM_BINS, Look, look
from fedlit.inspection.summarising import Map, SiteSummary, feature_map, summaries
from fedlit.storage import cache_folder


@dataclass(frozen=True)
class Inspection:
    """What was found in a manifest.

    Args:
        looks: at the files of the manifest that can be read, in its order.
        cases: the same, slices of a volume being one.
        sites: those of these cases, the farthest from the others first.
        map: of these cases, in their order.
        findings: errors first.
    """

    root: Path
    file: str
    background: int
    intensity: str
    num_rows: int
    looks: tuple[Look, ...]
    cases: tuple[Look, ...]
    sites: tuple[SiteSummary, ...]
    map: Map | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.is_error)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if not finding.is_error)


def inspect(
    root: str | Path,
    *,
    file: str = "sites.csv",
    rows: Sequence[Row] | None = None,
    background: int = 0,
    intensity: str = "auto",
    num_workers: int | None = None,
    cache: Path | None = None,
    advance: Callable[[int, int], object] = lambda done, of: None,
) -> Inspection:
    """Look at every case of `root/file` once.

    Args:
        rows: of the file, with other splits than it names; None: as they are there.
        background: the mask value that is no class.
        intensity: what becomes 0 and 1 before intensities are compared, see `preparing.Preparation`.
        num_workers: processes; None lets the amount of data decide.
        cache: where hashes of files are kept; None: see `storage.cache_folder`.
        advance: told the number of files looked at, and of all.

    Raises:
        BadInput: the manifest cannot be read; what is wrong with the files behind it is a finding instead.
    """
    if intensity not in INTENSITIES:
        raise BadInput(f"intensity={intensity!r}; allowed are {', '.join(INTENSITIES)}")
    root = Path(root).expanduser()
    rows = read_manifest(root, file) if rows is None else [*rows]
    paths = [path for row in rows for path in (row.image, row.mask)]
    digests = file_hashes(paths, root=root.resolve(), cache=cache or cache_folder())
    problems = listed_twice(rows, file=file) + patients_in_two_splits(rows, file=file)
    problems += duplicates(rows, digests, file=file) + slice_problems(rows, file=file)
    looks, histograms, unreadable = _look_at(
        rows, partial(look, background=background, intensity=intensity), file, num_workers, advance
    )
    cases = cases_of(looks)
    findings = [*unreadable, *(Finding("error", text) for text in problems)]
    return Inspection(
        root,
        file,
        background,
        intensity,
        num_rows=len(rows),
        looks=tuple(looks),
        cases=tuple(cases),
        sites=tuple(summaries(cases, histograms)),
        map=feature_map(cases),
        findings=(*findings, *warnings(looks, cases, digests, background=background)),
    )


def _look_at(
    rows: list[Row],
    work: partial[tuple[Look, np.ndarray]],
    file: str,
    num_workers: int | None,
    advance: Callable[[int, int], object],
) -> tuple[list[Look], dict[str, np.ndarray], list[Finding]]:
    """The looks, the sums over cases of histograms by site, and the files that cannot be read."""
    looks, problems = [], []
    share = shares(rows)
    histograms: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(NUM_BINS))
    for number, (row, outcome) in enumerate(zip(rows, each(work, rows, num_workers=num_workers), strict=True), 1):
        advance(number, len(rows))
        if isinstance(outcome, BadInput):
            problems.append(Finding("error", f"{file} line {row.line}: {outcome}"))
            continue
        found, histogram = outcome
        looks.append(found)
        histograms[row.site] += share[place(row)] * histogram
    return looks, histograms, problems
