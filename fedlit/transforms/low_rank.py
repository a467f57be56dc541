"""Low rank: a matrix of changes as a product of two thin ones, as in PowerSGD. Vogels et al., NeurIPS 2019."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from fedlit.seeding import address
from fedlit.transforms.base import Compression
from fedlit.weights import Weights

LEFT, RIGHT = "/left", "/right"


@dataclass(frozen=True)
class LowRank(Compression):
    """M [n, m] ~ P Q^T, P [n, rank] orthonormal, Q = M^T P [m, rank]; P from power iterations on a random start.

    A convolution's kernel is a matrix of one row for each output channel. Tensors for which this saves nothing, such
    as biases, are sent as they are. PowerSGD starts from the last Q and takes one iteration; a start drawn anew needs
    no memory at a client that takes part now and then, and two iterations make up for it.

    Args:
        rank: columns of P and Q, 1 or more.
        num_iterations: 1 or more.
    """

    stage: ClassVar[str] = "compression"

    rank: int = 4
    num_iterations: int = 2

    def __post_init__(self) -> None:
        for name in ("rank", "num_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed; use 1 or more")

    def encode(self, changes: Weights, seed: int) -> dict[str, Tensor]:
        sent = {}
        for name, value in changes.items():
            if self._saves(value):
                sent[name + LEFT], sent[name + RIGHT] = self._factors(value, address(seed, name))
            else:
                sent[name] = value
        return sent

    def decode(self, sent: Weights, like: Weights) -> dict[str, Tensor]:
        return {
            name: (sent[name + LEFT] @ sent[name + RIGHT].T).reshape(value.shape).to(value.dtype)
            if name + LEFT in sent
            else sent[name]
            for name, value in like.items()
        }

    def _saves(self, value: Tensor) -> bool:
        if value.dim() < 2 or not value.is_floating_point():
            return False
        rows, columns = value.shape[0], prod(value.shape[1:])
        return self.rank * (rows + columns) < rows * columns

    def _factors(self, value: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        matrix = value.reshape(len(value), -1)
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        start = torch.randn(matrix.shape[1], self.rank, generator=torch.Generator().manual_seed(seed))
        right = start.to(matrix)
        for _ in range(self.num_iterations):
            left = torch.linalg.qr(matrix @ right).Q
            right = matrix.T @ left
        return left, right
