"""FedTHE: heads of members and server mixed anew for each picture. After Jiang and Lin, ICLR 2023."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.optim import Adam

from fedlit.data.pictures import Unlabelled
from fedlit.errors import BadInput
from fedlit.losses import probabilities
from fedlit.messages import Expert
from fedlit.prediction.base import Learnt, Model, Predictor
from fedlit.prediction.features import channel_axis, hooked, observed_layers
from fedlit.prediction.members import alike, own_models
from fedlit.prediction.unsupervised import entropy
from fedlit.resident import Resident
from fedlit.weights import Weights, select


@dataclass(frozen=True)
class FedTHE(Predictor):
    """The logits of several heads on the global model's body, weighted for each picture by what its prediction says.

    The weights are a softmax, equal at first. Adam changes them for each picture alone, so no other picture matters, to
    make lambda * entropy of the mixture + (1 - lambda) * sum_m weight_m distance_m small. Here distance_m is that of
    the picture's features, the input of the last norm layer, from their mean at member m (for the global head from the
    mean of those means), over the mean distance; lambda is how much the heads agree (mean cosine of their probabilities
    with the mean one). The paper mixes a member's own head with the global one at that member and also looks back at
    earlier pictures; here the heads of all members are mixed at an unseen site. A batch costs one forward pass a head.

    Args:
        head: shell patterns of the entries that make the head, which is taken from the members' own models.
        steps: of Adam, for each picture.
        lr: its learning rate.
    """

    head: Sequence[str] = ("head.*",)
    steps: int = 20
    lr: float = 0.1

    is_final: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("unseen",)
    needs = ("weights", "features")

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 0:
            raise ValueError(f"FedTHE: steps={self.steps!r} is not allowed; use a whole number of at least 0")
        if not 0 <= self.lr < float("inf"):
            raise ValueError(f"FedTHE: lr={self.lr!r} is not allowed; use 0 or more")

    def check_network(self, resident: Resident) -> None:
        if not select(resident.parameters, self.head):
            some = ", ".join([*resident.parameters][-3:])
            raise BadInput(
                f"FedTHE: head={list(self.head)} matches none of the trained entries, the last of which are {some}; "
                "name those of the network's last layer"
            )

    def remarks(self, learnt: Learnt, images: Unlabelled) -> Iterator[str]:
        return alike(learnt, select(learnt.resident.parameters, self.head), "in the head")

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        experts = own_models(learnt)
        if learnt.shared is None:
            return None
        self.check_network(learnt.resident)
        own = select(learnt.resident.parameters, self.head)
        observer = learnt.copy(learnt.server.weights)  # whose features members have shared
        network = learnt.copy(learnt.shared) if learnt.kept else observer  # last: it loads what `own` holds
        heads = {expert.client: {name: expert.weights[name] for name in own} for expert in experts}
        heads["global"] = {name: value.detach().clone() for name, value in own.items()}
        return HeadMixture(self, learnt, network, observer, heads, mean_features(experts))


def mean_features(experts: Sequence[Expert]) -> dict[str, Weights]:
    """The features of each member, and as the global model's the mean of all.

    Raises:
        BadInput: a member shares none.
    """
    features = {expert.client: expert.slots.get("features", {}) for expert in experts}
    for name, shared in features.items():
        if not shared:
            raise BadInput(f"{name} shares no statistics of its features: evaluate the run again")
    names = next(iter(features.values()))
    mean = {name: torch.stack([shared[name] for shared in features.values()]).mean(0) for name in names}
    return {**features, "global": mean}


class HeadMixture:
    """A network whose heads are mixed by weights found for each picture; `gates` are those of the last call.

    The `observer` looks at the features, as at the members; another network where members keep entries of their own.
    The global head comes last, so that it is with the server's model that features are seen, also within a head.
    """

    layers = ("head",)

    def __init__(
        self,
        plan: FedTHE,
        learnt: Learnt,
        network: nn.Module,
        observer: nn.Module,
        heads: Mapping[str, Weights],
        features: Mapping[str, Weights],
    ):
        self.plan, self.observer, self.heads, self.features = plan, observer, heads, features
        self.model, self.num_classes, self.members = learnt.lend(network), learnt.num_classes, (*heads,)
        self.observe = learnt.lend(observer) if observer is not network else None
        self.entries = dict(network.named_parameters())
        self.gates = torch.empty(0, 1, len(heads))

    def __call__(self, images: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            images = images.clone()  # what comes from inference mode could not be part of a backward pass
            with last_input(self.observer) as seen:
                if self.observe is not None:
                    self.observe(images)
                logits = torch.stack([self._through(head, images) for head in self.heads.values()])
            distances = self._distances(seen, len(images))
            with torch.enable_grad():
                weights = self._weigh(logits, distances)
            self.gates = weights.T[:, None]
            return mixed_logits(logits, weights)

    def _through(self, head: Weights, images: Tensor) -> Tensor:
        for name, value in head.items():
            self.entries[name].copy_(value)
        return self.model(images)

    def _distances(self, seen: Sequence[Any], num: int) -> Tensor:
        """How far the pictures' features are from each head's [heads, B], relative to the mean over heads."""
        layer, values, axis = seen
        means = values.float().movedim(axis, -1).reshape(num, -1, values.shape[axis]).mean(1)
        there = torch.stack([self.features[name][f"{layer}.mean"] for name in self.heads]).to(means)
        variance = torch.stack([self.features[name][f"{layer}.std"] for name in self.heads]).to(means).square().mean(0)
        far = ((means - there[:, None]) ** 2 / torch.where(variance > 0, variance, 1)).mean(-1)
        return far / far.mean(0).clamp_min(torch.finfo(far.dtype).tiny)

    def _weigh(self, logits: Tensor, distances: Tensor) -> Tensor:
        """The weights of the heads [heads, B]; those of a picture depend on it alone."""
        planes = probabilities(logits.flatten(0, 1), self.num_classes).unflatten(0, logits.shape[:2]).flatten(2)
        agreement = cosine_similarity(planes, planes.mean(0, keepdim=True), dim=2).mean(0)
        scores = torch.zeros_like(distances, requires_grad=True)
        optimizer = Adam([scores], lr=self.plan.lr)
        for _ in range(self.plan.steps):
            weights = scores.softmax(0)
            unsure = entropy(mixed_logits(logits, weights), self.num_classes).mean((1, 2))
            loss = agreement * unsure + (1 - agreement) * (weights * distances).sum(0)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
        return scores.detach().softmax(0)


def mixed_logits(logits: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum [B, C, H, W] of logits [heads, B, C, H, W] with weights [heads, B]."""
    return torch.einsum("mbchw,mb->bchw", logits, weights.to(logits.dtype))


@contextmanager
def last_input(network: nn.Module) -> Iterator[list[Any]]:
    """While this lasts, what went last into the last layer that `feature_statistics` looks at: name, values, axis."""
    seen: list[Any] = []

    def keep(name: str, layer: nn.Module, values: Tensor) -> None:
        seen[:] = [name, values, channel_axis(layer)]

    with hooked(observed_layers(network), keep):
        yield seen
