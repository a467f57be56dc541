"""Finished runs, and what each scored."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fedlit.config import flatten
from fedlit.errors import BadInput
from fedlit.metrics import DISTANCES
from fedlit.record import MetricRow, Record
from fedlit.rundir import MACHINE, RunDirectory
from fedlit.sweep import noted

OF_NO_GROUP = (*MACHINE, "seed", "run_dir", "name", "resume", "overwrite", "loggers", "report", "data.cache_dir")
"""Keys, with all below them, that two runs of one group may differ in."""

SCORES = ("worst site", "mean", "gap", "unseen")
"""Over member sites: the worst, the mean, the best minus the worst; then the mean over unseen sites."""


@dataclass(frozen=True)
class Scored:
    """A finished run: its directory, seed, keys that make its group (dotted), unseen sites, and score by name.

    `sites` are those that a score is over, by its name; `elsewhere` those with cases that are scored in another unit,
    by the metric's name there.
    """

    path: Path
    seed: int
    keys: Mapping[str, Any]
    unseen: tuple[str, ...]
    scores: Mapping[str, float]
    sites: Mapping[str, frozenset[str]]
    elsewhere: Mapping[str, tuple[str, ...]]

    @property
    def group(self) -> str:
        return group_of(self.keys)


@dataclass(frozen=True)
class Collection:
    """Runs that could be read, `DIR: reason` for each that could not, and a line for sites that do not count."""

    runs: tuple[Scored, ...]
    missing: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def require(self) -> tuple[Scored, ...]:
        """The runs.

        Raises:
            BadInput: there is none.
        """
        if not self.runs:
            raise BadInput("no finished run among these; `fedlit run` and `fedlit submit` make some")
        return self.runs


def collect(
    paths: Iterable[Path], *, metric: str = "dice", model: str | None = None, split: str = "test"
) -> Collection:
    """Read finished runs. A folder that is no run stands for the runs in it, a grid's also for those that never began.

    Args:
        metric: as metrics.csv names it, with its unit.
        model: the predictor; by default the one each run was judged by.
    """
    runs: dict[tuple[str, int], Scored] = {}
    missing = []
    for path in _run_dirs(paths):
        found = _read(path, metric, model, split)
        if isinstance(found, str):
            missing.append(f"{path}: {found}")
            continue
        same = runs.setdefault((found.group, found.seed), found)
        if same is not found:
            missing.append(f"{path}: left out, it has the config and the seed of {same.path}")
    found_runs = [*runs.values()]
    remarks = [*_in_other_units(found_runs, metric)]
    kept = tuple(_over_the_same_sites(found_runs, remarks.append))
    return Collection(kept, tuple(missing), tuple(remarks))


def _over_the_same_sites(runs: Sequence[Scored], say: Callable[[str], object]) -> Iterator[Scored]:
    """The runs without the scores that are over fewer sites than those of other seeds: a mean of both means nothing."""
    groups = [run.group for run in runs]
    of_all: dict[tuple[str, str], frozenset[str]] = defaultdict(frozenset)
    for group, run in zip(groups, runs, strict=True):
        for name, sites in run.sites.items():
            of_all[group, name] |= sites
    for group, run in zip(groups, runs, strict=True):
        lacking = {name: of_all[group, name] - sites for name, sites in run.sites.items()}
        if lost := [name for name, sites in lacking.items() if sites]:
            there = ", ".join(sorted(frozenset().union(*lacking.values())))
            say(f"{run.path} has no score at {there}, which other seeds have: its {', '.join(lost)} does not count")
        yield replace(run, scores={name: value for name, value in run.scores.items() if name not in lost})


def _in_other_units(runs: Sequence[Scored], metric: str) -> Iterator[str]:
    """What of the runs does not count because it has another unit."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, sites in run.elsewhere.items():
            found.setdefault(name, {}).update(dict.fromkeys(sites))
    for name, there in found.items():
        has = "has" if len(there) == 1 else "have"
        yield f"{', '.join(there)} {has} cases scored in {name}, which do not count here: --metric {name} shows them"


