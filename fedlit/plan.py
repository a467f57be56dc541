"""What a run would take, found without training, pictures or weights: homes, parameters, messages, memory, time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from omegaconf import DictConfig

from fedlit import misfits
from fedlit.assembly import training_costs
from fedlit.config import bind, build
from fedlit.footprint import Unknown, activation_bytes, num_elements, optimizer_bytes
from fedlit.pace import Pace, free_bytes, measure
from fedlit.rehearsal import Exchange, rehearse
from fedlit.rundir import RunDirectory
from fedlit.sketch import Sketch, known, sketch, target
from fedlit.units import megabytes
from fedlit.weights import num_bytes
from fedlit.workload import Workload, count_processes, team_of, workloads

MOST_MODELS = 6
"""The mean of a round's updates holds this many at once in a process, whatever the number of clients."""


@dataclass(frozen=True)
class Plan:
    """What a run would take; what cannot be known is `Unknown`, with the reason.

    Args:
        num_processes: of the whole run; each has a GPU of its own, or a share of the CPU.
        team: processes that work together for one client.
        total, trained: parameters of the network.
        exchanges: what the first rounds send; every later round sends what the last of these does.
        batch: pictures that a process holds at once.
        size: (H, W) of a picture in training.
        memory: bytes in one process, by what they are for.
        seconds: of one round; None where nobody asked.
        assumptions: made where this machine is not the one that will run, or the data are not known.
    """

    config: DictConfig
    num_processes: int | Unknown
    team: int
    workloads: tuple[Workload, ...] | Unknown
    total: int | Unknown
    trained: int | Unknown
    exchanges: tuple[Exchange, ...] | Unknown
    batch: int
    size: tuple[int, int] | Unknown
    memory: Mapping[str, int | Unknown]
    seconds: float | Unknown | None = None
    assumptions: tuple[str, ...] = ()

    @property
    def clients(self) -> list[Workload]:
        return [each for each in self.trained_for if each.role != "server"]

    @property
    def trained_for(self) -> list[Workload]:
        """The clients, and the server's own site where it trains in every round."""
        every = () if isinstance(self.workloads, Unknown) else self.workloads
        return [each for each in every if each.is_client]

    def in_all_rounds(self, amount: Callable[[Exchange], int]) -> int | Unknown:
        """The sum over the run of `Exchange.bytes_up`, or another of an exchange's numbers."""
        if isinstance(self.exchanges, Unknown):
            return self.exchanges
        amounts = [amount(each) for each in self.exchanges]
        return sum(amounts) + (self.config.num_rounds - len(amounts)) * amounts[-1]


def plan(config: DictConfig, *, measured: bool = False) -> Plan:
    """The plan of a checked config, of which `sketch.UNSET` may be unset.

    Args:
        measured: time two steps on this machine.

    Raises:
        BadInput: the sites, the processes or what stays local do not fit, as in a run.
    """
    drawn = sketch(config)
    assumptions = assumed(config, drawn)
    config, resident = drawn.config, drawn.resident
    participants = [client.site for client in drawn.clients.values()]
    costs = training_costs(participants, RunDirectory(config.run_dir) / "checkpoint")
    num_processes = count_processes(config, drawn.accelerator)
    team = team_of(drawn, num_processes)
    found = Plan(
        config=config,
        num_processes=num_processes,
        team=team,
        workloads=workloads(drawn, costs, num_processes, team),
        total=resident if isinstance(resident, Unknown) else num_elements(resident.network.parameters()),
        trained=resident if isinstance(resident, Unknown) else num_elements(resident.parameters.values()),
        exchanges=exchanges(drawn),
        batch=math.ceil(min(config.batch_size, max(len(site.train) for site in participants)) / team),
        size=training_size(drawn.source),
        memory={},
        assumptions=assumptions,
    )
    found = replace(found, memory=memory(drawn, found))
    return replace(found, seconds=seconds(drawn, found)) if measured else found


