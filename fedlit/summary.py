"""From rows to the numbers people quote: means over cases, their intervals, the worst site first."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedlit.record import CaseRow, MetricRow
from fedlit.seeding import address


def case_means(cases: Iterable[CaseRow]) -> dict[tuple[int, str, str, str, str], dict[str, float | None]]:
    """(round, site, model, split, metric) -> {case: mean over its classes}; None where every class is excluded."""
    classes: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in cases:
        values = classes[row.round, row.site, row.model, row.split, row.metric][row.case]
        if row.value is not None and not math.isnan(row.value):
            values.append(row.value)
    return {
        key: {case: _mean(values) if values else None for case, values in group.items()}
        for key, group in classes.items()
    }


def site_metrics(cases: Iterable[CaseRow], roles: Mapping[str, str]) -> list[MetricRow]:
    """One row per site and metric: the mean over cases of the mean over classes, excluded ones left out.

    `roles`: site -> role. A site without any counted case has the value NaN (an empty cell) and num_cases 0.
    """
    rows = []
    for (round, site, model, split, metric), means in case_means(cases).items():
        counted = [value for value in means.values() if value is not None]
        value = _mean(counted) if counted else math.nan
        rows.append(MetricRow(round, site, roles[site], model, split, metric, value, len(counted)))
    return rows


def summarise(
    cases: Iterable[CaseRow],
    metrics: Iterable[MetricRow],
    *,
    round: int,
    model: str,
    elsewhere: str | None = None,
    split: str = "test",
    patients: Mapping[tuple[str, str], str] | None = None,
) -> dict[str, Any]:
    """The numbers of one round and model, the worst site first; Dice in 0..1, distances in the unit their metric names.

    Sites that never trained have no personal model: where `model` has no row for one of them, that of the model
    `elsewhere` stands.

    Returns worst_site, worst_dice, gap (best - worst), mean_dice, std_dice (population, over sites), all over the
    member sites (over what there is where there are none); unseen_worst_site, unseen_worst_dice, unseen_mean_dice where
    sites are unseen; round, model, split, model_elsewhere where it was needed; and sites, the worst first:
    {name: {role, metric: {mean, std (sample, over cases), ci_low, ci_high, num_cases, num_patients, num_excluded}}}.
    The interval is a 95 % percentile bootstrap over patients with all their cases, None for one patient; num_excluded
    counts values, so up to one per class of a case.

    Args:
        patients: whose the cases (site, case) are; one that is not there is of a patient of its own.
    """
    of_round = [row for row in metrics if (row.round, row.split) == (round, split)]
    shown = {row.site: elsewhere for row in of_round if row.model == elsewhere and row.role != "member"}
    shown |= {row.site: model for row in of_round if row.model == model}
    roles = {row.site: row.role for row in of_round if shown.get(row.site) == row.model}
    here = [row for row in cases if (row.round, row.split) == (round, split) and shown.get(row.site) == row.model]
    excluded = Counter((row.site, row.metric) for row in here if row.value is None or math.isnan(row.value))
    sites: dict[str, dict] = {site: {"role": role} for site, role in roles.items()}
    for (_, site, _, _, metric), means in case_means(here).items():
        counted = {case: value for case, value in sorted(means.items()) if value is not None}  # in whatever row order
        owners = [(patients or {}).get((site, case), ("", case)) for case in counted]
        spread = _spread([*counted.values()], owners, seed=address("bootstrap", site, metric))
        sites[site][metric] = {**spread, "num_excluded": excluded[site, metric]}
    dice = {site: scores["dice"]["mean"] for site, scores in sites.items() if "dice" in scores}
    dice = {site: mean for site, mean in dice.items() if mean is not None}
    order = sorted(sites, key=lambda site: (site not in dice, dice.get(site, 0.0), site))
    ranked = [site for site in order if site in dice]
    main = [site for site in ranked if roles[site] == "member"] or ranked
    summary: dict[str, Any] = {"round": round, "model": model, "split": split}
    if elsewhere in shown.values() and elsewhere != model:
        summary["model_elsewhere"] = elsewhere
    if main:
        values = [dice[site] for site in main]
        summary |= {
            "worst_site": main[0],
            "worst_dice": values[0],
            "gap": values[-1] - values[0],
            "mean_dice": _mean(values),
            "std_dice": float(np.std(values)),
        }
    else:
        summary |= dict.fromkeys(("worst_site", "worst_dice", "gap", "mean_dice", "std_dice"))
    if unseen := [site for site in ranked if roles[site] == "unseen"]:
        summary |= {
            "unseen_worst_site": unseen[0],
            "unseen_worst_dice": dice[unseen[0]],
            "unseen_mean_dice": _mean([dice[site] for site in unseen]),
        }
    return summary | {"sites": {site: sites[site] for site in order}}


def _spread(values: Sequence[float], owners: Sequence[Hashable], *, seed: int) -> dict[str, float | int | None]:
    num_patients = len(set(owners))
    low, high = bootstrap_interval(values, owners, seed=seed) if num_patients > 1 else (None, None)
    return {
        "mean": _mean(values) if values else None,
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "ci_low": low,
        "ci_high": high,
        "num_cases": len(values),
        "num_patients": num_patients,
    }


def bootstrap_interval(
    values: Sequence[float], owners: Sequence[Hashable] | None = None, *, seed: int, num_resamples: int = 2000
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean. Efron, Annals of Statistics 1979.

    Args:
        owners: of each value; those of one owner are drawn together (Field and Welsh, JRSS B 2007). None: every value
            is drawn by itself.
    """
    if min(values) == max(values):
        mean = _mean(values)
        return mean, mean
    owners = range(len(values)) if owners is None else owners
    places = {owner: place for place, owner in enumerate(dict.fromkeys(owners))}
    of_owner = np.array([places[owner] for owner in owners])
    sums = np.bincount(of_owner, weights=np.asarray(values, dtype=np.float64))
    counts = np.bincount(of_owner)
    generator, means = np.random.default_rng(seed), []
    block = max(1, 1_000_000 // len(sums))  # at most 8 MB of indices at once
    for start in range(0, num_resamples, block):
        picks = generator.integers(len(sums), size=(min(block, num_resamples - start), len(sums)))
        means.append(sums[picks].sum(axis=1) / counts[picks].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)  # the same in whatever order the cases come
