"""The table of a study: rows methods, columns sites, mean and spread over seeds, paired tests against one row."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedlit.grouping import Spread
from fedlit.patients import Patients
from fedlit.significance import FEWEST, by_patient, holm, paired_p, signed_ranks
from fedlit.studies.numbers import GAP, MEAN, OF_SITES, Column, Design, Numbers, Row, paired
from fedlit.studies.results import is_lower_better, mean, patients_of


@dataclass(frozen=True)
class Value:
    """A cell.

    Args:
        num_seeds: that the spread is over.
        is_whole: these are all that were asked for.
        is_level: it is the best of its column, or within the deviation of that over seeds, and not behind it with every
            seed.
        p: of the paired test against the reference, corrected by Holm for the rows of the column.
        untested: why there is no p; empty where there is one.
        is_beyond: it is apart from the reference with every seed, see `_are_apart`.
        absent: why there is no number, where that is known.
    """

    spread: Spread
    num_seeds: int
    is_whole: bool
    is_best: bool = False
    is_level: bool = False
    p: float | None = None
    untested: str = ""
    is_beyond: bool = False
    absent: str = ""

    @property
    def differs(self) -> bool:
        """From the reference, at the level of 5 %, and more than seeds alone make."""
        return self.p is not None and self.p < 0.05 and self.is_beyond


@dataclass(frozen=True)
class Line:
    """The cells of a row."""

    row: Row
    values: Mapping[Column, Value]


@dataclass(frozen=True)
class Scored:
    """A table by one metric.

    Args:
        metric: as the runs name it, with its unit where all sites have the same.
        num_cases: of the reference that count, by site and over all; None where it has none.
        num_patients: that these cases are of; None where the runs do not say.
        remarks: what must be known of cells that are empty or untested.
        of_sites: `mean` or `worst`, where every column is over all sites.
        costs: the columns that say what runs cost.
    """

    metric: str
    design: Design
    lines: tuple[Line, ...]
    num_cases: Mapping[Column, int | None]
    num_patients: Mapping[Column, int | None] | None = None
    remarks: tuple[str, ...] = ()
    has_one_unit: bool = True
    of_sites: str = ""
    costs: tuple[str, ...] = ("MB", "hours", "peak GB")

    @property
    def reference(self) -> Line:
        return next(line for line in self.lines if line.row.name == self.design.reference)


def scored(rows: Sequence[Row], design: Design, metric: str) -> Scored:
    """The table of these rows by a metric (without its unit)."""
    units = units_of(rows, design, metric)
    has_one_unit = len(units) < 2
    numbers = [Numbers(row, design, metric, has_one_unit) for row in rows]
    reference = next(each for each in numbers if each.row.name == design.reference)
    patients = patients_of(result for row in rows for result in row.results.values())
    columns = {column: _column(numbers, reference, column, patients) for column in design.columns}
    remarks = list(dict.fromkeys(gap for each in numbers for gap in each.gaps))
    if not has_one_unit:
        there = " and ".join(f"{name} at {', '.join(sites)}" for name, sites in units.items())
        remarks.append(f"the runs give {there}: these are no numbers to be averaged or compared over sites")
    lines = [Line(row, {column: columns[column][place] for column in design.columns}) for place, row in enumerate(rows)]
    if patients is None and any(row.results for row in rows):
        remarks.append(UNKNOWN_PATIENTS)
    counted = {column: _counted(reference, column) for column in design.columns}
    return Scored(
        metric=next(iter(units), metric) if has_one_unit else metric,
        design=design,
        lines=tuple(lines),
        num_cases={column: len(cases) or None for column, cases in counted.items()},
        num_patients=None
        if patients is None
        else {column: len(by_patient(cases, patients)) or None for column, cases in counted.items()},
        remarks=tuple(remarks),
        has_one_unit=has_one_unit,
    )


UNKNOWN_PATIENTS = (
    "the runs do not say which pictures are of one patient, as fedlit had them not noted yet: every picture is tested "
    "as a patient of its own, so p is too small where a patient has several"
)


def _counted(reference: Numbers, column: Column) -> dict[tuple[str, str], float]:
    """The cases of a column that count; none of those columns that are made of sites."""
    if column[0] in OF_SITES:
        return {}
    cases = reference.by_case(column, reference.seeds(column))
    return {case: value for case, value in cases.items() if value is not None}


def units_of(rows: Sequence[Row], design: Design, metric: str) -> dict[str, list[str]]:
    """The metric as the runs name it, with its unit -> the sites that are scored so."""
    found: dict[str, list[str]] = {}
    for site in design.sites:
        for name in dict.fromkeys(
            name for row in rows for each in row.results.values() for name in each.units(metric, site)
        ):
            found.setdefault(name, []).append(site)
    return found


def _column(numbers: Sequence[Numbers], reference: Numbers, column: Column, patients: Patients | None) -> list[Value]:
    by_seed = [each.by_seed(column) for each in numbers]
    values = [
        Value(Spread.of([*found.values()]), len(found), len(found) == len(each.seeds_asked), absent=each.absent(column))
        for each, found in zip(numbers, by_seed, strict=True)
    ]
    is_lowest_best = column[0] == GAP or is_lower_better(reference.metric)
    are_rivals = [each.row.name not in each.design.bounds for each in numbers]
    values = _marked(values, by_seed, numbers.index(reference), are_rivals, is_lowest_best=is_lowest_best)
    tests = {each.row.name: _test(each, reference, column, patients) for each in numbers if each is not reference}
    corrected = holm({name: found for name, found in tests.items() if isinstance(found, float)})
    done = []
    for each, value in zip(numbers, values, strict=True):
        found = "reference" if each is reference else tests[each.row.name]
        why = value.absent or (found if isinstance(found, str) else "")
        done.append(replace(value, p=None if why else corrected[each.row.name], untested=why))
    return done


def _marked(
    values: Sequence[Value],
    by_seed: Sequence[Mapping[int, float]],
    reference: int,
    are_rivals: Sequence[bool],
    *,
    is_lowest_best: bool,
) -> list[Value]:
    """The cells of a column: which is the best, which are level with it, and which beyond the reference.

    The deviation is the best one's: by its own, a row that failed with one seed would be level.
    """
    rivals = {
        place: value.spread.mean
        for place, value in enumerate(values)
        if value.is_whole and are_rivals[place] and value.spread.mean is not None
    }
    best = (min if is_lowest_best else max)(rivals, key=lambda place: rivals[place], default=-1)
    return [
        replace(
            value,
            is_best=place in rivals and rivals[place] == rivals[best],
            is_level=place in rivals
            and abs(rivals[place] - rivals[best]) <= (values[best].spread.std or 0.0)
            and not _are_apart(by_seed[place], by_seed[best]),
            is_beyond=_are_apart(by_seed[place], by_seed[reference]),
        )
        for place, value in enumerate(values)
    ]


def _are_apart(one: Mapping[int, float], other: Mapping[int, float]) -> bool:
    """One is above the other with every seed, or below it: with a seed both begin alike, and see the same pictures.

    Of rows with other seeds: their means are further apart than the larger of their deviations.
    """
    if not one or not other:
        return False
    if one.keys() == other.keys():
        signs = {(one[seed] > other[seed]) - (one[seed] < other[seed]) for seed in one}
        return signs in ({1}, {-1})
    spreads = [Spread.of([*each.values()]) for each in (one, other)]
    first, second = (spread.mean or 0.0 for spread in spreads)
    return abs(first - second) > max(spread.std or 0.0 for spread in spreads)


def _test(one: Numbers, reference: Numbers, column: Column, patients: Patients | None) -> float | str:
    """The p of paired patients, not corrected, or why there is none.

    A case's value is its mean over common seeds; of a row that has seeds of its own, over all of these. A patient's is
    the mean over its cases.
    """
    if column[0] in OF_SITES:
        return "no test"
    if column[0] == MEAN and not one.has_one_unit:
        return "no common unit"
    own, others = one.seeds(column), reference.seeds(column)
    if one.row.seeds is None:
        own = others = own & others
    if not own or not others:
        return "no common seed"
    pairs = paired(one.by_case(column, sorted(own)), reference.by_case(column, sorted(others)))
    if pairs is None:
        return "other cases"
    units = by_patient(pairs, patients)
    if len(units) < FEWEST:
        return "too few"
    differences = [*units.values()]
    if column[0] == MEAN:  # where most patients are of one site, the test is of that alone
        of_sites = statistics.fmean(one.by_seed(column).values()) - statistics.fmean(reference.by_seed(column).values())
        if of_sites * signed_ranks(differences) < 0:
            return "patients and sites disagree"
    p = paired_p(differences)
    assert p is not None
    return p


@dataclass(frozen=True)
class Cost:
    """Of one run: megabytes up and down and hours of training, means over the runs of a row; the most GB of memory.

    Args:
        megabytes_up: what a member sends in a round.
    """

    num_runs: int
    megabytes: float | None
    hours: float | None
    gigabytes: float | None
    megabytes_up: float | None = None

    @staticmethod
    def of(row: Row) -> Cost:
        results = list(row.results.values())
        megabytes = mean(result.num_bytes(row.model) / 1e6 for result in results)
        peaks = [result.gigabytes for result in results if result.gigabytes is not None]
        hours, up = mean(result.hours for result in results), mean(result.bytes_up / 1e6 for result in results)
        return Cost(len(results), megabytes, hours, max(peaks, default=None), up)