def assumed(asked: DictConfig, drawn: Sketch) -> tuple[str, ...]:
    """What is taken for granted of what was asked for."""
    found = []
    if asked.precision == "auto" and drawn.accelerator == "cuda" and not torch.cuda.is_available():
        found.append(f"precision={drawn.config.precision}: auto depends on the GPU, and here is none")
    if isinstance(drawn.outlines, Unknown):
        found.append(f"every client has a full batch: {drawn.outlines.reason}")
    return tuple(found)


def exchanges(drawn: Sketch) -> tuple[Exchange, ...] | Unknown:
    """What the first rounds send."""
    if isinstance(drawn.first, Unknown):
        return drawn.first
    first, num_rounds = drawn.first, drawn.config.num_rounds
    return known(
        f"{target(drawn.config.algorithm)} cannot be rehearsed without values",
        lambda: tuple(rehearse(drawn.algorithm, drawn.clients, first, drawn.sampling, num_rounds, drawn.channel)),
    )


def training_size(source: object) -> tuple[int, int] | Unknown:
    reason = "pictures keep sizes of their own; set data.image_size, or end data.augment with a crop"
    return misfits.training_size(source) or Unknown(reason)


def memory(drawn: Sketch, found: Plan) -> dict[str, int | Unknown]:
    """Bytes in one process, by what they are for."""
    resident, config = drawn.resident, drawn.config
    if isinstance(resident, Unknown):
        return {"all of it": resident}
    network, parameters = resident.network, [*resident.parameters.values()]
    trained = num_bytes(parameters)

    def activations(size: tuple[int, int]) -> int:
        shape = (found.batch, drawn.source.channels, *size)
        return activation_bytes(
            network, build(config.loss), shape, len(drawn.source.classes),
            numerics=drawn.numerics, channels_last=config.channels_last,
        )  # fmt: skip

    optimizer = f"{target(config.optimizer)} cannot take a step by itself"
    update = found.exchanges if isinstance(found.exchanges, Unknown) else found.exchanges[-1].bytes_update
    return {
        "weights": num_bytes([*network.parameters(), *network.buffers()]),
        "gradients": trained,
        **({"gradients on their way": trained} if found.team > 1 else {}),
        "optimizer": known(optimizer, lambda: optimizer_bytes(bind(config.optimizer), parameters)),
        "activations": found.size
        if isinstance(found.size, Unknown)
        else known(f"{target(config.network)} cannot run without data", partial(activations, found.size)),
        "first state": num_bytes(resident.first),
        "mean of updates": update if isinstance(update, Unknown) else MOST_MODELS * update,
    }


def together(memory: Mapping[str, int | Unknown]) -> int | Unknown:
    """The sum; unknown where one of them is."""
    total = 0
    for value in memory.values():
        if isinstance(value, Unknown):
            return value
        total += value
    return total


def seconds(drawn: Sketch, found: Plan) -> float | Unknown:
    """Of the local training of a round, from two steps with one picture on this machine, if they fit into it."""
    needed = together(memory(drawn, replace(found, batch=1)))
    if isinstance(needed, Unknown):
        return needed
    assert not isinstance(found.size, Unknown) and not isinstance(found.exchanges, Unknown)  # memory knows them
    if isinstance(found.workloads, Unknown):
        return found.workloads
    if isinstance(found.num_processes, Unknown):
        return found.num_processes
    free = free_bytes(drawn.accelerator)
    if free is None:
        return Unknown(f"not measured: the free memory of this machine's {drawn.accelerator} cannot be told")
    if needed > free:
        return Unknown(f"not measured: one picture needs about {megabytes(needed)} and {megabytes(free)} are free here")
    num_beside = found.num_processes // drawn.config.num_nodes
    pace = known("not measured", partial(measure, drawn.config, drawn.source, found.size, num_beside))
    if isinstance(pace, Unknown):
        return pace
    return found.exchanges[-1].num_clients / len(found.clients) * busiest(found, pace)


def busiest(found: Plan, pace: Pace) -> float:
    """Seconds of the home with most to do, if all its clients take part."""
    load: dict[int | None, float] = defaultdict(float)
    for each in found.trained_for:
        load[each.home] += each.num_steps * pace.step + each.num_trained / found.team * pace.picture
    return max(load.values())
