"""A finished run's model, without the data it was trained on: for prediction and export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fedlit.algorithms import Algorithm
from fedlit.assembly import bind_network, first_network, kept_entries, predictors
from fedlit.checkpoint import kept_name, read_state
from fedlit.client import Resident
from fedlit.config import build
from fedlit.data.reading import Picture
from fedlit.data.request import channels_first
from fedlit.data.source import Manifest
from fedlit.errors import BadInput
from fedlit.experiment import check_origin
from fedlit.prediction import Learnt, Model, Predictor
from fedlit.record import Record
from fedlit.rundir import RunDirectory
from fedlit.weights import sha256


@dataclass(frozen=True)
class Finished:
    """A network with the weights of one model at one site, in evaluation mode; and how pictures are made ready."""

    network: nn.Module
    model: Model  # what the predictor made of the network; for many the network itself
    source: Manifest
    description: Mapping[str, Any]

    def images(self, picture: Picture) -> Tensor:
        """A decoded file as the network wants it: float32 [D, C, H, W] in [0, 1]."""
        array = self.source.preparation().image(picture)
        return channels_first((array / np.iinfo(array.dtype).max).astype(np.float32))


def open_model(run_dir: Path, *, site: str | None = None, model: str | None = None) -> Finished:
    """The model of a run's kept round.

    Args:
        site: whose kept entries or personal model; needed where the run has such.
        model: `global`, `personal`, or a predictor that the run's config names; by default the one it was judged by.

    Raises:
        BadInput: no finished run, no such site or model.
    """
    directory = RunDirectory(run_dir)
    config = directory.read_config()
    source: Manifest = build(config.data)
    algorithm: Algorithm = build(config.algorithm)
    name = model or algorithm.models[0]
    predictor = named_predictor(config, name)
    checkpoints = directory / "checkpoint"
    state = read_state(checkpoints, kept_name(checkpoints), lambda client: client == site)
    if site is not None:
        check_site(directory, site)
    network = first_network(config, source)
    check_origin(directory, {"network": sha256(network.state_dict())})
    resident, memory = Resident(network), {} if site is None else state.memories.get(site, {})
    learnt = Learnt(state.server, network, resident, memory, kept=kept_entries(config, resident))
    prepared = predictor.prepare(learnt, None)
    if prepared is None:
        whose = f"for {site}" if site else "that fits every site"
        raise BadInput(f"{run_dir} has no {name} model {whose}; name a member with --site")
    return Finished(network.eval(), prepared, source, describe(config, source, name, site, state.server.round))


def named_predictor(config: DictConfig, name: str) -> Predictor:
    """Raises BadInput where the run has none of this name."""
    makers = predictors(config)
    if name not in makers:
        raise BadInput(f"--model={name}: allowed are {', '.join(makers)}")
    return makers[name]()


def check_site(directory: RunDirectory, site: str) -> None:
    """Raises BadInput where no record of the run names the site."""
    sites = sorted({row.site for row in Record(directory.path).metrics()})
    if site not in sites:
        raise BadInput(f"--site={site}: this run has the sites {', '.join(sites)}")


def describe(config: DictConfig, source: Manifest, model: str, site: str | None, round: int) -> dict[str, Any]:
    """What is needed to build the network and to feed it, as JSON values."""
    preparation, arguments = source.preparation(), bind_network(config, source).keywords
    written: Any = OmegaConf.to_container(config.network, resolve=True)
    size = preparation.size and list(preparation.size)
    return {
        "network": {
            "target": config.network["_target_"],
            "arguments": {name: written.get(name, value) for name, value in arguments.items()},
        },
        "input": {
            "channels": source.channels,
            "image_size": size,
            "range": [0, 1],
            "intensity": preparation.intensity,
        },
        "output": {"activation": config.activation, "classes": list(source.classes)},
        "run": {"name": config.name, "round": round, "model": model, "site": site},
    }
