"""From a config to the objects of an experiment. The only file, beside the command line, that sees YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf

from fedlit import hardware
from fedlit.algorithms import Algorithm, Sampling
from fedlit.checkpoint import Checkpoints
from fedlit.client import Client, Resident, check_keep_local
from fedlit.config import bind, build
from fedlit.data.loading import Loader
from fedlit.data.site import Site
from fedlit.display import Display
from fedlit.errors import BadInput
from fedlit.experiment import Experiment
from fedlit.federation import Federation
from fedlit.fleet import Fleet, Workbench, open_fabric
from fedlit.messages import Server
from fedlit.prediction import Global, Personal
from fedlit.provenance import is_secret
from fedlit.rundir import RunDirectory
from fedlit.seeding import address
from fedlit.sources import flat
from fedlit.stopping import between_steps
from fedlit.training import LocalTraining
from fedlit.weights import select

PREDICTORS = {"global": Global, "personal": Personal}


def resolve(config: DictConfig) -> DictConfig:
    """The config with all decided that depends on the machine, by its device flags: precision and memory format.

    Flags of `fabric run` win. Loggers keep their interpolations: `${oc.env:...}` may hold a secret, and this is saved.

    Raises:
        BadInput: a logger is given a secret in clear, or the precision does not fit the device.
    """
    loggers = OmegaConf.to_container(config, resolve=False)["loggers"]
    for key, value in flat(loggers, "loggers"):
        if is_secret(key) and isinstance(value, str) and not value.startswith("${"):
            raise BadInput(f"{key} is written in clear and would be saved with the run; write {key}='${{oc.env:NAME}}'")
    config = OmegaConf.create({**OmegaConf.to_container(config, resolve=True), "loggers": loggers})
    accelerator = os.environ.get("LT_ACCELERATOR", config.accelerator).replace("gpu", "cuda")
    precision = os.environ.get("LT_PRECISION", config.precision)
    accelerator = hardware.resolve_accelerator(accelerator)
    config.precision = hardware.resolve_precision(hardware.PRECISIONS.get(precision, precision), accelerator)
    config.channels_last = hardware.resolve_channels_last(config.channels_last, config.precision)
    if config.precision == "16-mixed" and accelerator == "cpu":
        raise BadInput("precision=16-mixed needs a GPU; on the CPU use bf16-mixed or 32-true")
    return config


def start(config: DictConfig, loggers: Mapping[str, DictConfig]) -> Fabric:
    """The Fabric of a resolved config, its processes started."""
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses; read when CUDA starts
    torch.use_deterministic_algorithms(config.deterministic)
    return open_fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        precision=config.precision,
        loggers=[make_logger(name, node, RunDirectory(config.run_dir) / "logs") for name, node in loggers.items()],
    )


def make_logger(name: str, node: DictConfig, folder: Path) -> Any:
    """A logger; one that writes files does so in `folder/name`."""
    logger = bind(node, root_dir=str(folder), name=name)
    if "root_dir" not in logger.keywords and "name" not in node:
        logger.keywords.pop("name", None)
    return logger()


def assemble(config: DictConfig, fabric: Fabric, display: Display) -> Experiment:
    """The objects of a resolved config.

    Raises:
        BadInput: the data, the network or their combination is wrong.
    """
    source = build(config.data)
    sites = load_sites(config, source, display)
    members = [site for site in sites.values() if site.role == "member"]
    algorithm: Algorithm = build(config.algorithm)
    participants = algorithm.participants(members)
    if (config.keep_local or config.buffers == "local") and {site.name for site in participants} - sites.keys():
        raise BadInput(
            f"keep_local and buffers=local: {type(algorithm).__name__} has no member that could keep anything"
        )
    network, resident = set_up_network(config, fabric, source)
    keep_local = kept_entries(config, resident)
    check_keep_local(resident.entries, keep_local)
    fleet = Fleet(
        fabric,
        make_clients(config, participants, resident.network, keep_local),
        costs={
            site.name: len(site.train) + len(site.val) + len(site.test) for site in (*sites.values(), *participants)
        },
        workbench=Workbench(fabric, network, resident, Loader(num_workers=config.num_workers), between_steps),
        on_client_error=config.on_client_error,
        min_updates=config.min_available_clients,
        watch=display,
    )
    first = resident.read()
    run_dir = RunDirectory(config.run_dir)
    return Experiment(
        config,
        run_dir,
        source=source,
        algorithm=algorithm,
        predictors={name: PREDICTORS[name]() for name in algorithm.models}
        | {name: build(node) for name, node in config.prediction.items()},
        scoring=build(config.metrics),
        federation=Federation(
            sites,
            fleet,
            Sampling(config.clients_per_round, config.fraction_train, config.seed),
            keep_local,
            config.batch_size,
        ),
        checkpoints=Checkpoints(run_dir / "checkpoint", fleet),
        first=Server({name: first[name] for name in first.keys() - select(first, keep_local).keys()}),
        display=display,
    )


def load_sites(config: DictConfig, source: Any, display: Display) -> dict[str, Site]:
    """The sites by name, in order of their names."""
    check_activation(config, source)
    loaded = source.load(unseen_sites=tuple(config.unseen_sites), server_site=config.server_site, seed=config.seed)
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


def check_activation(config: DictConfig, source: Any) -> None:
    """Raises BadInput where the activation fits neither the classes nor the loss."""
    values = [value for of_class in source.values for value in of_class]
    if config.activation == "softmax" and len(set(values)) < len(values):
        raise BadInput(
            "activation=softmax: classes of data.labels share mask values, so they overlap; use activation=sigmoid"
        )
    try:
        logits = torch.zeros(1, num_outputs(config, source), 4, 4)
        build(config.loss)(logits, torch.zeros(1, len(source.classes), 4, 4))
    except ValueError as error:
        raise BadInput(f"activation={config.activation} does not fit loss: {error}") from None


def kept_entries(config: DictConfig, resident: Resident) -> tuple[str, ...]:
    """Patterns of the entries that stay at their site: those asked for, and the float buffers with `buffers: local`."""
    return (*config.keep_local, *(resident.buffers if config.buffers == "local" else ()))


def set_up_network(config: DictConfig, fabric: Fabric, source: Any) -> tuple[torch.nn.Module, Resident]:
    """The network of this process as Fabric wraps it, and the same as a place for weights.

    Its first state depends on the seed alone.
    """
    torch.manual_seed(address(config.seed, "network"))
    network = bind_network(config, source)()
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    wrapped = fabric.setup_module(network)
    resident = Resident(network)
    return wrapped, resident


def bind_network(config: DictConfig, source: Any) -> partial:
    """The network's class with its arguments."""
    return bind(config.network, in_channels=source.channels, out_channels=num_outputs(config, source))


def num_outputs(config: DictConfig, source: Any) -> int:
    """Channels of the logits: one a class, and one for the background with softmax."""
    return len(source.classes) + (config.activation == "softmax")


def make_clients(
    config: DictConfig, sites: Sequence[Site], network: torch.nn.Module, keep_local: Sequence[str]
) -> dict[str, Client]:
    plan = LocalTraining(
        optimizer=bind(config.optimizer),
        seed=config.seed,
        epochs=config.local_epochs,
        steps=config.local_steps,
        batch_size=config.batch_size,
        schedule=build(config.schedule) if config.schedule else None,
        gradient_clip=config.gradient_clip,
        accumulate_batches=config.accumulate_batches,
        optimizer_state=config.optimizer_state,
    )
    make = partial(
        Client,
        network=network,
        loss=build(config.loss),
        plan=plan,
        keep_local=keep_local,
        channels_last=config.channels_last,
    )
    return {site.name: make(site) for site in sites}
