"""The numbers of a table's row: by site, seed and case, of the runs that are finished."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fedlit.studies.results import Cases, Result, is_lower_better, mean

MEAN, WORST, GAP = "mean", "worst", "gap"
"""The columns beside the sites; that site names may not be taken for them, a column is a (kind, site) pair."""

AXIS = "column"
"""The kind of a column that the study names itself, in the place of sites."""

OF_SITES = (WORST, GAP)
"""Those that have no cases of their own, so nothing to test."""

Fold = str | None
Column = tuple[str, str]
"""("site", its name), ("mean", ""), ("worst", "") or ("gap", ""); or ("column", its name)."""


@dataclass(frozen=True)
class Row:
    """A method.

    Args:
        results: (fold, seed) -> its run, of those that are finished.
        model: the predictor whose scores these are; None is the one that each run was judged by.
        seeds: that were asked of it, where they are not those of the whole table.
    """

    name: str
    results: Mapping[tuple[Fold, int], Result]
    model: str | None = None
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Design:
    """Which runs a table is made of.

    Args:
        folds: sites that are left out in turn; (None,) where there is one fold.
        scores: `unseen` or `members`.
        sites: those with a column each, in order.
        reference: the row that the others are tested against.
        axis: the columns that the study names itself, each over all sites.
        bounds: rows that no federation can be, which are never the best.
    """

    folds: tuple[Fold, ...]
    seeds: tuple[int, ...]
    scores: str
    sites: tuple[str, ...]
    reference: str
    axis: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        if self.axis:
            return tuple((AXIS, name) for name in self.axis)
        summaries = (MEAN, WORST, GAP) if len(self.sites) > 1 else ()
        return (*(("site", site) for site in self.sites), *((kind, "") for kind in summaries))

    def folds_that_score(self, site: str) -> list[Fold]:
        """The folds whose runs score a site in the role that the table is about."""
        if self.folds == (None,):
            return [None]
        return [fold for fold in self.folds if (fold == site) == (self.scores == "unseen")]


@dataclass(frozen=True)
class Numbers:
    """A row by one metric.

    Args:
        has_one_unit: at all sites; without that nothing is averaged or compared over sites.
        gaps: scores that are missing, and where.
    """

    row: Row
    design: Design
    metric: str
    has_one_unit: bool = True
    gaps: list[str] = field(default_factory=list)

    @property
    def seeds_asked(self) -> tuple[int, ...]:
        return self.design.seeds if self.row.seeds is None else self.row.seeds

    @cached_property
    def inapplicable(self) -> set[str]:
        """The sites for which the row's model cannot be made."""
        results = [(fold, result) for (fold, _), result in self.row.results.items()]
        return {
            site
            for site in self.design.sites
            for fold, result in results
            if fold in self.design.folds_that_score(site) and result.lacks(site, self.row.model)
        }

    @cached_property
    def cases(self) -> dict[str, dict[int, dict[str, float | None]]]:
        """site -> seed -> case -> value, for the seeds that all folds have; of several folds the mean."""
        return {
            site: {seed: found for seed in self.seeds_asked if (found := self._cases(site, seed))}
            for site in self.design.sites
        }

    def _cases(self, site: str, seed: int) -> dict[str, float | None]:
        found: list[Cases] = []
        for fold in self.design.folds_that_score(site):
            result = self.row.results.get((fold, seed))
            if result is None:
                return {}
            if site in self.inapplicable:
                return {}
            scores = result.scores(site, self.metric, self.row.model)
            if all(value is None for value in scores.values()):
                model = self.row.model or result.model
                what = f"no {self.metric} of the {model} model at {site}"
                if scores:
                    what = f"every case at {site} is excluded"
                self.gaps.append(f"{self.row.name}: {what} in {result.path.name}")
                return {}
            found.append(scores)
        return {case: mean(scores.get(case) for scores in found) for case in dict.fromkeys(c for s in found for c in s)}

    def absent(self, column: Column) -> str:
        """`not applicable`, where there can be no number."""
        kind, site = column
        sites = {site} if kind == "site" else {*self.design.sites}
        return "not applicable" if sites & self.inapplicable else ""

    def by_seed(self, column: Column) -> dict[int, float]:
        """One number for each seed that is complete."""
        kind, site = column
        if kind == "site":
            found = {seed: mean(cases.values()) for seed, cases in self.cases[site].items()}
            return {seed: value for seed, value in found.items() if value is not None}
        whole = {}
        for seed in sorted(self.seeds(column)):
            values = [mean(self.cases[site][seed].values()) for site in self.design.sites]
            whole[seed] = [value for value in values if value is not None]
        if kind == MEAN:
            return {seed: statistics.fmean(values) for seed, values in whole.items()}
        if kind == GAP:
            return {seed: max(values) - min(values) for seed, values in whole.items()}
        worst = max if is_lower_better(self.metric) else min
        return {seed: worst(values) for seed, values in whole.items()}

    def by_case(self, column: Column, seeds: Iterable[int]) -> dict[tuple[str, str], float | None]:
        """(site, case) -> its mean over these seeds."""
        kind, site = column
        found = {}
        for name in self.design.sites if kind != "site" else (site,):
            of_seeds = [self.cases[name][seed] for seed in seeds if seed in self.cases[name]]
            for case in dict.fromkeys(case for cases in of_seeds for case in cases):
                found[name, case] = mean(cases.get(case) for cases in of_seeds)
        return found

    def seeds(self, column: Column) -> set[int]:
        """Those that are complete."""
        kind, site = column
        if kind != "site" and not self.has_one_unit:
            return set()
        sites = self.design.sites if kind != "site" else (site,)
        return set.intersection(*(set(self.cases[name]) for name in sites)) if sites else set()


def paired(
    one: Mapping[tuple[str, str], float | None], other: Mapping[tuple[str, str], float | None]
) -> dict[tuple[str, str], float] | None:
    """By (site, case), the differences where both have a value; None where their cases are not the same."""
    if one.keys() != other.keys():
        return None
    both = ((case, one[case], other[case]) for case in sorted(one))
    return {case: value - base for case, value, base in both if value is not None and base is not None}
