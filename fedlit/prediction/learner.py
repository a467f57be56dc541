"""A network while it adapts to unlabelled pictures: what of it is trained, and how it takes a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from fedlit.data.pictures import Case, Unlabelled
from fedlit.errors import BadInput, ClientFailed
from fedlit.prediction.base import Learnt, Model
from fedlit.seeding import address
from fedlit.training import reseed

Objective = Callable[[Model, Tensor, int], Tensor]
"""(model, images [B, C, H, W], seed) -> a scalar to be made small; what is drawn in it comes from the seed."""

Step = Callable[[Optimizer, Callable[[], Tensor]], Tensor]
"""One step of an optimizer; the second argument computes the objective anew. Returns the objective before the step."""


def descend(optimizer: Optimizer, objective: Callable[[], Tensor]) -> Tensor:
    """The plain step: down the gradient."""
    optimizer.zero_grad()
    loss = objective()
    loss.backward()
    optimizer.step()
    return loss.detach()


class Learner:
    """A network while it adapts: what of it is trained, the first values of that, and an optimizer.

    Args:
        make_step: makes what takes a step; called again where adaptation begins again, so that nothing is remembered.
    """

    def __init__(
        self, learnt: Learnt, network: nn.Module, objective: Objective, make_step: Callable[[], Step], lr: float
    ):
        self.learnt, self.network, self.objective, self.lr = learnt, network, objective, lr
        self.make_step, self.step = make_step, make_step()
        self.parameters = [value for value in network.parameters() if value.requires_grad]
        assert self.parameters, "nothing to adapt: no parameter of the network requires a gradient"
        self.training = [module for module in network.modules() if module.training]
        network.eval()
        self.model = learnt.lend(network)
        self.first = self.values()
        self.optimizer = Adam(self.parameters, lr=lr)
        self.losses: list[Tensor] = []

    def seed(self, *parts: int | str) -> int:
        return address(self.learnt.seed, self.learnt.site, "adapt", *parts)

    def values(self) -> list[Tensor]:
        return [value.detach().clone() for value in self.parameters]

    def put(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_([*self.parameters], [*values])

    def begin_again(self) -> None:
        self.put(self.first)
        self.optimizer, self.step = Adam(self.parameters, lr=self.lr), self.make_step()

    def learn(self, images: Tensor, seed: int) -> None:
        """One step on a batch."""
        self._set_training(True)
        with torch.enable_grad():
            self.losses.append(self.step(self.optimizer, lambda: self._objective(images, seed)))
        self.optimizer.zero_grad()
        self._set_training(False)

    @torch.no_grad()
    def measure(self, images: Tensor, seed: int) -> float:
        """The objective on a batch, in evaluation mode."""
        return float(self._objective(images, seed))

    def check(self, number: int) -> None:
        """Raises ClientFailed where the objective of a step since the last check was NaN or Inf."""
        if self.losses and not torch.stack(self.losses).isfinite().all():
            raise ClientFailed(
                f"{self.learnt.site}: the objective of adaptation is NaN or Inf in pass {number}; lower adaptation.lr"
            )
        self.losses.clear()

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        return self.model(images)

    def _objective(self, images: Tensor, seed: int) -> Tensor:
        device = self.parameters[0].device
        reseed(seed, device)
        return self.objective(self.model, images.to(device), seed)

    def _set_training(self, is_training: bool) -> None:
        for module in self.training:
            module.training = is_training


def pictures_of(learnt: Learnt, images: Unlabelled | None) -> Unlabelled:
    """Raises BadInput where there are none, or such as the network does not take."""
    if images is None or not len(images):
        raise BadInput(
            f"{learnt.site or 'this model'}: what adapts to a site needs the site's pictures, and there are none; give "
            "them (fedlit predict RUN IMAGES --model NAME), or use global"
        )
    learnt.check_pictures(images)
    return images


def batches(
    images: Unlabelled, size: int, *, cases: Sequence[Case] | None = None, seed: int | None = None
) -> list[list[int]]:
    """Indices of at most `size` pictures at once, in the order of their cases' ids or shuffled by a seed.

    Batches are about equally large, since statistics of a last one of one picture are poor. Pictures of different sizes
    come one case at a time.
    """
    cases = sorted(images.cases if cases is None else cases, key=lambda case: case.id)
    stacks = [list(case.indices) for case in cases]
    if images.size is not None:
        stacks = [[index for stack in stacks for index in stack]]
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        stacks = [stacks[place] for place in torch.randperm(len(stacks), generator=generator).tolist()]
        stacks = [
            [stack[place] for place in torch.randperm(len(stack), generator=generator).tolist()] for stack in stacks
        ]
    parts = []
    for stack in stacks:
        count = math.ceil(len(stack) / size)
        parts += [stack[place * len(stack) // count : (place + 1) * len(stack) // count] for place in range(count)]
    return parts
