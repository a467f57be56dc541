"""Distillation: a foundation model at the server teaches the first model. Li and Yang, ISBI 2024.

The paper's prompts, loss and schedule are not known: this is a derivation of our own from its idea."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from fedlit.client import Client
from fedlit.data.augmentation import Augmentation
from fedlit.data.pictures import Pictures
from fedlit.data.site import Site
from fedlit.errors import BadInput
from fedlit.messages import Broadcast, Server, Slots, Update
from fedlit.seeding import address
from fedlit.starts.base import Start, Study
from fedlit.starts.matching import Matching
from fedlit.teachers.lessons import Lessons, confidence, taught
from fedlit.teachers.teacher import SAMTeacher, Teacher
from fedlit.training import Batch


@dataclass(frozen=True)
class Distillation(Start):
    """loss(f(x), sigmoid(logit of the teacher / temperature)): the clients' own loss, with soft labels.

    Args:
        teacher: who teaches.
        temperature: above 1 softens what the teacher says.
        least_confidence: pictures of which the teacher is less sure, in any class, are left out.
        weigh: pictures count by the teacher's confidence.
        labelled: share of the server's pictures that are taught by their own masks instead.
        augment: transforms of picture and lesson together (albumentations), as `data.augment`.
        features: weight of the distance between the student's features and the teacher's embedding; see `Matching`.
        bottleneck: the module of the student whose output those features are.
    """

    teacher: Teacher = field(default_factory=SAMTeacher)
    temperature: float = 1.0
    least_confidence: float = 0.5
    weigh: bool = False
    labelled: float = 0.0
    augment: tuple = ()
    features: float = 0.0
    bottleneck: str = "dropout"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.teacher, Teacher):
            raise ValueError(f"teacher={self.teacher!r} is none; give a node with _target_, such as SAMTeacher's")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature!r} is not allowed; use a number above 0")
        if self.features and not isinstance(self.teacher, SAMTeacher):
            raise ValueError(f"features={self.features!r}: only a SAM has an embedding to match; use features=0")
        for key in ("least_confidence", "labelled"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key}={getattr(self, key)!r} is not allowed; use a share from 0 to 1")

    def study(self, site: Site, classes: tuple[str, ...], device: torch.device, seed: int) -> Study:
        try:
            teacher = replace(self.teacher, prompts=self.teacher.prompts.for_classes(classes))
        except ValueError as error:
            raise BadInput(f"start.teacher.prompts: {error}") from None
        train, report = self._lessons(teacher, site.train, device, address(seed, site.seed_name, "train"))
        if not len(train):
            raise BadInput(
                f"start: the teacher is sure of none of the {len(site.train)} pictures of {site.name} (of the surest "
                f"{report['surest']:.2f}); lower start.least_confidence={self.least_confidence}, or give other prompts"
            )
        val, _ = self._lessons(teacher, site.val, device, address(seed, site.seed_name, "val"))
        augmentation = Augmentation(self.augment) if self.augment else site.train.augmentation
        train = replace(train, augmentation=augmentation)
        # lessons stand in for pictures wherever a client trains
        return Study(replace(site, train=cast(Pictures, train), val=cast(Pictures, val)), report)

    def objective(self, client: Client, network: nn.Module, batch: Batch) -> Tensor:
        image = batch["image"].to(client.device, memory_format=client.memory_format)
        logits, weights = network(image), batch["weight"].tolist()
        target = soft(batch["target"].to(client.device), self.temperature)
        if logits.shape[1] > target.shape[1]:  # softmax: classes and background share each pixel
            target = target / target.sum(1, keepdim=True).clamp(min=1)
        if set(weights) == {1.0}:
            return client.loss(logits, target)
        losses = [client.loss(logits[place : place + 1], target[place : place + 1]) for place in range(len(target))]
        return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).mean()

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        if not self.features:
            return super().local_update(client, broadcast)
        assert isinstance(self.teacher, SAMTeacher)
        client.load(broadcast.weights)
        matching = Matching(client, self.teacher, self.bottleneck)

        def objective(network: nn.Module, batch: Batch) -> Tensor:
            with matching.watching():
                loss = self.objective(client, network, batch)
            return loss + self.features * matching.distance(batch["image"].to(client.device))

        client.fit(broadcast.round, objective=objective, correct=matching.step)
        return client.update(), {**client.memory, **matching.memory()}

    def begin(self, server: Server, device: torch.device) -> Server:
        """A student that is a SAM like its teacher begins with the teacher's weights."""
        if not isinstance(self.teacher, SAMTeacher) or not any(
            name.startswith("mask_decoder.") for name in server.weights
        ):
            return server
        own = {name: value.cpu() for name, value in self.teacher.open(device).state().items()}
        fits = {
            name: own[name] for name, value in server.weights.items() if name in own and own[name].shape == value.shape
        }
        return replace(server, weights={**server.weights, **fits})

    def _lessons(self, teacher: Teacher, pictures: Pictures, device: torch.device, seed: int) -> tuple[Lessons, dict]:
        labelled = [
            index for index in range(len(pictures)) if address(seed, "labelled", index) % 10**6 < 1e6 * self.labelled
        ]
        files = taught(teacher, pictures, device=device, seed=seed, labelled=labelled)
        sure = [float(confidence(file).min()) for file in files]
        chosen = [index for index, value in enumerate(sure) if value >= self.least_confidence]
        counts = [sure[index] if self.weigh else 1.0 for index in chosen]
        weights = [count * len(counts) / sum(counts) if sum(counts) else 1.0 for count in counts]
        report = {
            "pictures": len(chosen),
            "left_out": len(pictures) - len(chosen),
            "labelled": len(labelled),
            "surest": max(sure, default=0.0),
        }
        return Lessons(pictures, files, chosen, weights), report


def soft(shares: Tensor, temperature: float) -> Tensor:
    """sigmoid(logit / temperature); what is certain stays 0 or 1."""
    return shares if temperature == 1 else (shares.logit() / temperature).sigmoid()
