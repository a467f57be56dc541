"""Runs in groups that differ only in their seed, with mean and spread of what each group scored."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlit.collect import SCORES, Scored


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; None where there are too few values."""

    mean: float | None
    std: float | None

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(
            statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None
        )


@dataclass(frozen=True)
class Group:
    """A line of the table: what the keys of the table are here, the number of seeds, and the scores over them."""

    labels: tuple[str, ...]
    num_seeds: int
    scores: Mapping[str, Spread]


@dataclass(frozen=True)
class Table:
    """`keys` are what differs between groups."""

    keys: tuple[str, ...]
    groups: tuple[Group, ...]


def tabulate(runs: Sequence[Scored]) -> Table:
    """Group runs by what differs between them beside the seed; where single sites were left out, add their mean.

    That mean is taken over the left-out sites for each seed that has all of them, and its spread over these seeds.
    """
    keys = differing([run.keys for run in runs])
    groups: dict[tuple[str, ...], list[Scored]] = defaultdict(list)
    values = [[run.keys.get(key, "") for run in runs] for key in keys]
    columns = [told_apart([*map(shown, each)], [*map(written, each)]) for each in values]
    for place, run in enumerate(runs):
        groups[tuple(column[place] for column in columns)].append(run)
    lines = [_group(labels, [run.scores for run in members]) for labels, members in sorted(groups.items())]
    if "unseen_sites" in keys and all(len(run.unseen) == 1 for run in runs):
        place = keys.index("unseen_sites")
        for labels in dict.fromkeys(line.labels[:place] + line.labels[place + 1 :] for line in lines):
            folds = [runs for own, runs in groups.items() if own[:place] + own[place + 1 :] == labels]
            means = _means_of_folds(folds)
            if len(folds) > 1:
                lines.append(_group((*labels[:place], f"mean of {len(folds)}", *labels[place:]), means))
    return Table(tuple(keys), tuple(lines))


def _means_of_folds(folds: Sequence[Sequence[Scored]]) -> list[dict[str, float]]:
    """For every seed that all folds have: each score's mean over the folds."""
    by_seed = [{run.seed: run.scores for run in runs} for runs in folds]
    seeds = sorted(set.intersection(*map(set, by_seed)))
    return [
        {
            name: statistics.fmean(fold[seed][name] for fold in by_seed)
            for name in SCORES
            if all(name in fold[seed] for fold in by_seed)
        }
        for seed in seeds
    ]


def _group(labels: tuple[str, ...], scores: Sequence[Mapping[str, float]]) -> Group:
    spreads = {name: Spread.of([each[name] for each in scores if name in each]) for name in SCORES}
    return Group(labels, len(scores), spreads)


def differing(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values differ, in the order of the config; `optimizer.lr` not where it only repeats `lr`."""
    everything = dict.fromkeys(key for keys in runs for key in keys)
    columns = {key: [written(keys.get(key, "")) for keys in runs] for key in everything}
    found = [key for key in everything if len(set(columns[key])) > 1]
    return [key for key in found if "." not in key or columns[key] != columns.get(key.rpartition(".")[2])]


def told_apart(short: Sequence[str], whole: Sequence[str]) -> list[str]:
    """The short texts, and the whole ones where two of these that differ would look alike."""
    meant: dict[str, set[str]] = defaultdict(set)
    for one, other in zip(short, whole, strict=True):
        meant[one].add(other)
    return [one if len(meant[one]) == 1 else other for one, other in zip(short, whole, strict=True)]


def written(value: Any) -> str:
    """A value whole: a text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def shown(value: Any) -> str:
    """A value as it is written in a table; of a component's import path the last name."""
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, str):
        return value.rpartition(".")[2] if re.fullmatch(r"[a-z_]\w*(\.\w+)*\.[A-Z]\w*", value) else value
    return json.dumps(value, default=str)
