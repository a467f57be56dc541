"""Pretrains the micro SAM on drawn pictures; interrupted, it goes on where it was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fedlit import stopping, weights
from fedlit.errors import BadInput, Stopped
from fedlit.micro_sam.batches import Batch, Batches
from fedlit.micro_sam.objective import objective
from fedlit.networks.prompting import prompted
from fedlit.networks.sam import SAM
from fedlit.seeding import address

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Pretraining:
    """How the micro SAM is trained; two runs with equal settings give the same weights on the same kind of machine.

    Args:
        steps: of the optimizer (AdamW); the learning rate rises over `warmup` steps to `lr`, then falls as a cosine.
        seed: of the pictures, prompts and first weights.
        batch_size: pictures of a step.
        num_prompts: of a picture.
        memory: of the moving average of the weights, which is what is kept; shorter in the first steps.
    """

    steps: int = 3000
    seed: int = 0
    batch_size: int = 12
    num_prompts: int = 3
    lr: float = 1.5e-3
    warmup: int = 150
    weight_decay: float = 0.02
    memory: float = 0.997

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))

    def kept(self, step: int) -> float:
        """How much of the moving average a step keeps."""
        return min(self.memory, (1 + step) / (10 + step))


@dataclass
class Learner:
    """A SAM in training: its weights, their moving average, the optimizer, the steps done and their losses."""

    sam: SAM
    average: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    step: int = 0
    losses: list[float] = field(default_factory=list)

    @classmethod
    def fresh(cls, settings: Pretraining) -> Learner:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(address(settings.seed, "first weights"))
            # at 16 x 16 tokens the original attention is the fastest on a CPU
            sam = SAM(1, 1, size="micro", attention="stock").requires_grad_(True)
        sam.prompt_encoder.pe_layer.requires_grad_(False)  # frequencies that SAM never trains
        average = {name: value.detach().clone() for name, value in sam.state_dict().items()}
        trained = [value for value in sam.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(trained, settings.lr, (0.9, 0.98), weight_decay=settings.weight_decay)
        return cls(sam, average, optimizer)

    def learn(self, batch: Batch, settings: Pretraining) -> None:
        """One step."""
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(self.step)
        with torch.autocast("cpu", torch.bfloat16):
            found = prompted(self.sam, batch.image, boxes=batch.boxes, points=batch.points, labels=batch.labels)
        loss = objective(found, batch.masks)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.sam.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for name, value in self.sam.state_dict().items():
                self.average[name].lerp_(value, 1 - settings.kept(self.step))
        self.step += 1
        self.losses.append(round(loss.item(), 4))

    def save(self, folder: Path, settings: Pretraining) -> None:
        state = {f"weights/{name}": value for name, value in self.sam.state_dict().items()}
        state |= {f"average/{name}": value for name, value in self.average.items()}
        for number, entries in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{number}/{entry}": value for entry, value in entries.items()}
        weights.save(
            folder / CHECKPOINT, state, {"step": self.step, "settings": asdict(settings), "losses": self.losses}
        )

    def restore(self, folder: Path, settings: Pretraining) -> None:
        """Go on from what `save` wrote.

        Raises:
            BadInput: damaged, or of other settings.
        """
        path = folder / CHECKPOINT
        try:
            state, header = weights.load(path)
        except BadInput as error:
            raise BadInput(f"{error}; remove it to start anew") from None
        before, now = header.get("settings", {}), asdict(settings)
        if changed := [name for name in now if before.get(name) != now[name]]:
            was, given = (", ".join(f"{name}={each.get(name)}" for name in changed) for each in (before, now))
            raise BadInput(f"{path} was made with {was}, not {given}; give that again to go on, or another OUT")
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}, "optimizer": {}}
        for name, value in state.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = value
        self.sam.load_state_dict(parts["weights"])
        self.average = {name: parts["average"][name].clone() for name in self.average}
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            number, entry = name.split("/")
            entries.setdefault(int(number), {})[entry] = value.clone()
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": entries})
        self.step, self.losses = header["step"], header["losses"]


def pretrain(
    folder: Path,
    settings: Pretraining,
    tell: Callable[[Learner], None] = lambda learner: None,
    *,
    num_workers: int = 1,
    minutes: float = 3.0,
) -> Learner:
    """Train to the end, or on to the end where `folder` holds the checkpoint of an interrupted run.

    Args:
        tell: is called after each step.
        num_workers: processes that draw; the result does not depend on them.
        minutes: between two checkpoints.

    Raises:
        BadInput: the checkpoint cannot be used.
        Stopped: a signal asked for it (see `stopping`); all is saved.
    """
    learner = Learner.fresh(settings)
    if (folder / CHECKPOINT).exists():
        learner.restore(folder, settings)
    saved = time.monotonic()
    for batch in _drawn(settings, learner.step, num_workers):
        learner.learn(batch, settings)
        tell(learner)
        is_asked = bool(stopping.asked()) and learner.step < settings.steps
        if is_asked or time.monotonic() - saved > 60 * minutes or learner.step == settings.steps:
            learner.save(folder, settings)
            saved = time.monotonic()
        if is_asked:
            raise Stopped(f"asked to stop after step {learner.step} of {settings.steps}")
    return learner


def _drawn(settings: Pretraining, start: int, num_workers: int) -> Iterator[Batch]:
    return iter(
        DataLoader(
            Batches(settings.seed, settings.batch_size, settings.num_prompts),
            batch_size=None,
            sampler=range(start, settings.steps),
            num_workers=num_workers,
            prefetch_factor=4 if num_workers else None,
            multiprocessing_context="forkserver" if num_workers else None,  # forking beside threads can hang
        )
    )
