"""What must hold between the rows of a manifest: roles, patients and pictures that stay apart."""

from __future__ import annotations

import difflib
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedlit.data.manifest import Row, refuse

if TYPE_CHECKING:
    from fedlit.data.cache import PackedCase

MOST_FOREGROUND = 0.6
"""Of a site's usual picture, in [0, 1]: more looks as if the background were the foreground."""


def roles_of(
    sites: Collection[str], *, unseen_sites: Collection[str], server_site: str | None, seed_names: Mapping[str, str]
) -> dict[str, str]:
    """The role of every site. Raises one `BadInput` on names that no site has, and when no member is left."""
    named = [("unseen_sites", name) for name in unseen_sites]
    named += [("server_site", server_site)] if server_site is not None else []
    named += [("data.seed_names", name) for name in seed_names]
    problems = [f"{key}: {name!r} is no site{_suggestion(name, sites)}" for key, name in named if name not in sites]
    if server_site in unseen_sites:
        problems.append(f"server_site={server_site!r} is also in unseen_sites; a site has one role")
    roles = dict.fromkeys(sorted(sites), "member") | dict.fromkeys(unseen_sites, "unseen")
    if server_site is not None:
        roles[server_site] = "server"
    if not problems and "member" not in roles.values():
        problems.append(f"no site is left to train; the sites are {', '.join(sorted(sites))}")
    if problems:
        refuse(problems, "The sites' roles do not fit the manifest")
    return roles


def no_training(rows: Iterable[Row], roles: Mapping[str, str], *, file: str) -> list[str]:
    trained = {row.site for row in rows if row.split == "train"}
    return [
        f"{file}: site {site!r} has no training case; add one, or put it into unseen_sites"
        for site, role in roles.items()
        if role == "member" and site not in trained
    ]


def patients_in_two_splits(rows: Iterable[Row], *, file: str) -> list[str]:
    found: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found[row.site, row.group].setdefault(str(row.split), row)
    return [
        f"{file}: patient {group!r} of site {site!r} is in "
        + " and ".join(f"{split} (line {row.line})" for split, row in splits.items())
        + "; give all pictures of a patient one split"
        for (site, group), splits in found.items()
        if len(splits) > 1
    ]


def listed_twice(rows: Iterable[Row], *, file: str) -> list[str]:
    """Files that would count twice within a split; the same file elsewhere is `duplicates`' concern."""
    first: dict[tuple[Path, str, str | None], Row] = {}
    problems = []
    for row in rows:
        earlier = first.setdefault((row.image, row.site, row.split), row)
        if earlier is not row:
            problems.append(f"{file} line {row.line}: {row.name} stands already in line {earlier.line}; leave one out")
    return problems


def duplicates(rows: Iterable[Row], digests: Mapping[Path, str], *, file: str) -> list[str]:
    """Pictures, by content, that are at two sites or in two splits."""
    found: dict[str, dict[tuple[str, str], Row]] = defaultdict(dict)
    for row in rows:
        found[digests[row.image]].setdefault((row.site, str(row.split)), row)
    return [
        f"{file}: the same picture is "
        + " and ".join(f"{row.name} ({site}, {split}, line {row.line})" for (site, split), row in places.items())
        + "; leave one out, or set data.allow_duplicates=true"
        for places in found.values()
        if len(places) > 1
    ]


def remarks_on(site: str, cases: Sequence[PackedCase]) -> tuple[str, ...]:
    """What a person should know of a site's decoded cases before training."""
    labels = suspicious_labels(site, [case.foreground for case in cases])
    return labels + lost_colour(site, [case.turned_grey for case in cases])


def suspicious_labels(site: str, foreground: Sequence[float]) -> tuple[str, ...]:
    """What the shares of foreground in a site's cases, in [0, 1], say against its masks or the label map."""
    if not foreground:
        return ()
    usual = statistics.median(foreground)
    if max(foreground) == 0:
        return (f"site {site}: no mask has any foreground; check data.labels, data.background and the masks",)
    if usual > MOST_FOREGROUND:
        return (
            f"site {site}: foreground fills {usual:.0%} of the usual picture and may be inverted; check data.labels and"
            " data.background (`fedlit inspect` shows the masks)",
        )
    return ()


def lost_colour(site: str, turned_grey: Sequence[bool]) -> tuple[str, ...]:
    """That so many of a site's cases were in colour and are not now."""
    count = sum(turned_grey)
    if not count:
        return ()
    return (
        f"site {site}: {count} of {len(turned_grey)} cases are in colour and become grey; data.channels=3 keeps it",
    )


def _suggestion(name: str, sites: Collection[str]) -> str:
    close = difflib.get_close_matches(str(name), list(sites), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; the sites are {', '.join(sorted(sites))}"
