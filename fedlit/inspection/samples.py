"""The few pictures that a page shows: samples of every site, suspicious pairs and outliers, with outlined masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from fedlit.data.manifest import Row
from fedlit.data.preparing import Preparation, read_case
from fedlit.errors import BadInput
from fedlit.inspection.findings import Finding
from fedlit.inspection.gathering import each
from fedlit.inspection.inspecting import Inspection
from fedlit.report.pictures import as_jpeg, outline
from fedlit.seeding import address

LONGEST = 224  # pixels a side
MOST_FINDINGS = 12  # of a kind that are shown


@dataclass(frozen=True)
class Sample:
    """A picture as the page wants it: a JPEG in base64 and the outline of its foreground as an SVG path."""

    row: Row
    width: int
    height: int
    jpeg: str
    outline: str


@dataclass(frozen=True)
class Samples:
    """By site; pairs that look alike and outliers with what was found."""

    sites: dict[str, list[Sample]]
    pairs: list[tuple[Finding, list[Sample]]]
    outliers: list[tuple[Finding, list[Sample]]]


def take_samples(inspection: Inspection, *, num_workers: int | None = None) -> Samples:
    """Four pictures of every site (two where there are many sites), by a hash of their names: chance, not choice.

    A volume shows the slice with most foreground.
    """
    number = 4 if len(inspection.sites) <= 16 else 2
    chosen = {
        site.name: sorted(
            (look.row for look in inspection.cases if look.row.site == site.name),
            key=lambda row: address("sample", row.name),
        )[:number]
        for site in inspection.sites
    }
    pairs = _shown(inspection.findings, "alike")
    outliers = _shown(inspection.findings, "outlier")
    wanted = [row for rows in chosen.values() for row in rows]
    wanted += [row for finding in (*pairs, *outliers) for row in finding.rows]
    wanted = list({row.line: row for row in wanted}.values())
    work = partial(sample, background=inspection.background, intensity=inspection.intensity)
    drawn: dict[int, Sample] = {}
    for row, outcome in zip(wanted, each(work, wanted, num_workers=num_workers), strict=True):
        if isinstance(outcome, BadInput):
            raise outcome  # it could be read a moment ago
        drawn[row.line] = outcome
    return Samples(
        {site: [drawn[row.line] for row in rows] for site, rows in chosen.items()},
        [(finding, [drawn[row.line] for row in finding.rows]) for finding in pairs],
        [(finding, [drawn[row.line] for row in finding.rows]) for finding in outliers],
    )


def _shown(findings: Sequence[Finding], kind: str) -> list[Finding]:
    """The first findings of a kind, the same cases once."""
    first: dict[tuple[Row, ...], Finding] = {}
    for finding in findings:
        if finding.kind == kind:
            first.setdefault(finding.rows, finding)
    return list(first.values())[:MOST_FINDINGS]


def sample(row: Row, *, background: int, intensity: str) -> Sample:
    """The picture of a case. Raises `BadInput` as `preparing.read_case` does."""
    picture, labels = read_case(row.image, row.mask)
    foreground = labels.array != background
    place = int(foreground.sum(axis=(1, 2)).argmax())
    preparation = Preparation((background,), channels=picture.array.shape[-1], intensity=intensity)
    image = preparation.image(picture)[place]
    if image.itemsize == 2:
        image = (image >> 8).astype("uint8")
    jpeg, size = as_jpeg(image[..., 0] if image.shape[-1] == 1 else image, LONGEST)
    return Sample(row, *size, jpeg=jpeg, outline=outline(foreground[place], size))
