"""Arithmetic on state dicts as values: new tensors come out, nothing that was given is changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from fedlit.errors import BadInput, ClientFailed
from fedlit.files import write_atomically

Weights = Mapping[str, Tensor]
"""Named tensors. Floating-point entries are averaged; integer ones (counters) never are."""

CHUNK = 1 << 17  # elements: what a compensated addition of this size touches stays in the cache of a CPU
LARGE_CHUNK = 1 << 22  # on other devices, where launches cost more than memory
MOST_WAITING = 1 << 23  # elements of the terms that may wait to be added together: 32 MB


def combine(function: Callable[..., Tensor], first: Weights, *others: Weights) -> dict[str, Tensor]:
    """`function` of the entries of the same name; integer entries are those of `first`."""
    for other in others:
        if other.keys() != first.keys():
            names = sorted(first.keys() ^ other.keys())
            raise ValueError(
                f"the weights have different entries: {', '.join(names[:3])} ({len(names)} in all) are on one side only"
            )
    return {
        name: function(value, *(other[name] for other in others)) if value.is_floating_point() else value
        for name, value in first.items()
    }


def subtract(left: Weights, right: Weights) -> dict[str, Tensor]:
    """left - right."""
    return combine(torch.sub, left, right)


def add(left: Weights, right: Weights, *, scale: float = 1.0) -> dict[str, Tensor]:
    """left + scale * right."""
    return combine(lambda x, y: torch.add(x, y, alpha=scale), left, right)


def lerp(start: Weights, end: Weights, share: float) -> dict[str, Tensor]:
    """(1 - share) * start + share * end; integer entries are those of `start`."""
    return combine(lambda x, y: torch.lerp(x, y, share), start, end)


def zeros_like(weights: Weights) -> dict[str, Tensor]:
    return combine(torch.zeros_like, weights)


def beside(weights: Weights, other: Weights) -> dict[str, Tensor]:
    """The weights, each entry on the device of the other's of its name."""
    return {name: value.to(other[name].device) for name, value in weights.items()}


def to_cpu(weights: Weights) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in weights.items()}


