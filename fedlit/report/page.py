"""The page: all that was read and drawn, put into the template."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fedlit.files import write_atomically
from fedlit.report.mixtures import draw_mixture, mixture_models, starts_at_global
from fedlit.report.pictures import read_pictures
from fedlit.report.plots import draw_boxes, draw_curves
from fedlit.report.reading import notices, read_run
from fedlit.report.svg import drawings
from fedlit.report.tables import predictor_table, site_table
from fedlit.report.templates import template


def write_report(run_dir: str | Path) -> Path:
    """Draw report.html from the files of a run directory; any of them may be missing. Returns its path.

    Raises:
        BadInput: a file is there and cannot be read.
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir)
    pictures, unreadable = read_pictures(run_dir / "pictures", run)
    page = template(Path(__file__).with_name("report.html.jinja")).render(
        run=run,
        summary=run.summary,
        notices=[*notices(run.summary), *unreadable],
        table=site_table(run),
        predictors=predictor_table(run),
        curves=drawings("curves", lambda width: draw_curves(run, width)),
        boxes=drawings("boxes", lambda width: draw_boxes(run, width)),
        pictures=pictures,
        mixtures=[
            (model, drawings(f"mixture-{place}", partial(draw_mixture, gates)), starts_at_global(gates))
            for place, (model, gates) in enumerate(mixture_models(run).items())
        ],
    )
    path = run_dir / "report.html"
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return path
