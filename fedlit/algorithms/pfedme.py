"""pFedMe: personal models in the federation's Moreau envelopes. Dinh et al., NeurIPS 2020."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedlit.algorithms.base import Algorithm, require, step_towards
from fedlit.client import Client
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update


@dataclass(frozen=True)
class PFedMe(Algorithm):
    """min_w sum_k min_theta F_k(theta) + pull/2 |theta - w|^2, theta the personal model and w the local one.

    A client trains theta; after every few steps, and at the end of its round, w follows by w + share (theta - w). It
    sends w. Here each step meets the next batch; in the paper those between two moves of w share one. Over the
    parameters that are shared. Clients count by their pictures, in the paper alike (`aggregate` uniform).

    Args:
        pull: lambda in the paper, which tries 15 to 30.
        inner_steps: of theta, between two moves of w.
        share: eta lambda in the paper, 0.005 times 15.
        lr: of the server, beta in the paper.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"pull": 0.0, "inner_steps": 1, "share": 1.0}

    pull: float = 15.0
    inner_steps: int = 5
    share: float = 0.075
    lr: float = 1.0

    def __post_init__(self) -> None:
        require(
            pull=(self.pull, self.pull >= 0, "0 or more"),
            inner_steps=(self.inner_steps, self.inner_steps >= 1, "1 or more"),
            share=(self.share, 0 < self.share <= 1, "above 0, at most 1"),
            lr=(self.lr, self.lr > 0, "above 0"),
        )

    @property
    def models(self) -> tuple[str, ...]:
        return ("personal", "global")

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(broadcast.weights)
        theta = client.shared_parameters()
        follower = Follower(theta, self.share, self.inner_steps)
        plan = replace(client.plan, optimizer=partial(follower.watching, client.plan.optimizer))
        client.fit(broadcast.round, plan=plan, penalty=partial(follower.penalty, self.pull))
        local = follower.finish()
        return client.update({**client.update().weights, **local}), {**client.memory, "personal": client.weights()}

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        return step_towards(server, aggregate, self.lr)


class Follower:
    """The local model w of one round, which follows the parameters theta in training."""

    def __init__(self, theta: Mapping[str, nn.Parameter], share: float, every: int):
        self.theta, self.share, self.every, self.num_steps = theta, share, every, 0
        self.local = {name: value.detach().clone() for name, value in theta.items()}

    def penalty(self, pull: float, network: nn.Module) -> Tensor:
        """pull/2 |theta - w|^2."""
        parts = [(value - self.local[name]).square().sum() for name, value in self.theta.items()]
        return pull / 2 * torch.stack(parts).sum()

    def watching(self, make: Callable[[Iterable[nn.Parameter]], Optimizer], parameters: Any) -> Optimizer:
        """The optimizer, whose steps w follows."""
        optimizer = make(parameters)
        optimizer.register_step_post_hook(lambda *_: self.stepped())
        return optimizer

    def stepped(self) -> None:
        self.num_steps += 1
        if self.num_steps % self.every == 0:
            self.follow()

    def follow(self) -> None:
        self.local = {
            name: torch.lerp(value, self.theta[name].detach(), self.share) for name, value in self.local.items()
        }

    def finish(self) -> dict[str, Tensor]:
        """w at the end of the round: it follows the steps that are left over, too."""
        if self.num_steps % self.every:
            self.follow()
        return self.local
