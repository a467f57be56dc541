"""What depends on the machine: the choices that a config leaves to it are made, and its processes started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf

from fedlit import hardware
from fedlit.config import bind
from fedlit.errors import BadInput
from fedlit.fleet import open_fabric
from fedlit.provenance import is_secret
from fedlit.rundir import RunDirectory
from fedlit.sources import flat


def resolve(config: DictConfig) -> DictConfig:
    """The config with all decided that depends on the machine, by its device flags: precision and memory format.

    Flags of `fabric run` win. Loggers keep their interpolations: `${oc.env:...}` may hold a secret, and this is saved.

    Raises:
        BadInput: a logger is given a secret in clear, or the precision does not fit the device.
    """
    written: Any = OmegaConf.to_container(config, resolve=False)
    loggers = written["loggers"]
    for key, value in flat(loggers, "loggers"):
        if is_secret(key) and isinstance(value, str) and not value.startswith("${"):
            raise BadInput(f"{key} is written in clear and would be saved with the run; write {key}='${{oc.env:NAME}}'")
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    config = OmegaConf.create({**resolved, "loggers": loggers})
    accelerator = os.environ.get("LT_ACCELERATOR", config.accelerator).replace("gpu", "cuda")
    precision = os.environ.get("LT_PRECISION", config.precision)
    accelerator = hardware.resolve_accelerator(accelerator)
    precision = hardware.PRECISIONS.get(precision, precision)
    if config.privacy is not None:
        precision = of_private_training(precision)
    config.precision = hardware.resolve_precision(precision, accelerator)
    config.channels_last = hardware.resolve_channels_last(config.channels_last, config.precision)
    if config.precision == "16-mixed" and accelerator == "cpu":
        raise BadInput("precision=16-mixed needs a GPU; on the CPU use bf16-mixed or 32-true")
    return config


def of_private_training(precision: str) -> str:
    """`auto` is 32-true.

    Raises:
        BadInput: gradients cannot be told apart by case in it.
    """
    if precision not in ("auto", "32-true", "64-true"):
        raise BadInput(f"precision={precision}: with privacy gradients are told apart by case in full precision alone; "
                       "use precision=32-true")  # fmt: skip
    return "32-true" if precision == "auto" else precision


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
