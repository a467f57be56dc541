"""What a client takes from one round of training to its next: the optimizer's state and the loss scale, as tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from fedlit.errors import ClientFailed
from fedlit.weights import Weights

OF_TRAINING = ("optimizer", "loss_scale", "unsent")
"""Slots of a client's memory that go on with its training and sending, and are no part of its model."""


def optimizer_state(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer as named tensors on the CPU: `exp_avg/conv.weight`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    state = {}
    for parameter, entries in optimizer.state.items():
        for entry, value in entries.items():
            if value is None:
                continue
            if not isinstance(value, Tensor | int | float):
                what = f"`{entry}` of {type(optimizer).__name__}, a {type(value).__name__}"
                raise ClientFailed(f"optimizer_state=keep cannot store {what}; use optimizer_state=recreate")
            state[f"{entry}/{names[parameter]}"] = torch.as_tensor(value).detach().cpu().clone()
    return state


def load_optimizer_state(network: nn.Module, optimizer: Optimizer, state: Weights) -> None:
    """Put back what `optimizer_state` took."""
    parameters = dict(network.named_parameters())
    for key, value in state.items():
        entry, name = key.split("/", 1)
        parameter = parameters[name]
        if entry == "step" or (parameter.dim() and not value.dim()):  # a counter stays on the CPU, as Adam keeps it
            optimizer.state[parameter][entry] = value.clone()
        elif value.shape == parameter.shape:
            optimizer.state[parameter][entry] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        else:
            optimizer.state[parameter][entry] = value.to(parameter.device, copy=True)


def loss_scale(fabric: Fabric) -> dict[str, dict[str, Tensor]]:
    """The slot that a client remembers its loss scale in; none where the precision has no scaler (all but 16-mixed)."""
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is None:
        return {}
    state = scaler.state_dict()
    return {"loss_scale": {name: torch.tensor(state[name]) for name in ("scale", "_growth_tracker")}}


def load_loss_scale(fabric: Fabric, memory: Mapping[str, Weights]) -> None:
    """Put back what `loss_scale` took, for the clients of a process share one scaler; a new client's starts anew."""
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is not None:
        remembered = {name: value.item() for name, value in memory.get("loss_scale", {}).items()}
        scaler.load_state_dict(torch.amp.GradScaler(fabric.device.type).state_dict() | remembered)
