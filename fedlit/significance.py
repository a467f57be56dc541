"""Paired tests over patients: is one method better than another, and which of several differences count."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

FEWEST = 6
"""Pairs below which the signed-rank test cannot reach p < 0.05 (two-sided) whatever they say."""


def by_patient(
    differences: Mapping[tuple[str, str], float], patients: Mapping[tuple[str, str], str] | None
) -> dict[tuple[str, str], float]:
    """Differences of (site, case) as means over the cases of each (site, patient): pictures of one are not independent.

    Args:
        patients: by (site, case); None where that is not known, and then every case stands for itself.
    """
    if patients is None:
        return dict(differences)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (site, case), value in differences.items():
        found[site, patients[site, case]].append(value)
    return {patient: math.fsum(values) / len(values) for patient, values in found.items()}


def paired_p(differences: Sequence[float]) -> float | None:
    """The two-sided p of Wilcoxon's signed-rank test that paired differences lie around 0; None with too few pairs.

    Zero differences count as half positive, half negative (Pratt, JASA 1959). 1 where all are zero.
    """
    from scipy.stats import wilcoxon

    if len(differences) < FEWEST:
        return None
    if not any(differences):
        return 1.0
    return float(wilcoxon(differences, zero_method="pratt").pvalue)


def signed_ranks(differences: Sequence[float]) -> float:
    """The sum of the ranks of differences by size, each with the sign of its difference: which way the test leans."""
    from scipy.stats import rankdata

    ranks = rankdata([abs(value) for value in differences])
    return math.fsum(math.copysign(rank, value) for rank, value in zip(ranks, differences, strict=True) if value)


def holm(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """p values corrected for there being several of them; those that are None are not counted.

    The m sorted values are multiplied by m, m - 1, ..., 1, and never fall. Holm, Scandinavian J. of Statistics 1979.
    """
    tested = sorted((value, name) for name, value in values.items() if value is not None and not math.isnan(value))
    corrected: dict[str, float | None] = dict.fromkeys(values)
    highest = 0.0
    for place, (value, name) in enumerate(tested):
        highest = max(highest, min(1.0, value * (len(tested) - place)))
        corrected[name] = highest
    return corrected
