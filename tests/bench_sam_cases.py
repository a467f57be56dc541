"""What `tests.bench_sam` measures: the same SAM computed in several ways, and segment_anything's own.

`python -m tests.bench_sam_cases WHAT CASE`: figures of one case as JSON, in a process of its own, as the peak of its
memory never falls.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedlit import hardware
from fedlit.networks.sam import SAM
from fedlit.networks.sam_architecture import MEAN, STD
from fedlit.networks.tuning import Adapters, DecoderOnly, Tuning


@dataclass(frozen=True)
class Case:
    """A SAM with random weights and how it is computed; `pixels` is the side of its pictures."""

    attention: str = "auto"
    precision: str = "fp32"
    recompute: bool = False
    cache: str | None = None
    size: str = "vit_b"
    pixels: int = 1024
    batch: int = 1
    device: str = "cpu"

    def network(self, tuning: Tuning) -> SAM:
        """The same weights however it is computed; also what starts at zero is drawn, as zeros would hide errors."""
        torch.manual_seed(0)
        network = SAM(
            size=self.size, tuning=tuning, attention=self.attention, recompute=self.recompute, cache=self.cache
        )
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        return network.to(self.device)

    def batches(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Images [B, 3, H, W] and targets [B, 1, H, W]."""
        torch.manual_seed(1)
        images = torch.rand(count, self.batch, 3, self.pixels, self.pixels).to(self.device)
        return [(image, (image[:, :1] > 0.5).float()) for image in images]

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")


def forward(case: Case) -> Callable[[], Tensor]:
    """Computes logits without a gradient, as often as it is called."""
    network, [(image, _)] = case.network(Adapters()), case.batches(1)

    def compute() -> Tensor:
        with torch.no_grad(), case.autocast():
            logits = network(image)
        finish(case.device)
        return logits

    return compute


def training(case: Case, tuning: Tuning | None = None, *, num_steps: int = 1) -> Callable[[], float]:
    """Trains on the same batches whenever it is called, and tells the last loss: Adam, binary cross-entropy.

    Args:
        case: what is trained.
        tuning: adapters in all blocks by default.
        num_steps: batches.
    """
    network, batches = case.network(tuning or Adapters()), case.batches(num_steps)
    optimizer = torch.optim.Adam([value for value in network.parameters() if value.requires_grad])

    def epoch() -> float:
        for image, target in batches:
            optimizer.zero_grad()
            with case.autocast():
                logits = network(image)
            loss = F.binary_cross_entropy_with_logits(logits.float(), target)
            loss.backward()
            optimizer.step()
        finish(case.device)
        return loss.item()

    return epoch


def finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def originals(network: SAM, image: Tensor) -> Tensor:
    """Logits by segment_anything's own forward passes: of its encoder, and of its mask decoder with no prompt.

    Only its position table is resampled here, as its encoder takes one size of pictures.
    """
    encoder, size = network.image_encoder, image.shape[-1] // network.patch_size
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    places = F.interpolate(encoder.pos_embed.permute(0, 3, 1, 2), (size, size), mode="bicubic", align_corners=False)
    encoder.pos_embed = nn.Parameter(places.permute(0, 2, 3, 1))
    masks, _ = network.mask_decoder(
        image_embeddings=encoder((255 * image - mean) / std),
        image_pe=network.prompt_encoder.pe_layer((size, size))[None],
        sparse_prompt_embeddings=torch.empty(1, 0, network.mask_decoder.transformer_dim),
        dense_prompt_embeddings=torch.zeros(()),
        multimask_output=False,
    )
    return F.interpolate(masks, image.shape[-2:], mode="bilinear", align_corners=False)


def differences(case: Case) -> dict[str, float]:
    """The largest difference of the logits of one picture from segment_anything's own, and the largest logit."""
    [(image, _)] = case.batches(1)
    stock = replace(case, attention="stock").network(DecoderOnly())
    with torch.no_grad():
        found = {"stock": stock(image), case.attention: case.network(DecoderOnly())(image)}
        own = originals(stock, image)
    return {"logit": own.abs().max().item(), **{way: (own - one).abs().max().item() for way, one in found.items()}}


def peak(case: Case) -> dict[str, float]:
    """GB that two training steps take at most: with the whole process, and without what is there before them."""
    epoch = training(case)
    before = memory("VmRSS")
    for _ in range(2):
        epoch()
    return {"whole": memory("VmHWM"), "steps": memory("VmHWM") - before}


def memory(kind: str) -> float:
    """GB of this process: VmRSS now, VmHWM at most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return float(line.split()[1]) * 1024 / 1e9


def alone(measure: Callable[[Any], Any], case: Any) -> Any:
    """What a measure of a module that ends in `measure_one` finds out about a case, in a process of its own."""
    command = [sys.executable, "-m", measure.__module__, measure.__name__, json.dumps(asdict(case))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_one(kind: type, **measures: Callable[[Any], Any]) -> None:
    """Print what the measure named by the command line finds out about its case."""
    what, case = sys.argv[1], kind(**json.loads(sys.argv[2]))
    if case.device == "cpu":  # with more than is free, the system would end some process
        free = 1024 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
        resource.setrlimit(resource.RLIMIT_DATA, (free, free))
    hardware.keep_freed_memory()
    print(json.dumps(measures[what](case)))


if __name__ == "__main__":
    measure_one(Case, peak=peak)
