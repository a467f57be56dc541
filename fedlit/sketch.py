"""The objects of a config that cost nothing to make: sites without pictures, a network without weights, no device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fedlit import hardware, misfits
from fedlit.algorithms import Algorithm, Sampling
from fedlit.assembly import first_server, make_clients
from fedlit.client import Client
from fedlit.config import build
from fedlit.data.outline import Outline
from fedlit.data.pictures import Pictures
from fedlit.data.site import Site
from fedlit.display import open_display
from fedlit.errors import BadInput
from fedlit.first_network import bind_network
from fedlit.footprint import Numerics, Unknown, blank
from fedlit.machine import resolve
from fedlit.messages import Server
from fedlit.rehearsal import Understudy
from fedlit.resident import Resident
from fedlit.site_roles import load_sites, participating
from fedlit.transforms import Channel

Found = TypeVar("Found")


UNSET = ("data.root", "network.checkpoint", "network.trained", "start.teacher.checkpoint")
"""Keys that a sketch does without."""


@dataclass(frozen=True)
class Sketch:
    """What a config names, without content.

    Args:
        accelerator: `cpu`, `cuda` or `mps`.
        outlines: of the sites; where they are unknown, one client stands for any.
        resident: of the network, its entries on the meta device.
        first: the server before the first round.
    """

    config: DictConfig
    accelerator: str
    source: Any
    outlines: Sequence[Outline] | Unknown
    algorithm: Algorithm
    clients: Mapping[str, Client]
    resident: Resident | Unknown
    first: Server | Unknown

    @property
    def numerics(self) -> Numerics:
        return numerics(self.config, self.accelerator)

    @property
    def channel(self) -> Channel:
        return misfits.open_channel(self.config)

    @property
    def sampling(self) -> Sampling:
        return misfits.sampling(self.config)


@dataclass(frozen=True)
class StandIn:
    """A source whose sites have as many pictures as those of `source`, but of one pixel: nothing is decoded."""

    source: Any
    outlines: Sequence[Outline]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def load(self, **_: Any) -> list[Site]:
        """The sites in order of their names."""
        return [
            Site(
                each.name,
                each.role,
                train=self._pictures(each.train, each.patients),
                val=self._pictures(each.val),
                test=self._pictures(each.test),
                seed_name=each.name,
            )
            for each in self.outlines
        ]

    def _pictures(self, count: int, patients: int | None = None) -> Pictures:
        table = np.zeros((len(self.source.classes), 1), bool)
        images = np.zeros((count, 1, 1, self.source.channels), np.uint8)
        groups = [f"{number % patients:06d}" for number in range(count)] if patients else None
        return Pictures.from_arrays(images, images[..., 0], table, groups=groups)


def sketch(config: DictConfig) -> Sketch:
    """The sketch of a checked config, of which UNSET may be unset.

    Raises:
        BadInput: the sites, or all that does not fit together, as in a run.
    """
    config = without_files(resolve(config))
    accelerator = hardware.resolve_accelerator(config.accelerator)
    source, outlines = open_source(config)
    anyone = [Outline("any", "member", config.batch_size, 0, 0)] * config.min_available_clients
    stand_in = StandIn(source, anyone if isinstance(outlines, Unknown) else outlines)
    sites = load_sites(config, stand_in, open_display("", 0, is_shown=False))
    algorithm: Algorithm = build(config.algorithm)
    participants = participating(config, algorithm, sites.values())
    found = [*misfits.of_members(config, algorithm, None if isinstance(outlines, Unknown) else participants)]
    sizes = [misfits.training_size(source)]
    found += misfits.of_pictures(algorithm, sizes)

    def empty_network() -> nn.Module:
        try:
            network = blank(bind_network(config, source), numerics(config, accelerator))
        except ValueError as error:
            if not str(config.network["_target_"]).startswith("fedlit."):
                raise  # those of others may mean that they miss data
            raise BadInput(f"network: {error}") from error
        return network.to(memory_format=torch.channels_last) if config.channels_last else network

    network = known(f"{target(config.network)} cannot be built without data", empty_network)
    if isinstance(network, Unknown):
        misfits.refuse(found)
        clients = make_clients(config, participants, nn.Module(), (), Understudy)
        return Sketch(config, accelerator, source, outlines, algorithm, clients, network, network)
    resident = Resident(network)
    found += misfits.of_network(config, algorithm, resident)
    misfits.refuse([*found, *misfits.of_pictures(network, sizes)])
    keep_local = misfits.kept_entries(config, algorithm, resident)
    clients = make_clients(config, participants, network, keep_local, Understudy)
    first = first_server(resident, keep_local)
    return Sketch(config, accelerator, source, outlines, algorithm, clients, resident, first)


def without_files(config: DictConfig) -> DictConfig:
    """The config with a network that reads no files: weights have no content here."""
    config = config.copy()
    for name in ("checkpoint", "trained"):
        if name in config.network.keys():  # noqa: SIM118 (`in` is false for one that is unset)
            config.network[name] = None
    return config


def open_source(config: DictConfig) -> tuple[Any, Sequence[Outline] | Unknown]:
    """The source and the outlines of its sites."""
    if OmegaConf.is_missing(config.data, "root"):
        data = config.data.copy()
        data.root = "."
        return build(data), Unknown("data.root is not set")
    source = build(config.data)
    if not hasattr(source, "outline"):
        return source, Unknown(f"{target(config.data)} does not tell its sites without loading them")
    return source, source.outline(unseen_sites=config.unseen_sites, server_site=config.server_site)


def numerics(config: DictConfig, accelerator: str) -> Numerics:
    return Numerics(config.precision, "cuda" if accelerator == "cuda" else "cpu")


def known(otherwise: str, find: Callable[[], Found]) -> Found | Unknown:
    """What `find` returns; where it fails, that it is unknown, for the reason `otherwise`."""
    try:
        return find()
    except BadInput:
        raise
    except Exception as error:  # components of others raise anything where they miss data
        lines = str(error).strip().splitlines() or [""]
        return Unknown(f"{otherwise}: {type(error).__name__}: {lines[0]}")


def target(node: DictConfig) -> str:
    """The name of a node's component."""
    return str(node["_target_"]).rpartition(".")[2]
