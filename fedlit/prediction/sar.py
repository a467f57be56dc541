"""SAR: TENT kept stable by sure pixels, flat minima and a way back. Niu et al., ICLR 2023."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from fedlit.data.pictures import Unlabelled
from fedlit.prediction.adaptation import Adaptation, check_adaptation
from fedlit.prediction.base import Learnt, Model, Predictor
from fedlit.prediction.normalisation import tuned_norms, untuned
from fedlit.prediction.unsupervised import entropy


@dataclass(frozen=True)
class SAR(Predictor):
    """Sharpness-aware and reliable entropy minimisation of the global model's norm layers.

    Pixels that it is unsure of do not count; each step goes down the gradient taken where, within `rho`, the entropy is
    largest; and when the entropy has become much smaller than it was, which means that one class swallows all, it goes
    back to where it began. The paper filters pictures, not pixels, takes SGD for Adam, and freezes the last layers. As
    TENT it is for unseen sites, and None where the federation trains no norm layer. Uphill, pixels are chosen anew; the
    released code chooses of those it has chosen before.

    Args:
        margin: largest entropy of a pixel that counts, as a share of the largest possible.
        rho: length of the step uphill, in the norm over all scales and shifts.
        recovery: share of the first entropy; it begins again where the moving average of the entropy uphill falls
            below. (The paper's 0.2 nats is for the 1000 classes of a picture, not for pixels, most of which are sure.)
        adaptation: how long and on what, by default as TENT's. See configs/prediction/sar_online for the paper's.
    """

    margin: float = 0.4
    rho: float = 0.05
    recovery: float = 0.1
    adaptation: Adaptation = field(default_factory=lambda: Adaptation(passes=1))

    is_final: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("unseen",)

    def __post_init__(self) -> None:
        check_adaptation(self.adaptation)
        for name, low, high in (("margin", 0, 1), ("rho", 0, float("inf")), ("recovery", 0, 1)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"SAR: {name}={value!r} is not allowed; use a number from {low} to {high}")

    def remarks(self, learnt: Learnt, images: Unlabelled) -> Iterator[str]:
        return untuned(learnt.resident, self.adaptation.lr)

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        def unsure(model: Model, batch: Tensor, seed: int) -> Tensor:
            each = entropy(model(batch), learnt.num_classes)
            counts = (each < self.margin).to(each.dtype)
            return (each * counts).sum() / counts.sum().clamp_min(1)

        return tuned_norms(
            learnt, images, self.adaptation, unsure, make_step=partial(FlatStep, self.rho, self.recovery)
        )


class FlatStep:
    """A step down the gradient found a step uphill, and back to the first values where the objective collapses.

    It remembers the first values, and the objective uphill, of the steps it has taken.
    """

    def __init__(self, rho: float, recovery: float):
        self.rho, self.recovery = rho, recovery
        self.first: list[Tensor] = []
        self.first_loss = self.average = torch.zeros(())

    def __call__(self, optimizer: Optimizer, objective: Callable[[], Tensor]) -> Tensor:
        parameters = [value for group in optimizer.param_groups for value in group["params"]]
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        before = [value.detach().clone() for value in parameters]
        uphill = [torch.zeros_like(value) if value.grad is None else value.grad for value in parameters]
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(value) for value in uphill]))
        with torch.no_grad():
            torch._foreach_add_(parameters, torch._foreach_mul(uphill, self.rho / (length + 1e-12)))
        optimizer.zero_grad()
        highest = objective()
        highest.backward()
        with torch.no_grad():
            torch._foreach_copy_(parameters, before)
        optimizer.step()
        if not self.first:
            self.first, self.first_loss, self.average = before, highest.detach(), highest.detach()
        self.average = 0.9 * self.average + 0.1 * highest.detach()
        if self.average < self.recovery * self.first_loss:
            with torch.no_grad():
                torch._foreach_copy_(parameters, self.first)
            optimizer.state.clear()  # its moments point to where it came from
            self.average = self.first_loss
        return loss.detach()