def select(weights: Weights, patterns: Iterable[str]) -> dict[str, Tensor]:
    """The entries whose name matches one of the shell patterns (`*norm*`, `head.*`)."""
    patterns = tuple(patterns)
    return {name: value for name, value in weights.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def num_bytes(value: Any) -> int:
    """Bytes of all tensors in a tensor, mapping or list, however deep."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(num_bytes(item) for item in value.values())
    return sum(num_bytes(item) for item in value) if isinstance(value, list | tuple) else 0


def sha256(*states: Weights) -> str:
    """One hash over names, dtypes, shapes and bits of the states, in the order given; their entries have none."""
    digest = hashlib.sha256()
    for state in states:
        for name in sorted(state):
            value = state[name].detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
        digest.update(b"\n")
    return digest.hexdigest()


def add_exactly(high: Tensor, low: Tensor, value: Tensor) -> Tensor:
    """The new high of high + low + value; its rounding error goes into `low` (TwoSum, Knuth). `value` is used up.

    All are float64 and have one shape.
    """
    total = high + value
    shadow = total - high
    value -= shadow
    shadow -= total
    shadow += high
    low += value.add_(shadow)
    return total


def flattened(weights: Weights) -> Tensor:
    """All entries as one vector, of float32 or, where one of them is, of float64."""
    parts = [value.detach().reshape(-1) for value in weights.values()]
    flat = torch.cat(parts) if parts else torch.empty(0)
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


def shaped(flat: Tensor, like: Weights) -> dict[str, Tensor]:
    """A vector as named entries, of the names, shapes and dtypes of `like`."""
    parts = flat.split([value.numel() for value in like.values()])
    return {
        name: part.to(value.dtype).reshape(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)
    }


def check_finite(update: Tensor) -> None:
    """Raises ClientFailed where an update, as one vector, holds NaN or Inf."""
    # a sum is not finite where an element is not, and takes a twentieth of the time of isfinite().all()
    if not update.sum(dtype=torch.promote_types(update.dtype, torch.float32)).isfinite():
        raise ClientFailed("its update holds NaN or Inf; lower lr or set gradient_clip")


class WeightedSum:
    """sum_k c_k w_k as a float64 vector and its compensation: order and grouping of the terms change nothing.

    Plain float64 partial sums changed 500 of 8 M elements with the number of processes; these change none. The
    compensation is float32, 77 bits in all, unless the terms are float64 themselves. Small terms wait until there are
    several, which are then added chunk by chunk, in the cache: half the time for 0.5 M elements.
    """

    def __init__(self) -> None:
        self.like: Weights | None = None
        self.coefficient = 0.0
        self._high = self._low = torch.empty(0, dtype=torch.float64)
        self._waiting: list[tuple[Tensor, float]] = []

    @classmethod
    def zeros(cls, like: Weights, device: torch.device) -> WeightedSum:
        """A sum of no terms, for entries of the names, shapes and dtypes of `like`."""
        total = cls()
        total._allocate(like, device)
        return total

    def add(self, weights: Weights, coefficient: float) -> None:
        """Add one term. Every term has the same floating-point entries; integer entries are left out.

        Raises:
            ClientFailed: the term holds NaN or Inf.
        """
        values = {name: value for name, value in weights.items() if value.is_floating_point()}
        like = self.like
        if like is None:
            like = self._allocate(values, next((value.device for value in values.values()), torch.device("cpu")))
        elif like.keys() != values.keys():
            names = sorted(like.keys() ^ values.keys())
            raise ValueError(
                f"updates of one round have different entries: {', '.join(names[:3])} ({len(names)} in all)"
            )
        if values:
            flat = torch.cat([values[name].detach().reshape(-1) for name in like])
            check_finite(flat)
            self._waiting.append((flat, coefficient))
        self.coefficient += coefficient
        if sum(flat.numel() for flat, _ in self._waiting) > MOST_WAITING:
            self._settle()

    def pair(self) -> tuple[Tensor, Tensor]:
        """(high, low), vectors whose sum is the sum so far; they may be changed in place."""
        self._settle()
        return self._high, self._low

    def mean(self, divisor: float | None = None) -> dict[str, Tensor]:
        """sum_k c_k w_k / sum_k c_k, in the terms' own dtypes; or the sum by another divisor."""
        high, low = self.pair()
        divisor = self.coefficient if divisor is None else divisor
        return self.shaped(((high + low) / divisor).to(low.dtype))  # the form in which means are shared

    def shaped(self, flat: Tensor) -> dict[str, Tensor]:
        """A vector as named entries, in the terms' own dtypes."""
        assert self.like is not None, "a mean of nothing"
        return shaped(flat, self.like)

    def _allocate(self, like: Weights, device: torch.device) -> Weights:
        self.like = {name: torch.empty_like(value, device="meta") for name, value in like.items()}
        num_elements = sum(value.numel() for value in like.values())
        device = torch.device("cpu") if device.type == "mps" else device  # which has no float64
        self._high = torch.zeros(num_elements, dtype=torch.float64, device=device)
        is_double = any(value.dtype == torch.float64 for value in like.values())
        self._low = torch.zeros_like(self._high, dtype=torch.float64 if is_double else torch.float32)
        return self.like

    def _settle(self) -> None:
        chunk = CHUNK if self._high.device.type == "cpu" else LARGE_CHUNK
        for start in range(0, self._high.numel(), chunk):
            part = slice(start, start + chunk)
            high, low = self._high[part], self._low[part].double()
            for flat, coefficient in self._waiting:
                high = add_exactly(high, low, flat[part].to(high).mul_(coefficient))
            self._high[part], self._low[part] = high, low
        self._waiting.clear()


def dumps(weights: Weights, header: Mapping | None = None) -> bytes:
    """The safetensors form, with `header` as JSON beside the tensors."""
    metadata = {"fedlit": json.dumps(header)} if header is not None else None
    return to_bytes({name: value.detach().cpu().contiguous() for name, value in weights.items()}, metadata)


def loads(content: bytes) -> dict[str, Tensor]:
    """The tensors of what `dumps` wrote."""
    return from_bytes(content)


def save(path: Path, weights: Weights, header: Mapping | None = None) -> None:
    write_atomically(path, dumps(weights, header))


def load(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the header of a safetensors file.

    Raises:
        BadInput: the file is missing, truncated or not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("fedlit", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise BadInput(f"{path}: damaged or not a safetensors file ({error})") from None
