"""How fast this machine takes a training step, from two real ones with one random picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from omegaconf import DictConfig

from fedlit.config import bind, build
from fedlit.first_network import bind_network
from fedlit.fleet.starting import open_fabric
from fedlit.hardware import share_cores

WARMING_UP = 2  # steps; the first took 6 times as long as the fourth, the second 1.5 times (CPU, U-Net 16, 128 px)


@dataclass(frozen=True)
class Pace:
    """Seconds of an optimizer's step, and of the forward and backward pass of one picture."""

    step: float
    picture: float


def measure(config: DictConfig, source: Any, size: tuple[int, int], num_beside: int) -> Pace:
    """Of two steps with a random picture of (H, W), after some that warm up.

    Args:
        num_beside: processes that will share this machine's cores, where it trains on the CPU.

    Raises:
        BadInput: this machine has no such device.
    """
    fabric = open_fabric(accelerator=config.accelerator, devices=1, num_nodes=1, precision=config.precision)
    if fabric.device.type == "cpu":
        share_cores(num_beside)
    network = bind_network(config, source)()
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    wrapped = fabric.setup_module(network.to(memory_format=memory_format)).train()
    optimizer = bind(config.optimizer)([value for value in network.parameters() if value.requires_grad])
    stepper: Any = fabric.setup_optimizers(optimizer)
    loss = build(config.loss)
    image = torch.rand(1, source.channels, *size).to(fabric.device, memory_format=memory_format)
    target = torch.zeros(1, len(source.classes), *size, device=fabric.device)
    target[:, 0] = (torch.rand(size) > 0.5).to(target)

    def now() -> float:
        if fabric.device.type == "cuda":
            torch.cuda.synchronize(fabric.device)
        return perf_counter()

    times = []
    for _ in range(2 + WARMING_UP):
        optimizer.zero_grad()
        times.append(now())
        fabric.backward(loss(wrapped(image), target))
        times.append(now())
        stepper.step()
        times.append(now())
    (start, middle, end), (again, halfway, last) = times[-6:-3], times[-3:]
    return Pace(step=(end - middle + last - halfway) / 2, picture=(middle - start + halfway - again) / 2)


def free_bytes(accelerator: str) -> int | None:
    """Memory that a process could still take: the first GPU's, else the machine's; None where it cannot be known."""
    if accelerator == "cuda":
        return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return int(fields["MemAvailable"].split()[0]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
