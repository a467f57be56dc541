"""Finished runs written by hand: what a table or a comparison is made of, without any training."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fedlit.files import write_json
from fedlit.patients import HEADER
from fedlit.record import CaseRow, MetricRow, Record
from fedlit.summary import site_metrics

CONFIG: dict[str, Any] = {
    "name": "x",
    "seed": 0,
    "data": {"root": "d"},
    "algorithm": {"_target_": "fedlit.algorithms.FedAvg"},
    "prediction": {},
    "unseen_sites": [],
    "num_rounds": 3,
    "run_dir": "r",
    "loggers": {"csv": {"key": "${oc.env:NOT_SET_ANYWHERE}"}},
}

Scores = Mapping[str, Sequence[float | None]]
"""site -> a value for each of its cases."""


def finished_run(
    path: Path,
    scores: Scores | Mapping[tuple[str, str], Sequence[float | None]],
    *,
    metric: str = "dice",
    model: str = "global",
    kept: int = 2,
    summary: Mapping[str, Any] | None = None,
    patients: int | None = 1,
    **config: Any,
) -> Path:
    """A run whose cases scored so at the kept round with its model; a key (site, model) names another one.

    Every other row is there to mislead.

    Args:
        patients: every so many cases of a site are of one; None notes none, as earlier versions did.
    """
    path.mkdir(parents=True)
    written = OmegaConf.merge(CONFIG, config)
    OmegaConf.save(written, path / "config.yaml")
    by_model = {key if isinstance(key, tuple) else (key, model): values for key, values in scores.items()}
    roles = {site: "unseen" if site in written.unseen_sites else "member" for site, _ in by_model}
    cases = [
        CaseRow(number, site, f"case {place}", name, "test", "disc", metric, value if number == kept else 0.111)
        for number in (kept, kept + 1)
        for (site, name), values in by_model.items()
        for place, value in enumerate(values)
    ]
    curve = [
        MetricRow(number, site, role, model, "val", "dice", 0.1 * number, 3)
        for number in (1, 2, 3)
        for site, role in roles.items()
    ]
    Record(path).add([*site_metrics(cases, roles), *curve], cases)
    costs = {"seconds_per_round": 1200.0, "bytes_up": 2_000_000, "bytes_down": 3_000_000, "peak_bytes": 4_000_000_000}
    found = {"kept_round": kept, "model": model, "num_rounds": 3, "start": None, **costs, **(summary or {})}
    write_json(path / "summary.json", found)
    write_json(path / "provenance.json", {"manifest": "aaaa"})
    if patients is not None:
        names = {(row.site, row.case): int(row.case.split()[1]) // patients for row in cases}
        with open(path / "patients.csv", "w", newline="") as file:
            csv.writer(file).writerows([HEADER, *((*key, f"p{number}") for key, number in names.items())])
    (path / "report.html").touch()
    return path
