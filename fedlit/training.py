"""How a client trains for one round: the local loop and its openings, objective, penalty, ascend and correct."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedlit.errors import ClientFailed
from fedlit.seeding import address
from fedlit.training_state import load_loss_scale, loss_scale, optimizer_state

if TYPE_CHECKING:
    from fedlit.client import Client
    from fedlit.data.site import Site
    from fedlit.fleet import Workbench
    from fedlit.privacy import CasePrivacy

Batch = Mapping[str, Tensor]
"""`image` [B, C, H, W] in [0, 1] and `target` [B, K, H, W] of 0 and 1."""


class Request(NamedTuple):
    """One batch by address: which pictures, and one augmentation seed for each (None: as they are)."""

    indices: list[int]
    seeds: list[int] | None


@dataclass(frozen=True)
class LocalTraining:
    """How much and with what a client trains in one round.

    Args:
        optimizer: makes the optimizer of the parameters it is given.
        epochs: passes over the client's pictures; or
        steps: optimizer steps, over as many passes as they need.
        batch_size: pictures of one batch; a smaller site makes one smaller batch.
        schedule: factor on the learning rate, a function of the global round (from 0).
        gradient_clip: largest norm of the gradient, all parameters together.
        accumulate_batches: batches of one optimizer step; each counts by its share of the pictures.
        optimizer_state: `recreate` it every round, or `keep` it in the client's memory.
        privacy: of the site's cases; it draws the batches, see `fedlit.privacy.CaseLevel`.
    """

    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    seed: int = 0
    epochs: int | None = 1
    steps: int | None = None
    batch_size: int = 8
    schedule: Callable[[int], float] | None = None
    gradient_clip: float | None = None
    accumulate_batches: int = 1
    optimizer_state: Literal["recreate", "keep"] = "recreate"
    privacy: CasePrivacy | None = None

    def requests(self, site: Site, round: int) -> Iterator[list[Request]]:
        """The optimizer steps of one round, each a list of batches."""
        if self.privacy is not None:
            return self.privacy.requests(self, site, round)
        return islice(self._passes(site, round), self.num_steps(site))

    def steps_per_epoch(self, site: Site) -> int:
        return math.ceil(math.ceil(len(site.train) / self.batch_size) / self.accumulate_batches)

    def num_steps(self, site: Site) -> int:
        if self.privacy is not None:
            return self.privacy.steps_per_round
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None, "neither epochs nor steps"
        return self.epochs * self.steps_per_epoch(site)

    def step_seed(self, site: Site, round: int, step: int, place: int = 0) -> int:
        """What dropout and the like draw from in one step, in each process of a team (`place`) something else."""
        return address(self.seed, site.seed_name, round, "step", step, *([place] if place else []))

    def _passes(self, site: Site, round: int) -> Iterator[list[Request]]:
        epoch = 0
        while True:
            place = (self.seed, site.seed_name, round, epoch)
            generator = torch.Generator().manual_seed(address(*place, "shuffle"))
            order = torch.randperm(len(site.train), generator=generator).tolist()
            batches = [self._request(site, place, indices) for indices in _chunks(order, self.batch_size)]
            yield from _chunks(batches, self.accumulate_batches)
            epoch += 1

    def _request(self, site: Site, place: tuple, indices: list[int]) -> Request:
        if site.train.augmentation is None:
            return Request(indices, None)
        return Request(indices, [address(*place, "augment", index) for index in indices])


def fit(
    client: Client,
    round: int,
    *,
    objective: Callable[[nn.Module, Batch], Tensor] | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    ascend: Callable[[nn.Module], Callable[[], None]] | None = None,
    correct: Callable[[nn.Module], None] | None = None,
    trained: Collection[str] | None = None,
) -> float:
    """Train the resident network on the client's pictures for one round; returns the mean loss over pictures.

    Args:
        objective: (network, batch) -> the mean loss of a batch; by default the client's own. It calls `network` as
            given, so that gradients are shared among the processes of a group.
        penalty: network -> a scalar added to the loss of every step (FedProx).
        ascend: moves the weights by the gradients of a step, and returns what moves them back; the step is taken with
            the gradients found there, on the same batches with the same dropout (HarmoFL).
        correct: changes the gradients in place after the backward pass and before they are clipped (SCAFFOLD). With
            16-mixed they are unscaled then, and NaN or Inf in a step that the scaler leaves out.
        trained: names of the parameters that change, instead of all; float buffers always do (FedRep).

    Raises:
        ClientFailed: the loss is NaN or Inf.
    """
    bench, plan, site = client.workbench, client.plan, client.site
    assert bench is not None, "fit needs the workbench that a fleet lends"
    team, network, objective = bench.team, bench.synced, objective or client.objective
    optimizer = client.make_optimizer(round, trained)
    stepper: Any = bench.fabric.setup_optimizers(optimizer)
    load_loss_scale(bench.fabric, client.memory)
    steps = list(plan.requests(site, round))
    batches = bench.loader.batches(site.train, [team.part(request) for step in steps for request in step])
    losses, counts = [], []

    def backward(step: Sequence[Request], place: int, batch: Batch) -> Tensor:
        with team.averaging(bench.fabric, network, is_last=place == len(step) - 1):
            loss = objective(network, batch)
            total = team.weighted(loss, step[place])
            if penalty is not None:
                total = total + penalty(client.network)
            share = len(step[place].indices) / sum(len(request.indices) for request in step)
            bench.fabric.backward(total * share if share < 1 else total)
        return loss.detach()

    if not client.network.training:  # a team's wrapper has a flag of its own, which scoring leaves as it was
        network.train()
    # a team's wrapper waits for the gradients of all
    with bench.resident.training_only(trained if team.size == 1 else None):
        for number, step in enumerate(steps):
            reseed(plan.step_seed(site, round, number, team.place), bench.fabric.device)
            optimizer.zero_grad()
            held = []
            for place, request in enumerate(step):
                batch = team.together(lambda: next_batch(bench, site, batches))
                losses.append(backward(step, place, batch))
                counts.append(team.num_own(request))
                held += [] if ascend is None else [batch]
            if number == 0:
                team.check_reached(bench.resident.parameters)
            if ascend is not None:
                descend = ascend(client.network)
                reseed(plan.step_seed(site, round, number, team.place), bench.fabric.device)
                optimizer.zero_grad()
                for place, batch in enumerate(held):
                    backward(step, place, batch)
                descend()
            if correct is not None or plan.gradient_clip is not None:
                # once a step: 16-mixed refuses a second time
                bench.fabric.strategy.precision.unscale_gradients(optimizer)
            if correct is not None:
                correct(client.network)
            if plan.gradient_clip is not None:
                nn.utils.clip_grad_norm_(client.parameters_of(trained), plan.gradient_clip)
            stepper.step()
    team.align(bench.resident.buffers.values())
    if plan.optimizer_state == "keep":
        client.memory = {**client.memory, "optimizer": optimizer_state(client.network, optimizer)}
    client.memory = {**client.memory, **loss_scale(bench.fabric)}
    return mean_loss(team.share((torch.stack(losses).double().tolist(), counts)))


def next_batch(bench: Workbench, site: Site, batches: Iterator[Batch]) -> Batch:
    """The next batch, unless the client has to end before it."""
    bench.team.lookout.safe_point(site.name)
    return next(batches)


def reseed(seed: int, device: torch.device) -> None:
    """Seed what dropout draws from, on the CPU and this device; `torch.manual_seed` asks every backend, for 1 ms."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def mean_loss(parts: Sequence[tuple[Sequence[float], Sequence[int]]]) -> float:
    """The mean over pictures of the losses of batches, each with its number of pictures; a part for each process.

    Raises:
        ClientFailed: one is NaN or Inf.
    """
    for losses, _ in parts:
        for number, loss in enumerate(losses, start=1):
            if not math.isfinite(loss):
                raise ClientFailed(
                    f"the loss is {loss} at batch {number}; lower lr, set gradient_clip, or look at the site's pictures"
                )
    weighted = [(loss, count) for losses, counts in parts for loss, count in zip(losses, counts, strict=True)]
    return math.fsum(loss * count for loss, count in weighted) / sum(count for _, count in weighted)


@dataclass(frozen=True)
class Cosine:
    """Learning-rate factor from 1 to `end` along half a cosine over `num_rounds`, after a linear rise of `warmup`."""

    num_rounds: int
    warmup: int = 0
    end: float = 0.0

    def __call__(self, round: int) -> float:
        if round < self.warmup:
            return (round + 1) / (self.warmup + 1)
        progress = min(1.0, (round - self.warmup) / max(1, self.num_rounds - self.warmup))
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Step:
    """Learning-rate factor `gamma ** (round // every)`."""

    every: int
    gamma: float = 0.1

    def __call__(self, round: int) -> float:
        return self.gamma ** (round // self.every)


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
