"""What a finished run scored on the test cases of its kept round, case by case, and what it cost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fedlit.collect import unfinished
from fedlit.errors import BadInput
from fedlit.metrics import DISTANCES
from fedlit.patients import Patients, read_patients
from fedlit.record import Record
from fedlit.rundir import RunDirectory
from fedlit.summary import case_means

UNITS = ("", "_mm", "_px")
"""What may follow the name of a metric in the tables of a run."""

Cases = Mapping[str, float | None]
"""case -> mean over its classes; None where all are excluded."""


@dataclass(frozen=True)
class Result:
    """A finished run.

    Args:
        model: the one it was judged by; `elsewhere` is that of sites that never trained, where they have another.
        roles: by site.
        cases: (site, model, metric with its unit) -> the test cases of the kept round.
        data: the hash of manifest and files; None where it was not noted.
        patients: of the test cases; None where the run noted none.
    """

    path: Path
    config: DictConfig
    model: str
    elsewhere: str | None
    roles: Mapping[str, str]
    cases: Mapping[tuple[str, str, str], Cases]
    summary: Mapping[str, Any]
    data: str | None
    patients: Patients | None = None

    @property
    def seed(self) -> int:
        return int(self.config.seed)

    def scores(self, site: str, metric: str, model: str | None) -> Cases:
        """The cases of a site by a metric without its unit; none where there is no such model for the site.

        Args:
            model: None is the one that the run was judged by.
        """
        if model is None:
            model = self.model if self.roles.get(site) == "member" else self.elsewhere or self.model
        return next((self.cases[key] for unit in UNITS if (key := (site, model, metric + unit)) in self.cases), {})

    def lacks(self, site: str, model: str | None) -> bool:
        """The run was to make this model, and of what it had none could be made for the site; others are scored there.

        Such as AdaBN of a network without BatchNorm.
        """
        scored = {name for found, name, _ in self.cases if found == site}
        return model in self.config.prediction and bool(scored) and model not in scored

    def unit(self, metric: str) -> str:
        """The metric as this run's tables name it."""
        there = {name for _, _, name in self.cases}
        return next((metric + unit for unit in UNITS if metric + unit in there), metric)

    def units(self, metric: str, site: str) -> list[str]:
        """The metric as this run's tables name it at a site; several where some of its cases have no spacing."""
        there = {name for found, _, name in self.cases if found == site}
        return [metric + unit for unit in UNITS if metric + unit in there]

    def case_names(self, site: str) -> set[str]:
        """The test cases of a site, scored by whatever metric and model."""
        return {case for (name, _, _), cases in self.cases.items() if name == site for case in cases}

    def num_bytes(self, model: str | None) -> int:
        """Sent up and down, with what members shared for this model."""
        shared = self.summary.get("shared") or {}
        wanted = shared if (model or self.model) in shared.get("for", ()) else {}
        parts = [found.get(key) or 0 for found in (self.summary, wanted) for key in ("bytes_up", "bytes_down")]
        return sum(parts)

    @property
    def bytes_up(self) -> float:
        """What a member sends in a round, on average."""
        num_members = sum(role == "member" for role in self.roles.values())
        return (self.summary.get("bytes_up") or 0) / self.summary["num_rounds"] / max(1, num_members)

    @property
    def hours(self) -> float:
        """Of the rounds, and of the start at the server."""
        return hours_of(self.summary)

    @property
    def gigabytes(self) -> float | None:
        """The most memory that one process held at once; None where it was not noted."""
        found = self.summary.get("peak_bytes")
        return None if found is None else found / 1e9


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a finished run."""
    return json.loads((path / "summary.json").read_text(encoding="utf-8"))


def hours_of(summary: Mapping[str, Any]) -> float:
    """Of the rounds, and of the start at the server."""
    start = (summary.get("start") or {}).get("seconds") or 0.0
    return (start + summary["seconds_per_round"] * summary["num_rounds"]) / 3600


def is_lower_better(metric: str) -> bool:
    return metric.startswith(DISTANCES)


def read_result(path: Path) -> Result:
    """Read a finished run.

    Raises:
        BadInput: it is none.
    """
    if why := unfinished(path):
        hint = "" if why.startswith("no run") else "; the command that began it goes on with it"
        raise BadInput(f"{path}: {why}{hint}")
    summary = read_summary(path)
    record, kept = Record(path), summary["kept_round"]
    tested = (row for row in record.cases() if (row.round, row.split) == (kept, "test"))
    return Result(
        path,
        RunDirectory(path).read_config(),
        summary["model"],
        summary.get("model_elsewhere"),
        {row.site: row.role for row in record.metrics() if (row.round, row.split) == (kept, "test")},
        {(site, model, metric): cases for (_, site, model, _, metric), cases in case_means(tested).items()},
        summary,
        data_hash(path),
        read_patients(path),
    )


def data_hash(path: Path) -> str | None:
    """The hash of the manifest and the files that a run was begun with; None where it was not noted."""
    origin = path / "provenance.json"
    return json.loads(origin.read_text(encoding="utf-8")).get("manifest") if origin.exists() else None


def patients_of(results: Iterable[Result]) -> Patients | None:
    """The patients of the test cases of runs on the same data; None where some run has cases that none of them tells.

    So a run of an earlier version, which noted none, stands beside later ones that did.
    """
    found, cases = dict[tuple[str, str], str](), set[tuple[str, str]]()
    for result in results:
        found |= result.patients or {}
        cases |= {(site, case) for (site, _, _), scores in result.cases.items() for case in scores}
    return found if cases <= found.keys() else None


def read_results(paths: Iterable[Path]) -> list[Result]:
    """Read finished runs.

    Raises:
        BadInput: naming all that are none.
    """
    found, problems = [], []
    for path in paths:
        try:
            found.append(read_result(path))
        except BadInput as error:
            problems.append(str(error))
    if problems:
        raise BadInput("\n  ".join(problems))
    return found


def refuse_other_data(results: Sequence[Result]) -> None:
    """Raises BadInput where two runs were made from data that are not the same."""
    first = next((result for result in results if result.data), None)
    for result in results:
        if first is not None and result.data and result.data != first.data:
            raise BadInput(
                f"{result.path} was made from other data than {first.path}: pictures, masks, splits or patients of the "
                "manifest differ; make both from the same, or remove that folder"
            )


def mean(values: Iterable[float | None]) -> float | None:
    """Of what is there; None of nothing. The same in whatever order they come."""
    counted = [value for value in values if value is not None]
    return math.fsum(counted) / len(counted) if counted else None
