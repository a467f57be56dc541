"""The page of an inspection: one file without scripts that loads nothing, with or without pictures."""

from __future__ import annotations

from pathlib import Path

from fedlit.files import write_atomically
from fedlit.inspection.inspecting import Inspection
from fedlit.inspection.measuring import FEATURES
from fedlit.inspection.plots import draw_foreground, draw_histograms, draw_map
from fedlit.inspection.samples import take_samples
from fedlit.provenance import anonymous
from fedlit.report.svg import drawings
from fedlit.report.templates import template


def write_page(
    inspection: Inspection, path: str | Path, *, with_pictures: bool = True, num_workers: int | None = None
) -> None:
    """Write the page; the same data give the same page. Without pictures it still names cases.

    Args:
        num_workers: processes that decode the pictures shown; None chooses.

    Raises:
        BadInput: a picture can no longer be read.
    """
    sites = inspection.sites
    page = template(Path(__file__).with_name("inspection.html.jinja")).render(
        inspection=inspection,
        name=inspection.root.resolve().name,
        folder=anonymous(str(inspection.root)),
        sites=sites,
        features=len(FEATURES),
        has_volumes=any(site.num_volumes for site in sites),
        has_splits=all(site.splits for site in sites),
        histograms=drawings("histograms", lambda width: draw_histograms(sites, width)),
        map=drawings("map", lambda width: draw_map(inspection, width)),
        foreground=drawings("foreground", lambda width: draw_foreground(sites, width)),
        samples=take_samples(inspection, num_workers=num_workers) if with_pictures else None,
    )
    write_atomically(path, page.encode("utf-8", errors="replace"))
