"""Who does how much in a round, and where: the homes of a run's clients before it is begun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from fedlit.aggregation import ROOT
from fedlit.assembly import size_of_teams
from fedlit.fleet.placement import pack
from fedlit.footprint import Unknown
from fedlit.sketch import Sketch


@dataclass(frozen=True)
class Workload:
    """A site or client. Of one that trains: optimizer steps and pictures of a round, and its home where it is known.

    The home is a number from 0: of the process, or of the team where several work for one client.
    """

    name: str
    role: str
    num_pictures: int
    num_train: int
    num_steps: int = 0
    num_trained: int = 0
    home: int | None = None

    @property
    def is_client(self) -> bool:
        return self.num_steps > 0


def count_processes(config: DictConfig, accelerator: str) -> int | Unknown:
    """One for each device of every node."""
    devices = config.devices
    if devices == "auto":
        devices = torch.cuda.device_count() if accelerator == "cuda" else 1
        if not devices:
            return Unknown("devices=auto counts the GPUs of the machine that runs, and here is none")
    elif isinstance(devices, str):
        devices = len(devices.strip(",").split(",")) if "," in devices else int(devices)
    return devices * config.num_nodes


def team_of(drawn: Sketch, num_processes: int | Unknown) -> int:
    """Processes for one client; where it depends on what is not known, 1."""
    asked = drawn.config.processes_per_client
    if isinstance(num_processes, Unknown) or (isinstance(drawn.outlines, Unknown) and asked == "auto"):
        return asked if isinstance(asked, int) else 1
    return size_of_teams(drawn.config, [client.site for client in drawn.clients.values()], num_processes)


def workloads(
    drawn: Sketch, costs: Mapping[str, float], num_processes: int | Unknown, team: int
) -> tuple[Workload, ...] | Unknown:
    """The clients, those with most to do first, then the sites that do not train themselves."""
    if isinstance(drawn.outlines, Unknown):
        return drawn.outlines
    homes = {} if isinstance(num_processes, Unknown) else pack(costs, num_processes // team)
    sites = {each.name: each for each in drawn.outlines}
    found = []
    for name in sorted(costs, key=lambda name: (-costs[name], name)):
        site = drawn.clients[name].site
        steps = list(drawn.clients[name].plan.requests(site, 0))
        num_trained = sum(len(request.indices) for step in steps for request in step)
        num_pictures = len(site.train) + len(site.val) + len(site.test)
        role = "server" if name == ROOT else site.role
        found.append(Workload(name, role, num_pictures, len(site.train), len(steps), num_trained, homes.get(name)))
    others = [sites[name] for name in sorted(sites.keys() - costs.keys())]
    return (*found, *(Workload(each.name, each.role, each.num_pictures, each.train) for each in others))