def _run_dirs(paths: Iterable[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in paths:
        parent = path if noted(path) else path.parent
        if (path / "config.yaml").exists() or not path.is_dir():
            found[path] = None
        else:
            inside = sorted(each.parent for each in path.glob("*/config.yaml"))
            found |= dict.fromkeys(inside or ([] if noted(path) else [path]))
        found |= {parent / name: None for name in noted(parent) if parent == path or not (parent / name).exists()}
    return list(found)


def unfinished(path: Path) -> str:
    """Why a folder is no finished run; empty where it is one."""
    if not path.is_dir():
        return "no run: there is no such directory" if not path.exists() else "no run: it is a file"
    if not (path / "config.yaml").is_file():
        return "no run: it has no config.yaml"
    if not (path / "summary.json").is_file():
        return f"not finished (round {_newest_round(path)} of {RunDirectory(path).read_config().num_rounds})"
    return ""


def _read(path: Path, metric: str, model: str | None, split: str) -> Scored | str:
    """A finished run, or why there is none."""
    if why := unfinished(path):
        return why
    config = RunDirectory(path).read_config()
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    rows = [row for row in Record(path).metrics() if (row.round, row.split) == (summary["kept_round"], split)]
    wanted = model or summary["model"]
    elsewhere = None if model else summary.get("model_elsewhere")
    shown = {row.site: elsewhere if row.role != "member" and elsewhere else wanted for row in rows}
    counted = [row for row in rows if (row.model, row.metric) == (shown[row.site], metric) and row.num_cases]
    if not counted:
        there = sorted({f"{row.model} {row.metric}" for row in rows})
        return f"has no {metric} of the model {wanted} on {split}; it has {', '.join(there) or 'nothing'}"
    left_out = tuple(config.unseen_sites or ())
    others = _in_another_unit([row for row in rows if row.model == shown[row.site]], metric)
    return Scored(path, config.seed, compared(config), left_out, *_scores(counted, metric), others)


def _in_another_unit(rows: Iterable[MetricRow], metric: str) -> dict[str, tuple[str, ...]]:
    """The metric's name with the unit that was not asked for -> the sites with cases that are scored in it."""
    stem = metric.removesuffix("_mm").removesuffix("_px")
    names = {f"{stem}_mm", f"{stem}_px"} - {metric}
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.metric in names and row.num_cases:
            found.setdefault(row.metric, []).append(row.site)
    return {name: tuple(sites) for name, sites in found.items()}


def group_of(keys: Mapping[str, Any]) -> str:
    """What the runs that differ in their seed alone have in common, by the keys that are `compared`."""
    return json.dumps(keys, sort_keys=True, default=str)


_NOT_COMPARED = tuple(f"{key}." for key in OF_NO_GROUP)


def compared(config: DictConfig) -> dict[str, Any]:
    """The dotted keys of a run, with their values, that make its group."""
    written = OmegaConf.masked_copy(config, [str(key) for key in config if key != "loggers"])  # they may need secrets
    keys = {key: value for key, value in flatten(written).items() if not f"{key}.".startswith(_NOT_COMPARED)}
    return {key: value for key, value in keys.items() if not (key.endswith(".seed") and value == config.seed)}


def _newest_round(path: Path) -> int:
    names = (re.fullmatch(r"round-(\d+)\.json", each.name) for each in (path / "checkpoint").glob("round-*.json"))
    return max((int(name[1]) for name in names if name), default=0)


def _scores(rows: Sequence[MetricRow], metric: str) -> tuple[dict[str, float], dict[str, frozenset[str]]]:
    """By name the scores of a run, and the sites that each is over."""
    members = [row for row in rows if row.role == "member"] or rows
    unseen = [row for row in rows if row.role == "unseen"]
    values = [row.value for row in members]
    low, high = min(values), max(values)
    scores = {
        "worst site": high if metric.startswith(DISTANCES) else low,
        "mean": statistics.fmean(values),
        "gap": high - low,
    }
    sites = dict.fromkeys(scores, frozenset(row.site for row in members))
    if unseen:
        scores["unseen"] = statistics.fmean(row.value for row in unseen)
        sites["unseen"] = frozenset(row.site for row in unseen)
    return scores, sites
