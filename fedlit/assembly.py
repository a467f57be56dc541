"""From a config to the objects of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from fedlit.algorithms import Algorithm
from fedlit.beginning import Beginning
from fedlit.checkpoint import Checkpoints, seconds_per_picture
from fedlit.client import Client
from fedlit.config import bind, build
from fedlit.data.loading import Loader
from fedlit.data.site import Site, num_pictures
from fedlit.display import Display
from fedlit.errors import BadInput
from fedlit.examination import Examination
from fedlit.experiment import Experiment
from fedlit.federation import Federation
from fedlit.first_network import first_network
from fedlit.fleet import Fleet, Team, Workbench, World, team_size
from fedlit.messages import Server
from fedlit.misfits import (
    case_privacy,
    kept_entries,
    of_members,
    of_network,
    of_pictures,
    open_channel,
    refuse,
    sampling,
    training_size,
)
from fedlit.prediction import Global, Personal, Predictor
from fedlit.resident import Resident
from fedlit.rundir import RunDirectory
from fedlit.site_roles import load_sites, participating
from fedlit.starts import Start
from fedlit.training import LocalTraining
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
    sizes = [training_size(source), *(site.train.smallest for site in participants)]
    refuse([*of_members(config, algorithm, participants), *of_pictures(algorithm, sizes)])
    run_dir = RunDirectory(config.run_dir)
    costs = training_costs(participants, run_dir / "checkpoint")
    team = world.form_team(size_of_teams(config, participants, world.size))
    if team.size > 1:
        display.say(f"{team.size} processes train each client together")
    network = first_network(config, source)
    if origin := getattr(network, "origin", ""):
        display.say(origin)
    network_sha256 = sha256(network.state_dict())
    workbench = set_up(network, config, world, team, display)
    resident = workbench.resident
    sizes += [pictures.smallest for site in sites.values() for pictures in (site.train, site.val, site.test)]
    refuse([*of_network(config, algorithm, resident), *of_pictures(network, sizes)])
    keep_local = kept_entries(config, algorithm, resident)
    fleet = Fleet(
        world,
        make_clients(config, participants, resident.network, keep_local),
        workbench,
        costs=costs,
        scoring_costs={site.name: len(site.val) + len(site.test) for site in sites.values()},
        on_client_error=config.on_client_error,
        min_updates=config.min_available_clients,
        channel=open_channel(config),
        watch=display,
    )
    federation = Federation(sites, fleet, sampling(config), keep_local, config.batch_size)
    scored = chosen_predictors(config, algorithm)
    of_global = [name for name, predictor in scored.items() if not predictor.is_of_members]
    if of_global and "global" not in algorithm.models:
        kind = type(algorithm).__name__
        display.warn(f"{', '.join(of_global)}: {kind} trains no global model; it is the one that the run began with")
    return Experiment(
        config,
        run_dir,
        source=source,
        network_sha256=network_sha256,
        algorithm=algorithm,
        federation=federation,
        examination=Examination(
            federation,
            scored,
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
    of_start.privacy = None  # it trains on the server's own pictures
    if start.lr is not None:
        of_start.optimizer.lr = start.lr

    def alone(site: Site) -> Federation:
        clients = make_clients(of_start, [site], workbench.resident.network, ())
        fleet = Fleet(world, clients, workbench, costs={site.name: 1.0}, scoring_costs={site.name: 1.0})
        return Federation({site.name: site}, fleet, batch_size=config.batch_size)

    server_site = next((site for site in sites.values() if site.role == "server"), None)
    run_dir = RunDirectory(config.run_dir).path
    return Beginning(start, server_site, tuple(classes), alone, world, run_dir, config.seed, display)


def predictors(named: DictConfig) -> dict[str, Callable[[], Predictor]]:
    """By name, what makes a predictor: the two that every run has, and a config's, which may take their place."""
    own = {str(name): partial(build, node) for name, node in named.items()}
    return {"global": Global, "personal": Personal, **own}


def chosen_predictors(config: DictConfig, algorithm: Algorithm) -> dict[str, Predictor]:
    """Those that a run is scored with, the one it is judged by first.

    Raises:
        BadInput: personal models are asked for, and the algorithm makes none.
    """
    makers = predictors(config.prediction)
    chosen = {name: makers[name]() for name in (*algorithm.models, *config.prediction)}
    for name, predictor in chosen.items():
        if isinstance(predictor, Personal) and "personal" not in algorithm.models:
            raise BadInput(
                f"prediction={name}: this run's algorithm makes no personal models; train with one that does, such as "
                "algorithm=iopfl, ditto, finetuning or local"
            )
    return chosen


def training_costs(participants: Sequence[Site], checkpoints: Path) -> dict[str, float]:
    """What a round of each client costs: pictures, in seconds where an earlier part of the run has measured all."""
    measured = seconds_per_picture(checkpoints)
    if any(site.name not in measured for site in participants):
        measured = {}
    return {name: count * measured.get(name, 1.0) for name, count in num_pictures(participants).items()}


def size_of_teams(config: DictConfig, participants: Sequence[Site], num_processes: int) -> int:
    """How many processes train one client together, by their pictures alone.

    Seconds that were measured would form others when a run goes on, and their sums are rounded otherwise.

    Raises:
        BadInput: so many cannot, or the loss of a batch is not the mean over its pictures.
    """
    if config.privacy is not None:
        if config.processes_per_client not in ("auto", 1) and num_processes > 1:
            raise BadInput(
                f"processes_per_client={config.processes_per_client}: with privacy one process trains a client; "
                "use processes_per_client=1"
            )
        return 1
    divisible = getattr(build(config.loss), "is_mean_over_pictures", True)
    costs = num_pictures(participants)
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


def first_server(resident: Resident, keep_local: Sequence[str]) -> Server:
    """The server before the first round: the network's first state, less what stays at the sites."""
    first = resident.read()
    return Server({name: first[name] for name in first.keys() - select(first, keep_local).keys()})


def set_up(network: nn.Module, config: DictConfig, world: World, team: Team, display: Display) -> Workbench:
    """The network of this process, as Fabric wraps it and as a place for weights, and what else clients work with."""
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    network = team.normalising_together(network, world.fabric.device, display.warn)
    wrapped = world.fabric.setup_module(network)
    synced = team.wrap(world.fabric, network) if team.size > 1 else wrapped
    return Workbench(world.fabric, wrapped, synced, Resident(network), Loader(num_workers=config.num_workers), team)


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
        keep_local=keep_local,
        channels_last=config.channels_last,
    )
    privacy = case_privacy(config, sites)
    return {site.name: make(site, plan=replace(plan, privacy=privacy.get(site.name))) for site in sites}
