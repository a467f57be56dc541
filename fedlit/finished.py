"""A finished run's model, without the data it was trained on: for prediction and export."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fedlit.algorithms import Algorithm
from fedlit.assembly import predictors
from fedlit.checkpoint import kept_name, read_state
from fedlit.config import build, differences, shipped
from fedlit.data.given import as_pictures, common_size, prepared_images, shape_of
from fedlit.data.pictures import in_batches
from fedlit.data.reading import Picture, read_image
from fedlit.data.source import Manifest
from fedlit.errors import BadInput
from fedlit.first_network import bind_network, first_network
from fedlit.hardware import MIXED, TRUE, differentiable
from fedlit.judging import candidates_of
from fedlit.messages import Expert
from fedlit.misfits import kept_entries
from fedlit.prediction import Learnt, Model, Predictor
from fedlit.prediction.told import judgements, trials
from fedlit.provenance import check_origin
from fedlit.record import Record
from fedlit.resident import Resident
from fedlit.rundir import RunDirectory
from fedlit.sharing import load_experts
from fedlit.weights import sha256


@dataclass(frozen=True)
class Finished:
    """A network with the weights of one model at one site, in evaluation mode; and how pictures are made ready."""

    network: nn.Module
    model: Model  # what the predictor made of the network
    is_network: bool  # nothing but the network with these weights
    source: Manifest
    description: Mapping[str, Any]
    batch_size: int = 8
    memory_format: torch.memory_format = torch.contiguous_format

    @torch.inference_mode()
    def predict(self, files: Sequence[Path]) -> Iterator[tuple[Path, Picture, Tensor]]:
        """Each file, decoded, and its logits [D, C, H, W] of the network's size; in batches as a run scores them."""
        decoded = ((path, read_image(path)) for path in files)
        has_one_size = self.source.preparation().size is not None or common_size(map(shape_of, files)) is not None
        for group in in_batches(decoded, has_one_size, self.batch_size, lambda each: len(each[1].array)):
            images = torch.cat([prepared_images(self.source, picture) for _, picture in group])
            parts = images.contiguous(memory_format=self.memory_format).split(self.batch_size)
            logits = torch.cat([self.model(part) for part in parts]).split([len(each.array) for _, each in group])
            yield from ((path, picture, found) for (path, picture), found in zip(group, logits, strict=True))


def open_model(
    run_dir: Path, *, site: str | None = None, model: str | None = None, files: Sequence[Path] = ()
) -> Finished:
    """The model of a run's kept round.

    Args:
        site: whose kept entries or personal model; needed where the run has such.
        model: `global`, `personal`, or a predictor that the run's config names; by default the one it was judged by.
        files: the pictures of one hospital that it will predict, for a model that adapts to them.

    Raises:
        BadInput: no finished run, no such site or model, or a model that needs pictures or what members have not
            shared.
    """
    directory = RunDirectory(run_dir)
    config = directory.read_config()
    source: Manifest = build(config.data)
    algorithm: Algorithm = build(config.algorithm)
    name = model or algorithm.models[0]
    predictor = named_predictor(directory, name)
    checkpoints = directory / "checkpoint"
    state = read_state(checkpoints, kept_name(checkpoints), lambda client: client == site)
    if site is not None:
        check_site(directory, site)
    network = first_network(config, source)
    check_origin(directory.path, {"network": sha256(network.state_dict())})
    # first: the resident is to hold the buffers, and in another dtype these are others
    network.eval().to(TRUE.get(config.precision, torch.float32))
    lend = partial(in_precision, precision=config.precision)
    resident, memory = Resident(network), {} if site is None else state.memories.get(site, {})
    kept = kept_entries(config, algorithm, resident)
    learnt = Learnt(
        state.server,
        lend(network),
        resident,
        memory,
        kept,
        shared_experts(
            directory,
            predictor,
            name,
            round=state.server.round,
            has_personal="personal" in algorithm.models or bool(kept),
        ),
        site=site or "",
        num_classes=len(source.classes),
        seed=config.seed,
        batch_size=config.batch_size,
        channels=source.channels,
        lend=lend,
    )
    is_asked = files and predictor.is_final  # the others look at no picture: theirs are decoded once, to be predicted
    prepared = predictor.prepare(learnt, as_pictures(source, files) if is_asked else None)
    if prepared is None:
        whose = f"for {site}" if site else "that fits every site"
        raise BadInput(f"{run_dir} has no {name} model {whose}; name a member with --site")
    description = describe(config, source, name, site, state.server.round)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    is_network = prepared is learnt.network
    return Finished(network.eval(), prepared, is_network, source, description, config.batch_size, memory_format)


