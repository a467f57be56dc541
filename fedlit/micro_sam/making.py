"""Makes a teacher in a folder: its weights, and beside them how they were made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console

from fedlit import weights
from fedlit.files import write_json
from fedlit.micro_sam.pretraining import Learner, Pretraining, pretrain
from fedlit.networks.sam_checkpoint import file_sha256
from fedlit.stopping import heeding_signals
from fedlit.units import duration, megabytes

WEIGHTS, ORIGIN = "micro_sam.safetensors", "micro_sam.json"
EVERY = 50  # steps between two lines, and of a mean loss in the log
PACKAGES = ("torch", "numpy", "scipy", "pillow", "segment-anything")


def make_teacher(folder: Path, settings: Pretraining, console: Console) -> Path:
    """Pretrain a micro SAM and write `micro_sam.safetensors` (official names) and `micro_sam.json` into a folder.

    The same call goes on with a run that was interrupted.

    Raises:
        BadInput: the folder holds a checkpoint that cannot be used.
        Stopped: SIGTERM or SIGUSR1 asked for it; all is saved.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with heeding_signals():
        learner = pretrain(folder, settings, _teller(settings, console))
    path = folder / WEIGHTS
    weights.save(path, learner.average)
    write_json(folder / ORIGIN, origin(path, learner, settings))
    console.print(f"{path}: {megabytes(path.stat().st_size)}, sha256 {file_sha256(path)}", soft_wrap=True)
    return path


def origin(path: Path, learner: Learner, settings: Pretraining) -> dict:
    """What a reader needs to know, or to make the file again."""
    means = [sum(part) / len(part) for part in _parts(learner.losses)]
    return {
        "file": path.name,
        "sha256": file_sha256(path),
        "bytes": path.stat().st_size,
        "parameters": sum(value.numel() for value in learner.average.values()),
        "what": "SAM micro, moving average of the weights, fp32, under the names of package segment-anything",
        "learnt_from": "pictures drawn by fedlit.micro_sam.scenes; no real picture",
        "command": f"fedlit pretrain-teacher OUT --steps {settings.steps} --seed {settings.seed}",
        "settings": asdict(settings),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in PACKAGES},
        f"loss_of_each_{EVERY}_steps": [round(mean, 4) for mean in means],
    }


def _parts(losses: list[float]) -> list[list[float]]:
    return [losses[start : start + EVERY] for start in range(0, len(losses), EVERY)]


def _teller(settings: Pretraining, console: Console) -> Callable[[Learner], None]:
    """Says where the training stands: a line every EVERY steps, and how long the rest will take."""
    began: list[tuple[float, int]] = []

    def tell(learner: Learner) -> None:
        if not began:
            began.append((time.monotonic(), learner.step))
        if learner.step % EVERY and learner.step != settings.steps:
            return
        since, first = began[0]
        pace = (time.monotonic() - since) / max(1, learner.step - first)
        loss = sum(learner.losses[-EVERY:]) / len(learner.losses[-EVERY:])
        rest = duration(pace * (settings.steps - learner.step))
        console.print(f"step {learner.step} of {settings.steps} | loss {loss:.3f} | {rest} left", highlight=False)

    return tell
