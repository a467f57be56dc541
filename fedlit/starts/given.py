"""Given: the first model comes from a file, or is the teacher itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from fedlit.data.site import Site
from fedlit.errors import BadInput
from fedlit.messages import Server
from fedlit.starts.base import Start, Study
from fedlit.teachers.teacher import SAMTeacher
from fedlit.units import megabytes
from fedlit.weights import Weights, load, num_bytes


@dataclass(frozen=True)
class Given(Start):
    """The weights of a file: `initial.safetensors` of a run, or a model that `fedlit export` wrote.

    Args:
        path: the file; it has every entry that the network shares, and may have others.
    """

    path: str = ""
    num_rounds: int = 0

    def study(self, site: Site, classes: tuple[str, ...], device: torch.device, seed: int) -> Study:
        return Study(site, {"file": Path(self.path).name})

    def begin(self, server: Server, device: torch.device) -> Server:
        weights, _ = load(Path(self.path))
        return replace(server, weights=fitting(server.weights, weights, self.path))


@dataclass(frozen=True)
class TeacherWeights(Start):
    """The teacher's own weights: what Li and Yang (ISBI 2024) found too heavy to send. The network is a SAM like it."""

    teacher: SAMTeacher = field(default_factory=SAMTeacher)
    num_rounds: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.teacher, SAMTeacher):
            raise ValueError(
                f"teacher={self.teacher!r} is no SAM; give a node with _target_: fedlit.teachers.SAMTeacher"
            )

    def study(self, site: Site, classes: tuple[str, ...], device: torch.device, seed: int) -> Study:
        return Study(site)

    def begin(self, server: Server, device: torch.device) -> Server:
        own = {name: value.cpu() for name, value in self.teacher.open(device).state().items()}
        return replace(server, weights=fitting(server.weights, own, f"the teacher, {self.teacher.size},"))


def fitting(wanted: Weights, found: Weights, whose: str) -> dict[str, Tensor]:
    """The wanted entries, as they were found.

    Raises:
        BadInput: one is missing or has another shape.
    """
    odd = [name for name, value in wanted.items() if name not in found or found[name].shape != value.shape]
    if odd:
        raise BadInput(
            f"{whose} does not fit the network: {len(odd)} of its {len(wanted)} shared entries "
            f"({megabytes(num_bytes(wanted))}) are missing there or have another shape, such as {odd[0]}"
        )
    return {name: found[name].to(value.dtype) for name, value in wanted.items()}
