"""DP-SGD: a client trains so that no case can be told from what it learns. Abadi et al., CCS 2016."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fedlit.privacy.case_level import CasePrivacy
from fedlit.privacy.drawing import draw
from fedlit.privacy.per_case import clipped_sum, taken, told_apart
from fedlit.training import Batch, mean_loss, next_batch, reseed
from fedlit.training_state import optimizer_state
from fedlit.transforms.noise import seeded_noise, system_noise

if TYPE_CHECKING:
    from fedlit.client import Client


def fit(
    client: Client,
    round: int,
    *,
    objective: Callable[[nn.Module, Batch], Tensor] | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    correct: Callable[[nn.Module], None] | None = None,
    trained: Collection[str] | None = None,
) -> float:
    """As `fedlit.training.fit`, by `client.plan.privacy`; returns the mean loss over the pictures drawn, NaN if none.

    The penalty is added after the noise, for it looks at no picture; `correct` sees the sum of both.

    Raises:
        BadInput: the gradients of the cases cannot be told apart.
        ClientFailed: the loss is NaN or Inf.
    """
    bench, plan, privacy = client.workbench, client.plan, client.plan.privacy
    assert bench is not None and privacy is not None and bench.team.size == 1
    optimizer = client.make_optimizer(round, trained)
    stepper: Any = bench.fabric.setup_optimizers(optimizer)
    entries = client.resident.parameters.items()
    parameters = {name: value for name, value in entries if trained is None or name in trained}
    steps = list(plan.requests(client.site, round))
    batches = bench.loader.batches(client.site.train, [request for step in steps for request in step])
    losses: list[Tensor] = []
    client.network.train()
    with told_apart(client.network):
        for number, step in enumerate(steps):
            place = (plan.seed, client.site.seed_name, round, "step", number)
            reseed(draw(privacy, *place), bench.fabric.device)
            total = {name: torch.zeros_like(value).detach() for name, value in parameters.items()}
            for request in step:
                batch = next_batch(bench, client.site, batches)
                loss, samples = gradients(client, batch, objective or client.objective, len(request.indices))
                part = clipped_sum({name: samples[name] for name in parameters}, privacy.settings.clip)
                total = {name: value + part[name] for name, value in total.items()}
                losses.append(loss)
            set_gradients(parameters, noised(total, privacy, *place), penalty, client.network)
            if correct is not None:
                correct(client.network)
            if plan.gradient_clip is not None:
                nn.utils.clip_grad_norm_(parameters.values(), plan.gradient_clip)
            stepper.step()
    if plan.optimizer_state == "keep":
        client.memory = {**client.memory, "optimizer": optimizer_state(client.network, optimizer)}
    if not losses:
        return math.nan
    counts = [len(request.indices) for step in steps for request in step]
    return mean_loss([(torch.stack(losses).double().tolist(), counts)])


def gradients(
    client: Client, batch: Batch, objective: Callable[[nn.Module, Batch], Tensor], num_pictures: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss of a batch, and the gradient of each of its pictures by itself."""
    assert client.workbench is not None
    client.network.zero_grad()
    loss = objective(client.workbench.network, batch)
    client.workbench.fabric.backward(loss)
    return loss.detach(), taken(client.resident.parameters, num_pictures)


def noised(total: Mapping[str, Tensor], privacy: CasePrivacy, *place: int | str) -> dict[str, Tensor]:
    """The sum of a step's clipped gradients with its noise, divided by the number of cases that it draws on average."""
    if privacy.deviation:
        like, secure = dict(total), privacy.settings.secure_noise
        at = (*place, "privacy")
        noise = system_noise(like, privacy.deviation) if secure else seeded_noise(like, privacy.deviation, *at)
        total = {name: value + noise[name].to(value.device) for name, value in total.items()}
    return {name: value / (privacy.rate * privacy.num_cases) for name, value in total.items()}


def set_gradients(
    parameters: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Tensor],
    penalty: Callable[[nn.Module], Tensor] | None,
    network: nn.Module,
) -> None:
    """Give every parameter its gradient, and that of the penalty."""
    network.zero_grad()
    if penalty is not None:
        penalty(network).backward()
    for name, parameter in parameters.items():
        pull = parameter.grad
        parameter.grad = gradients[name] if pull is None else gradients[name] + pull
