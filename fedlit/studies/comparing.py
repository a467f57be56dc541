"""Any finished runs as the rows of one table, named by what differs in their configs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlit.collect import compared, group_of
from fedlit.errors import BadInput
from fedlit.grouping import differing, shown, told_apart, written
from fedlit.studies.numbers import Design, Row
from fedlit.studies.results import Result, read_results, refuse_other_data
from fedlit.studies.table import Scored, scored

TARGET = "._target_"


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Args:
        name: what differs from the other groups.
    """

    name: str
    results: tuple[Result, ...]

    @property
    def algorithm(self) -> str:
        """The class of its algorithm, as `Local`."""
        return str(self.results[0].config.algorithm["_target_"]).rpartition(".")[2]

    @property
    def models(self) -> list[str]:
        """All that were scored, the one the runs were judged by first, the others as they are recorded."""
        there = dict.fromkeys([self.results[0].model])
        return list(there | dict.fromkeys(model for result in self.results for _, model, _ in result.cases))

    def row(self, model: str, name: str) -> Row:
        """A case is its mean over all of its runs; their seeds need not be those of other groups."""
        results: dict[tuple[str | None, int], Result] = {(None, each.seed): each for each in self.results}
        return Row(name, results, model, tuple(each.seed for each in self.results))


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Args:
        members, others: sites that members are in every run, and further ones that several runs scored.
        rows: one for every group and model, the members' reference first.
        tables: of the members, and of the others where there are some, see `reference_of`.
    """

    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    members: tuple[str, ...]
    others: tuple[str, ...]
    tables: tuple[Scored, ...]


def compare(paths: Sequence[Path], metric: str) -> Comparison:
    """Read runs and set them side by side; a model of the first one is the reference, see `reference_of`.

    Args:
        metric: without its unit.

    Raises:
        BadInput: something is no finished run, or runs were scored on other cases or by other metrics.
    """
    paths = list(dict.fromkeys(Path(path) for path in paths))
    results = read_results(paths)
    refuse_other_cases(results)
    for result in results:
        if result.unit(metric) not in {name for _, _, name in result.cases}:
            there = ", ".join(sorted({name for _, _, name in result.cases})) or "none"
            raise BadInput(f"--metric={metric}: {result.path} was not scored by it; it has {there}")
    groups = grouped(results)
    rows = [
        group.row(model, group.name if len(group.models) == 1 else f"{group.name}, {model}")
        for group in groups
        for model in group.models
    ]
    roles: dict[str, set[str]] = defaultdict(set)
    for result in results:
        for site, role in result.roles.items():
            roles[site].add(role)
    members = tuple(sorted(site for site, found in roles.items() if found == {"member"}))
    others = tuple(sorted(site for site, found in roles.items() if found != {"member"} and "server" not in found))
    tables = []
    for sites in (members, others):
        if sites and (with_scores := [row for row in rows if has_scores(row, sites, metric)]):
            seeds = max((row.seeds or () for row in with_scores), key=len)
            design = Design((None,), seeds, "members", sites, reference_of(with_scores, of_members=sites is members))
            tables.append(scored(with_scores, design, metric))
    return Comparison(tuple(groups), tuple(rows), members, others, tuple(tables))


def reference_of(rows: Sequence[Row], *, of_members: bool) -> str:
    """The first row, of the model that its runs were judged by; at other sites rather the same runs' global model."""
    first = rows[0]
    has_global = (row for row in rows if row.results == first.results and row.model == "global" and not of_members)
    return next(has_global, first).name


def has_scores(row: Row, sites: Sequence[str], metric: str) -> bool:
    return any(result.scores(site, metric, row.model) for result in row.results.values() for site in sites)


def refuse_other_cases(results: Sequence[Result]) -> None:
    """Raises BadInput where two runs were scored on test cases that are not the same, or share no site."""
    first = results[0]
    for result in results[1:]:
        common = sorted(first.roles.keys() & result.roles.keys())
        for site in common:
            one, other = first.case_names(site), result.case_names(site)
            if one != other:
                known = (compared(each.config) for each in (first, result))
                keys = [key for key in differing(list(known)) if key.startswith(("data.", "unseen_", "server_site"))]
                why = f" ({', '.join(keys)} differ)" if keys else ""
                raise BadInput(
                    f"{result.path} was scored on other test cases than {first.path}{why}: at {site} there are "
                    f"{len(other)} and {len(one)}, of which {len(one & other)} are in both; compare runs of one split"
                )
        if not common:
            raise BadInput(f"{result.path} and {first.path} have no site in common: there is nothing to compare")
    refuse_other_data(results)


def grouped(results: Sequence[Result]) -> list[Group]:
    """Runs that differ in their seed alone together, in the order in which they were given.

    Where two runs have the same config and seed, each run stands alone under its folder's name.
    """
    keys = [compared(result.config) for result in results]
    texts = [group_of(key) for key in keys]
    if len({(text, result.seed) for text, result in zip(texts, results, strict=True)}) < len(results):
        return [Group(result.path.as_posix(), (result,)) for result in results]
    of: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        of.setdefault(text, []).append(place)
    names = named([keys[places[0]] for places in of.values()])
    return [
        Group(name, tuple(sorted((results[place] for place in places), key=lambda result: result.seed)))
        for name, places in zip(names, of.values(), strict=True)
    ]


def named(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each config is called: `FedProx, mu 0.1`; `FedAvg, no start`. One group alone has its algorithm's name.

    Classes of one name are called by where they are from.

    Of components that are not the same their arguments are left out, but for those that tell two groups apart.
    """
    keys = differing(groups)
    others = {key.removesuffix(TARGET) for key in keys if key.endswith(TARGET)}
    outer = {name for name in others if not any(name.startswith(f"{other}.") for other in others)}
    inside = tuple(f"{name}." for name in outer)
    chosen = [key for key in keys if key.removesuffix(TARGET) in outer and key.endswith(TARGET)]
    chosen += [key for key in keys if key not in outer and not key.startswith(inside)]
    chosen = chosen or ["algorithm._target_"]
    for key in sorted({*keys} - {*chosen} - outer, key=lambda key: (key.count("."), key)):
        if len(_labels(groups, [*chosen, key])) > len(_labels(groups, chosen)):
            chosen.append(key)
    whole = [", ".join(written(group.get(key, "")) for key in chosen) for group in groups]
    return told_apart([_label(group, chosen) for group in groups], whole)


def _labels(groups: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> set[str]:
    return {_label(group, keys) for group in groups}


def _label(group: Mapping[str, Any], keys: Sequence[str]) -> str:
    missing = {key for key in keys if shown(group.get(key, "")) in ("", '""')}
    absent = tuple(key.removesuffix(TARGET) + "." for key in missing if key.endswith(TARGET))
    parts = []
    for key in keys:
        name, value = key.removesuffix(TARGET), shown(group.get(key, ""))
        if key not in missing:
            parts.append(value if key.endswith(TARGET) else f"{name.rpartition('.')[2]} {value}")
        elif not name.startswith(absent):  # what is inside of a component that is not there goes without saying
            short = name.rpartition(".")[2]
            parts.append(f"no {short}" if key.endswith(TARGET) else f"{short} not set")
    return ", ".join(parts)
