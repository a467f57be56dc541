"""The sites of a config, and which of them train."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fedlit.aggregation import ROOT
from fedlit.algorithms import Algorithm
from fedlit.config import build
from fedlit.data.site import Site
from fedlit.data.source import Manifest
from fedlit.display import Display
from fedlit.errors import BadInput
from fedlit.first_network import check_activation

TAKEN = frozenset({ROOT, "global"})
"""Names that no site may have: of the client that is the server's own site, and of the global model in mixtures."""


def load_sites(config: DictConfig, source: Any, display: Display) -> dict[str, Site]:
    """The sites by name, in order of their names."""
    check_activation(config, source)
    loaded = source.load(unseen_sites=config.unseen_sites, server_site=config.server_site)
    loaded += further_sites(config, source, {site.name for site in loaded})
    if taken := sorted(TAKEN & {site.name for site in loaded}):
        raise BadInput(f"a site is called {taken[0]}, a name that fedlit needs itself; rename it in its manifest")
    for text in (text for site in loaded for text in site.remarks):
        display.warn(text)
    members = [site for site in loaded if site.role == "member"]
    if len(members) < config.min_available_clients:
        names = ", ".join(site.name for site in members)
        raise BadInput(
            f"min_available_clients={config.min_available_clients}, but only {len(members)} sites train: {names}"
        )
    for site in members:
        if len(site.train) < config.batch_size:
            display.say(
                f"{site.name} has {len(site.train)} training pictures, fewer than batch_size={config.batch_size}: "
                f"its batches hold {len(site.train)}"
            )
    return {site.name: site for site in loaded}


def further_sites(config: DictConfig, first_source: Any, taken: Collection[str]) -> list[Site]:
    """The sites of `unseen_roots`, which the training never knew, read as those of the data are; all are unseen.

    Raises:
        BadInput: a site has the name of another, a folder is given twice, one cannot be read, or a picture is in two.
    """
    first, further, sources = dict.fromkeys(taken, "have the data"), [], [first_source]
    if config.unseen_roots and "root" not in config.data:
        raise BadInput(
            f"unseen_roots={list(config.unseen_roots)} needs data that have a root, data=manifest; "
            f"{config.data._target_} has none"
        )
    folders = [Path(root).expanduser().resolve() for root in config.unseen_roots]
    for place, (root, folder) in enumerate(zip(config.unseen_roots, folders, strict=True)):
        source: Manifest = build({**config.data, "root": root})
        if not folder.is_dir():
            raise BadInput(f"unseen_roots: {root} is no folder; give one that holds {source.file}")
        if folder in folders[:place]:
            raise BadInput(f"unseen_roots: {root} is given twice; leave one out")
        found = source.load_unseen()
        if twice := sorted(site.name for site in found if site.name in first):
            raise BadInput(
                f"unseen_roots: {root} has a site {twice[0]}, and so {first[twice[0]]}; rename it in its manifest"
            )
        first |= {site.name: f"has {root}" for site in found}
        further += found
        sources.append(source)
    if further and not first_source.allow_duplicates:
        refuse_copies(sources)
    return further


def refuse_copies(sources: Sequence[Manifest]) -> None:
    """Raises BadInput where a picture is in two of them: what was trained on would count as unseen."""
    known: dict[str, str] = {}
    for source in sources:
        here = source.contents()
        if copies := sorted(known.keys() & here.keys(), key=lambda digest: here[digest]):
            raise BadInput(
                f"unseen_roots: {len(copies)} pictures are there twice, such as {here[copies[0]]}, which is "
                f"{known[copies[0]]}; leave them out, or set data.allow_duplicates=true"
            )
        known |= here


def participating(config: DictConfig, algorithm: Algorithm, sites: Iterable[Site]) -> list[Site]:
    """The sites that train, each as one client; the server's own where the rule of aggregation asks for it.

    Raises:
        BadInput: something is to be kept by members, and the algorithm has none.
    """
    sites = list(sites)
    members = [site for site in sites if site.role == "member"]
    participants = algorithm.participants(members)
    names = {site.name for site in members}
    if (config.keep_local or config.buffers == "local") and any(site.name not in names for site in participants):
        raise BadInput(
            f"keep_local and buffers=local: {type(algorithm).__name__} has no member that could keep anything"
        )
    if algorithm.aggregate.needs_root:
        participants += [replace(site, name=ROOT, role="member") for site in sites if site.role == "server"]
    return participants