def in_precision(network: nn.Module, *, precision: str) -> Model:
    """A network that is held in a run's dtype, or was made of one that is, computing as that run did."""
    computes_in = MIXED.get(precision)

    def model(images: Tensor) -> Tensor:
        weight = next(network.parameters())
        with (
            torch.autocast(weight.device.type, computes_in, enabled=computes_in is not None),
            differentiable(weight.device),
        ):
            return network(images.to(weight)).float()

    return model


def shared_experts(
    directory: RunDirectory, predictor: Predictor, name: str, *, round: int, has_personal: bool
) -> dict[str, Expert]:
    """What members have shared with the run, of its kept round.

    Raises:
        BadInput: it is less than the predictor needs.
    """
    if predictor.needs and not has_personal:
        raise BadInput(
            f"{name} needs the members' personal models, and this run's algorithm makes none; train with one that "
            "does, such as algorithm=iopfl"
        )
    experts = load_experts(directory / "experts", round)
    has = {"weights": bool(experts)}
    has |= {"features": any(expert.slots for expert in experts.values())}
    has |= {"scores": any(judgements(expert) for expert in experts.values())}
    has |= {"trials": len(experts) == 1 or any(trials(expert) for expert in experts.values())}
    if missing := [need for need in predictor.needs if not has[need]]:
        raise BadInput(
            f"{name} needs the members' {' and '.join(missing)}, which they have not shared with {directory.path}; "
            f"let them: fedlit evaluate {directory.path} prediction={name} share_personal=true"
        )
    return experts


def scored_with(directory: RunDirectory) -> DictConfig:
    """By name, the settings of the predictors that a run was scored with, when it was made or since."""
    summary = directory / "summary.json"
    since = json.loads(summary.read_text()).get("evaluated", {}) if summary.exists() else {}
    own: Any = OmegaConf.to_container(directory.read_config().prediction)
    return OmegaConf.create({**own, **since})


def check_names(directory: RunDirectory, asked: DictConfig) -> None:
    """Raises BadInput where a predictor, or a candidate of one, is another than the run was scored with by its name."""
    known = scored_with(directory)
    for name, node in ((str(name), node) for name, node in asked.items()):
        if name in known and build(node) != build(known[name]):
            changed = "\n  ".join(differences(known[name], node))
            raise BadInput(
                f"prediction.{name} is not what {directory.path} was scored with under this name:\n  {changed}\n"
                f"give it a name of its own, prediction={{my_{name}: {{_target_: {node['_target_']}, ...}}}}"
            )
    if any(build(node).candidates for node in asked.values()):  # a trial has one result in a run
        candidates_of({str(name): build(node) for name, node in {**known, **asked}.items()})


def named_predictor(directory: RunDirectory, name: str) -> Predictor:
    """The run's own of this name, else the shipped one.

    Raises:
        BadInput: there is neither.
    """
    makers = predictors(scored_with(directory))
    if name in makers:
        return makers[name]()
    files = {path.stem: path for path in shipped("prediction/global").parent.glob("*.yaml")}
    if name not in files:
        raise BadInput(f"--model={name}: allowed are {', '.join([*makers, *sorted(files.keys() - makers.keys())])}")
    node: Any = OmegaConf.load(files[name])
    return build(node)


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
