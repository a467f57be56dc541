"""How a network adapts to a site's unlabelled pictures: over all of them, or batch after batch as they come."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedlit.data.pictures import Case, Unlabelled
from fedlit.errors import BadInput
from fedlit.prediction.base import Learnt, Model
from fedlit.prediction.learner import Learner, Objective, Step, batches, descend, pictures_of


@dataclass(frozen=True)
class Adaptation:
    """How much, on what and with what a network adapts.

    Args:
        protocol: `transductive`: on all pictures of the site, in an order drawn anew for each pass, and then it
            predicts; the order in which they are given is irrelevant. `online`: each batch as it comes to be predicted.
        passes: over the pictures, or over each batch that comes; 0 adapts nothing.
        max_steps: batches in all (transductive) after which it stops, also within a pass; None for all passes.
        lr: learning rate of Adam.
        batch_size: pictures at once while it adapts (transductive); None for that of prediction.
        predict: (online) a batch `before` or `after` it was adapted to.
        state: (online) `carried` from batch to batch, or `reset` before each.
        held_back: share of the cases (transductive) that it does not adapt on. The objective on them is measured before
            the first and after every pass, and what made it smallest is kept.
        patience: passes without a smaller objective on the held-back cases after which it stops.

    Raises:
        ValueError: an argument is not allowed.
    """

    protocol: Literal["transductive", "online"] = "transductive"
    passes: int = 10
    max_steps: int | None = None
    lr: float = 1e-3
    batch_size: int | None = None
    predict: Literal["before", "after"] = "after"
    state: Literal["carried", "reset"] = "carried"
    held_back: float = 0.0
    patience: int = 2

    def __post_init__(self) -> None:
        choices = {
            "protocol": ("transductive", "online"),
            "predict": ("before", "after"),
            "state": ("carried", "reset"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed; use one of {', '.join(allowed)}")
        least = {"passes": 0, "max_steps": 1, "batch_size": 1, "patience": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < smallest):
                raise ValueError(f"{name}={value!r} is not allowed; use a whole number of at least {smallest}")
        if not 0 <= self.lr < math.inf:
            raise ValueError(f"lr={self.lr!r} is not allowed; use 0 or more")
        if not 0 <= self.held_back < 1:
            raise ValueError(f"held_back={self.held_back!r} is not allowed; use a share of at least 0 and below 1")
        if self.protocol == "online" and self.held_back:
            raise ValueError("held_back needs the whole set of pictures; use protocol=transductive or held_back=0")
        if self.protocol == "online" and self.max_steps is not None:
            raise ValueError(f"max_steps={self.max_steps}: online, each batch has its passes; set it to null")
        if self.protocol == "online" and self.batch_size is not None:
            raise ValueError(f"batch_size={self.batch_size}: online, batches are those of prediction; set it to null")
        if self.protocol == "transductive" and (self.predict, self.state) != ("after", "carried"):
            raise ValueError(f"predict={self.predict} and state={self.state} are choices of protocol=online")
        if (self.predict, self.state) == ("before", "reset"):
            raise ValueError("predict=before with state=reset adapts for nothing; use predict=after or state=carried")

    def adapt(
        self,
        learnt: Learnt,
        network: nn.Module,
        images: Unlabelled | None,
        objective: Objective,
        *,
        make_step: Callable[[], Step] = lambda: descend,
    ) -> Model:
        """The model that `network` becomes: its parameters that require a gradient are trained, in place.

        Modules of the network that are in training mode are so while it adapts (dropout draws from addressed seeds);
        all are in evaluation mode when it predicts. Online, it adapts at each call, also in inference mode.

        Raises:
            BadInput: there are no pictures, or too few to hold some back.
            ClientFailed: the objective is NaN or Inf.
        """
        images = pictures_of(learnt, images)
        with torch.inference_mode(False):
            learner = Learner(learnt, network, objective, make_step, self.lr)
            if self.protocol == "online":
                return _Online(self, learner)
            self._adapt_to_all(learner, images)
        return learner.predict

    def _adapt_to_all(self, learner: Learner, images: Unlabelled) -> None:
        size = self.batch_size or learner.learnt.batch_size
        cases, held_back = self._divide(learner, images)
        held = batches(images, size, cases=held_back)
        best, kept, since = math.inf, learner.first, 0
        left = sys.maxsize if self.max_steps is None else self.max_steps
        for number in range(self.passes + 1):
            if not left:
                break
            if number > 0:
                parts = batches(images, size, cases=cases, seed=learner.seed(number, "order"))[:left]
                for place, batch in enumerate(parts):
                    learner.learn(images.images(batch), learner.seed(number, place))
                learner.check(number)
                left -= len(parts)
            if not held:
                continue
            losses = [
                learner.measure(images.images(batch), learner.seed("held", place)) * len(batch)
                for place, batch in enumerate(held)
            ]
            since += 1
            if math.fsum(losses) < best:
                best, kept, since = math.fsum(losses), learner.values(), 0
            if since == self.patience:
                break
        if held:
            learner.put(kept)

    def _divide(self, learner: Learner, images: Unlabelled) -> tuple[list[Case], list[Case]]:
        """The cases to adapt on, and those held back."""
        cases = sorted(images.cases, key=lambda case: case.id)
        if not self.held_back:
            return cases, []
        if len(cases) < 2:
            raise BadInput(
                f"{learner.learnt.site}: adaptation.held_back={self.held_back} needs at least 2 cases, and there is "
                "one; set it to 0"
            )
        count = min(len(cases) - 1, max(1, round(self.held_back * len(cases))))
        order = torch.randperm(len(cases), generator=torch.Generator().manual_seed(learner.seed("divide"))).tolist()
        return [cases[place] for place in sorted(order[count:])], [cases[place] for place in sorted(order[:count])]


def check_adaptation(value: object) -> None:
    """Raises ValueError where a predictor's `adaptation` is a mapping that nothing was made of."""
    if not isinstance(value, Adaptation):
        raise ValueError(f"adaptation={value!r} names no class; add _target_: fedlit.prediction.Adaptation to it")


class _Online:
    """A model that adapts to each batch that it predicts."""

    def __init__(self, plan: Adaptation, learner: Learner):
        self.plan, self.learner, self.num_calls = plan, learner, 0

    def __call__(self, images: Tensor) -> Tensor:
        if self.plan.state == "reset":
            with torch.inference_mode(False):
                self.learner.begin_again()
        if self.plan.predict == "before":
            logits = self.learner.predict(images)
            self._adapt_to(images)
            return logits
        self._adapt_to(images)
        return self.learner.predict(images)

    def _adapt_to(self, images: Tensor) -> None:
        # with `reset`, a batch is predicted the same whatever came before it
        call = 0 if self.plan.state == "reset" else self.num_calls
        self.num_calls += 1
        with torch.inference_mode(False):
            images = images.clone()  # an inference tensor could not be part of a backward pass
            for number in range(self.plan.passes):
                self.learner.learn(images, self.learner.seed("online", call, number))
            self.learner.check(self.plan.passes)
