"""Starts the processes of a run, or joins those that a launcher has started."""

from __future__ import annotations

import inspect
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fedlit import hardware
from fedlit.errors import BadInput

FITTING = ("ddp", "auto")
UNSEEN_NAMES = ("bash", "interactive")
"""Names of jobs in which Lightning does not look for processes of srun: a shell's tasks are none."""
LAST_MINUTE = 45.0
"""Seconds in which this process can end by itself, saying why, after one that it started has failed."""


class Starter(_SubprocessScriptLauncher):
    """Starts the processes of a node from its first one, and ends that one if it waits for a process that failed.

    Lightning's own kills it at once, and with it the error that all processes are about to tell.
    """

    def launch(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            threading.Thread(target=self._watch, name="children", daemon=True).start()
        return function(*args, **kwargs)

    def _watch(self) -> None:
        while not (failed := [child for child in self.procs if child.poll() not in (None, 0)]):
            time.sleep(1)
        time.sleep(LAST_MINUTE)
        os.write(2, f"error: process {failed[0].pid} ended with code {failed[0].returncode}\n".encode())
        for child in self.procs:
            child.kill()
        os._exit(1)


class Placed(DDPStrategy):
    """Starts and connects processes as DDP does; gradients are averaged within a team alone, or not at all."""

    team: Any = None
    """The process group in which the next module that is set up shares its gradients."""

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Starter(self.cluster_environment, self.num_processes, self.num_nodes)

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]  # no DDP without a team
        if self.team is None:
            return module
        # buffers are aligned at the end of a round: once, and not before every forward pass
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # until torch 2.14
        self._ddp_kwargs = {"process_group": self.team, buffers: False}
        return super().setup_module(module)


class Launched(NamedTuple):
    """What a launcher (torchrun, srun) has started: processes a node, and nodes."""

    devices: int
    num_nodes: int


def launched() -> Launched | None:
    """None where no launcher but Fabric itself, or its command line, starts processes."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        here, everywhere = int(environment["LOCAL_WORLD_SIZE"]), int(environment["WORLD_SIZE"])
        return Launched(here, everywhere // here)
    if is_srun_task():
        everywhere, num_nodes = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_STEP_NUM_NODES"])
        if everywhere % num_nodes:
            raise BadInput(
                f"srun: {everywhere} tasks on {num_nodes} nodes; every node needs as many: --ntasks-per-node"
            )
        return Launched(everywhere // num_nodes, num_nodes)
    return None


def is_srun_task() -> bool:
    """Started by srun, not merely inside an allocation: a batch script has no step."""
    return "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in UNSEEN_NAMES


def cluster(others: Launched | None) -> ClusterEnvironment | None:
    """How processes find each other, as a plugin for Fabric; said outright, for Fabric sees SLURM where it is not used.

    Raises:
        BadInput: the first node of a SLURM job has no address.
    """
    if others is None:
        return LightningEnvironment()
    if not is_srun_task():
        return None
    os.environ |= {"SLURM_NTASKS_PER_NODE": str(others.devices), "SLURM_NNODES": str(others.num_nodes)}  # of the step
    environment = SLURMEnvironment(auto_requeue=False)
    name = environment.main_address
    try:
        socket.gethostbyname(name)
    except OSError:
        if "SLURM_LAUNCH_NODE_IPADDR" not in os.environ:
            raise BadInput(f"node {name} has no address here; export MASTER_ADDR, the first node's") from None
        os.environ["MASTER_ADDR"] = os.environ["SLURM_LAUNCH_NODE_IPADDR"]
    return environment


def open_fabric(
    *, accelerator: str, devices: int | str, num_nodes: int, precision: str, loggers: Iterable[Any] = ()
) -> Fabric:
    """The Fabric of this run, its processes started. Flags of `fabric run` win over what is given here.

    Raises:
        BadInput: `fabric run --strategy` asks for one that does not fit, a device is not there, a port is taken.
    """
    strategy = os.environ.pop("LT_STRATEGY", "ddp")
    if strategy not in FITTING:
        raise BadInput(
            f"fabric run --strategy={strategy}: each client's network is whole in every process, which is ddp; "
            "leave the flag out"
        )
    by_fabric_run = "LT_CLI_USED" in os.environ
    os.environ.pop("LT_PRECISION", None)  # the config has taken it in
    others = None if by_fabric_run else launched()
    devices, num_nodes = others or (devices, num_nodes)
    one = not by_fabric_run and str(devices) == "1" and num_nodes == 1
    try:
        fabric = Fabric(
            accelerator="auto" if by_fabric_run else accelerator,
            devices="auto" if by_fabric_run else (1 if one else devices),
            num_nodes=1 if by_fabric_run else num_nodes,
            strategy="auto" if one else Placed(),
            precision=cast(Any, precision),  # which Fabric checks
            plugins=None if by_fabric_run else cluster(others),
            loggers=list(loggers),
        )
    except (RuntimeError, TypeError, ValueError) as error:  # all that Lightning raises for devices that are not there
        raise BadInput(f"accelerator={accelerator} devices={devices} precision={precision}: {error}") from error
    if not by_fabric_run:
        _launch(fabric)
    if fabric.device.type == "cpu":
        hardware.keep_freed_memory()
        placed = fabric.strategy
        here = fabric.world_size // placed.num_nodes if isinstance(placed, Placed) else 1
        hardware.share_cores(int(os.environ.get("LOCAL_WORLD_SIZE", here)))
    return fabric


def _launch(fabric: Fabric) -> None:
    try:
        fabric.launch()
    except Exception as error:
        for child in getattr(fabric.strategy.launcher, "procs", ()):
            child.kill()  # it would wait for this process
        if not isinstance(error, torch.distributed.DistNetworkError):
            raise
        where = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        raise BadInput(
            f"the processes cannot meet at {where}: {str(error).splitlines()[0]}; "
            "where another job has the port, set MASTER_PORT to a free one"
        ) from error
