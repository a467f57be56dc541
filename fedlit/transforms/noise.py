"""Gaussian noise, from a seed or from the system's generator."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from fedlit.seeding import address
from fedlit.weights import Weights, combine

SUMMANDS = 4
"""Normal numbers that make one: the lowest bits of a single one tell of the noise (Holohan and Braghin, 2021)."""


def seeded_noise(like: Weights, deviation: float, *place: int | str) -> dict[str, Tensor]:
    """Noise for every floating-point entry, the same wherever it is drawn for the same place."""

    def noise(name: str, value: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(address(*place, name))
        drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        return (deviation * drawn).to(value.dtype)

    return {name: noise(name, value) for name, value in like.items() if value.is_floating_point()}


def system_noise(like: Weights, deviation: float) -> dict[str, Tensor]:
    """Noise for every floating-point entry that nobody can draw again."""

    def noise(value: Tensor) -> Tensor:
        drawn = sum(standard_normal(value.numel()) for _ in range(SUMMANDS)) / SUMMANDS**0.5
        return (deviation * torch.from_numpy(np.asarray(drawn))).reshape(value.shape).to(value.dtype)

    floating = {name: value.cpu() for name, value in like.items() if value.is_floating_point()}
    return combine(noise, floating)


def standard_normal(count: int) -> np.ndarray:
    """Standard normal numbers from the system's generator, float64 (Box and Muller, 1958)."""
    uniform = np.frombuffer(os.urandom(16 * count), dtype=np.uint64).reshape(2, count) >> np.uint64(11)
    one, two = (uniform + np.array([[1], [0]], dtype=np.uint64)) * 2.0**-53  # (0, 1] and [0, 1)
    return np.sqrt(-2 * np.log(one)) * np.cos(2 * np.pi * two)
