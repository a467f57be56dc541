"""From a config to the objects of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from fedlit.aggregation import ROOT
from fedlit.algorithms import Algorithm, Sampling
from fedlit.beginning import Beginning
from fedlit.checkpoint import Checkpoints, seconds_per_picture
from fedlit.client import Client, Resident, check_keep_local
from fedlit.config import bind, build
from fedlit.data.loading import Loader
from fedlit.data.site import Site
from fedlit.data.source import Manifest
from fedlit.display import Display
from fedlit.errors import BadInput
from fedlit.examination import Examination
from fedlit.experiment import Experiment
from fedlit.federation import Federation
from fedlit.fleet import Fleet, Team, Workbench, World, team_size
from fedlit.messages import Server
from fedlit.prediction import Global, Personal, Predictor
from fedlit.rundir import RunDirectory
from fedlit.seeding import address
from fedlit.starts import Start
from fedlit.training import LocalTraining
from fedlit.transforms import Channel, Transform
from fedlit.weights import select, sha256


def assemble(config: DictConfig, world: World, display: Display) -> Experiment:
    """The objects of a resolved config.

    Raises:
        BadInput: the data, the network or their combination is wrong.
    """
    source = build(config.data)
    sites = load_sites(config, source, display)
    algorithm: Algorithm = build(config.algorithm)
    participants = participating(config, algorithm, sites.values())
    admit_cohort(config, algorithm, participants)
    run_dir = RunDirectory(config.run_dir)
    costs = training_costs(participants, run_dir / "checkpoint")
    team = world.form_team(size_of_teams(config, costs, world.size))
    if team.size > 1:
        display.say(f"{team.size} processes train each client together")
    network = first_network(config, source)
    if origin := getattr(network, "origin", ""):
        display.say(origin)
    network_sha256 = sha256(network.state_dict())
    workbench = set_up(network, config, world, team, display)
    resident = workbench.resident
    keep_local = kept_entries(config, algorithm, resident)
    check_keep_local(resident.entries, keep_local)
    fleet = Fleet(
        world,
        make_clients(config, participants, resident.network, keep_local),
        workbench,
        costs=costs,
        scoring_costs={site.name: len(site.val) + len(site.test) for site in sites.values()},
        on_client_error=config.on_client_error,
        min_updates=config.min_available_clients,
        channel=open_channel(config, algorithm, len(participants)),
        watch=display,
    )
    makers = predictors(config)
    federation = Federation(sites, fleet, sampling(config), keep_local, config.batch_size)
    return Experiment(
        config,
        run_dir,
        source=source,
        network_sha256=network_sha256,
        algorithm=algorithm,
        federation=federation,
        examination=Examination(
            federation,
            {name: makers[name]() for name in (*algorithm.models, *config.prediction)},
            build(config.metrics),
            source.classes,
            run_dir,
            config.report.pictures,
            shares_kept=config.share_personal and bool(keep_local),
        ),
        checkpoints=Checkpoints(run_dir / "checkpoint", fleet),
        first=first_server(resident, keep_local),
        beginning=beginning(config, sites, source.classes, workbench, world, display),
        display=display,
    )


def beginning(
    config: DictConfig,
    sites: Mapping[str, Site],
    classes: Sequence[str],
    workbench: Workbench,
    world: World,
    display: Display,
) -> Beginning | None:
    """What the server does before the first round, where the config asks for it."""
    if config.start is None:
        return None
    start: Start = build(config.start)
    of_start = config.copy()
    of_start.merge_with({"local_epochs": 1, "local_steps": None, "optimizer_state": "keep", "schedule": None})
    if start.lr is not None:
        of_start.optimizer.lr = start.lr

    def alone(site: Site) -> Federation:
        clients = make_clients(of_start, [site], workbench.resident.network, ())
        fleet = Fleet(world, clients, workbench, costs={site.name: 1.0}, scoring_costs={site.name: 1.0})
        return Federation({site.name: site}, fleet, batch_size=config.batch_size)

    server_site = next((site for site in sites.values() if site.role == "server"), None)
    run_dir = RunDirectory(config.run_dir).path
    return Beginning(start, server_site, tuple(classes), alone, world, run_dir, config.seed, display)


def predictors(config: DictConfig) -> dict[str, Callable[[], Predictor]]:
    """By name, what makes a predictor: the two that every run has, and the config's, which may take their place."""
    own = {name: partial(build, node) for name, node in config.prediction.items()}
    return {"global": Global, "personal": Personal, **own}


def sampling(config: DictConfig) -> Sampling:
    return Sampling(config.clients_per_round, config.fraction_train, config.seed)


def training_costs(participants: Sequence[Site], checkpoints: Path) -> dict[str, float]:
    """What a round of each client costs: pictures, in seconds where an earlier part of the run has measured all."""
    measured = seconds_per_picture(checkpoints)
    if any(site.name not in measured for site in participants):
        measured = {}
    return {site.name: len(site.train) * measured.get(site.name, 1.0) for site in participants}


