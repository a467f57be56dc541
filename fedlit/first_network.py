"""The network of a config, between the channels and the classes of its data."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from fedlit.config import bind, build
from fedlit.errors import BadInput
from fedlit.seeding import address


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