def size_of_teams(config: DictConfig, costs: Mapping[str, float], num_processes: int) -> int:
    """How many processes train one client together.

    Raises:
        BadInput: so many cannot, or the loss of a batch is not the mean over its pictures.
    """
    divisible = getattr(build(config.loss), "is_mean_over_pictures", True)
    size = team_size(
        config.processes_per_client,
        costs,
        num_processes,
        most=config.batch_size if divisible or config.processes_per_client != "auto" else 1,
        at_once=len(sampling(config)(sorted(costs), 0)),
    )
    if size > 1 and not divisible:
        raise BadInput(
            f"processes_per_client={config.processes_per_client}: the loss {config.loss._target_} is no mean over "
            "pictures, so a batch cannot be divided; choose another loss or processes_per_client=1"
        )
    return size


def load_sites(config: DictConfig, source: Any, display: Display) -> dict[str, Site]:
    """The sites by name, in order of their names."""
    check_activation(config, source)
    loaded = source.load(unseen_sites=config.unseen_sites, server_site=config.server_site)
    loaded += further_sites(config, {site.name for site in loaded})
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


def further_sites(config: DictConfig, taken: Collection[str]) -> list[Site]:
    """The sites of `unseen_roots`, which the training never knew, read as those of the data are; all are unseen.

    Raises:
        BadInput: a site has the name of another, or a folder cannot be read.
    """
    names, further = set(taken), []
    if config.unseen_roots and "root" not in config.data:
        raise BadInput(
            f"unseen_roots={list(config.unseen_roots)} needs data that have a root, data=manifest; "
            f"{config.data._target_} has none"
        )
    for root in config.unseen_roots:
        source: Manifest = build({**config.data, "root": root})
        found = source.load_unseen()
        if twice := sorted({site.name for site in found} & names):
            raise BadInput(
                f"unseen_roots: {root} has a site {twice[0]}, and so have the data; rename it in its manifest"
            )
        names |= {site.name for site in found}
        further += found
    return further


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


def open_channel(config: DictConfig, algorithm: Algorithm, num_members: int | None) -> Channel:
    """What happens to updates on their way.

    Raises:
        BadInput: so many members, in so many rounds, cannot send so.
    """
    settings = {str(key): value for key, value in config.items()}
    transforms: dict[str, Transform] = {name: build(node) for name, node in config.transform.items()}
    made = list(transforms.values())
    for place, (name, transform) in enumerate(transforms.items()):
        for problem in transform.problems(algorithm, settings, made[:place], num_members):
            raise BadInput(f"transform.{name}: {problem}")
    return Channel(tuple(made), config.seed)


def admit_cohort(config: DictConfig, algorithm: Algorithm, participants: Sequence[Site]) -> None:
    """Raises BadInput where the rule of aggregation is not defined for the clients of a round."""
    cohort = sampling(config)([site.name for site in participants], 0)
    algorithm.aggregate.coefficients({site.name: len(site.train) for site in participants if site.name in cohort})


def first_server(resident: Resident, keep_local: Sequence[str]) -> Server:
    """The server before the first round: the network's first state, less what stays at the sites."""
    first = resident.read()
    return Server({name: first[name] for name in first.keys() - select(first, keep_local).keys()})


def kept_entries(config: DictConfig, algorithm: Algorithm, resident: Resident) -> tuple[str, ...]:
    """Patterns of the entries that stay at their site: those asked for, the float buffers with `buffers: local`, and
    those that the algorithm leaves there."""
    buffers = resident.buffers if config.buffers == "local" else ()
    return (*config.keep_local, *buffers, *algorithm.kept(resident))


def set_up(network: nn.Module, config: DictConfig, world: World, team: Team, display: Display) -> Workbench:
    """The network of this process, as Fabric wraps it and as a place for weights, and what else clients work with."""
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    network = team.normalising_together(network, world.fabric.device, display.warn)
    wrapped = world.fabric.setup_module(network)
    synced = team.wrap(world.fabric, network) if team.size > 1 else wrapped
    return Workbench(world.fabric, wrapped, synced, Resident(network), Loader(num_workers=config.num_workers), team)


def first_network(config: DictConfig, source: Any) -> nn.Module:
    """The network in its first state, which depends on the seed and on the files that the config names."""
    torch.manual_seed(address(config.seed, "network"))
    return build(config.network, **ends(config, source))


def bind_network(config: DictConfig, source: Any) -> partial:
    """The network's class with its arguments."""
    return bind(config.network, **ends(config, source))


def ends(config: DictConfig, source: Any) -> dict[str, int]:
    """How many channels go into the network, and out of it."""
    return {"in_channels": source.channels, "out_channels": num_outputs(config, source)}


def num_outputs(config: DictConfig, source: Any) -> int:
    """Channels of the logits: one a class, and one for the background with softmax."""
    return len(source.classes) + (config.activation == "softmax")


def make_clients(
    config: DictConfig,
    sites: Sequence[Site],
    network: nn.Module,
    keep_local: Sequence[str],
    kind: type[Client] = Client,
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
        kind,
        network=network,
        loss=build(config.loss),
        plan=plan,
        keep_local=keep_local,
        channels_last=config.channels_last,
    )
    return {site.name: make(site) for site in sites}
