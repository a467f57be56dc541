"""Secure aggregation: the server learns the sum of all updates, and of none what it is. Bonawitz et al., CCS 2017."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedlit.aggregation import Mean
from fedlit.errors import ClientFailed
from fedlit.transforms.base import Compression, Transform
from fedlit.transforms.differential_privacy import cohort_size

KNOWN_BEFORE = ("samples", "sqrt_samples", "uniform", "samples_rounded_as_released")
"""What updates may be weighed by: known of a client without its update."""

LEAST = 3
MISSING = "secure aggregation needs the package cryptography; install it by `pip install 'fedlit[privacy]'`"


@dataclass(frozen=True)
class SecureAggregation(Transform):
    """Every client sends round(2^b c_k u_k) modulo 2^64 under masks that cancel in the sum.

    u_k are its changes, c_k is its weight in the mean. Where a client fails after the keys have been exchanged, and
    `on_client_error` is `drop`, the round goes on while `threshold` clients are left: they tell shares of what is
    needed to take its masks off. The server learns the sum, and beside it what the reports hold: numbers of pictures,
    losses, times. It is taken to be curious, but to keep to the protocol: a round that is run again after its masks
    were taken off, with others left, would tell it the difference of two sums. Here the members are simulated: the
    secrets of those that share a process are in its memory, and in no message.

    Args:
        threshold: clients that must be left, more than half of a round's; None: more than two thirds of them.
        fraction_bits: b. The sum is exact but for half a step of 2^-b for each client.
    """

    stage: ClassVar[str] = "masking"

    threshold: int | None = None
    fraction_bits: int = 32

    def __post_init__(self) -> None:
        if self.threshold is not None and self.threshold < 2:
            raise ValueError(f"threshold={self.threshold!r} is not allowed; use 2 or more, or null")
        if not 8 <= self.fraction_bits <= 48:
            raise ValueError(f"fraction_bits={self.fraction_bits!r} is not allowed; use 8 to 48")

    def problems(
        self, algorithm: Any, settings: Mapping[str, Any], before: Sequence[Transform], num_members: int | None = None
    ) -> Iterator[str]:
        yield from super().problems(algorithm, settings, before, num_members)
        rule = getattr(algorithm, "aggregate", Mean())
        if not isinstance(rule, Mean) or rule.by not in KNOWN_BEFORE:
            yield (
                f"secure aggregation shows the server a sum with weights known before, and {type(algorithm).__name__} "
                f"with {rule} needs to know each update; use a mean by {', '.join(KNOWN_BEFORE[:-1])}"
            )
        if settings["share_personal"] is True:
            yield "share_personal=true is not allowed: members would send models that are not masked"
        for other in before:
            if isinstance(other, Compression):
                yield f"{type(other).__name__} saves nothing here: under masks every number takes 8 bytes; leave it out"
        if find_spec("cryptography") is None:
            yield MISSING
        known = settings["clients_per_round"]
        cohort = cohort_size(settings, num_members) if num_members is not None else None
        most = cohort[1] if cohort else known if isinstance(known, int) else None
        if most is not None:
            yield from self._too_few(most, is_exact=cohort is not None)

    def _too_few(self, num_clients: int, *, is_exact: bool) -> Iterator[str]:
        """What is wrong with rounds of so many clients, or of so many at most."""
        if num_clients < LEAST:
            yield f"{num_clients} clients of a round are too few for secure aggregation; let {LEAST} or more take part"
        elif self.threshold is not None and self.threshold > num_clients:
            yield f"threshold={self.threshold} is more than the {num_clients} clients of a round; use fewer"
        elif is_exact and self.threshold is not None and 2 * self.threshold <= num_clients:
            yield (
                f"threshold={self.threshold} is not more than half of the {num_clients} clients of a round, so two "
                f"groups could each tell what the other has not; use {num_clients // 2 + 1} or more"
            )

    def threshold_of(self, num_clients: int) -> int:
        """How many clients of a round must be left."""
        return 2 * num_clients // 3 + 1 if self.threshold is None else self.threshold

    def in_fixed_point(self, changes: Tensor, coefficient: float, num_clients: int) -> Tensor:
        """round(2^b c u), int64, of changes in float64.

        Raises:
            ClientFailed: they are so large that a sum over so many clients would not fit, or NaN.
        """
        scaled = changes * (coefficient * 2.0**self.fraction_bits)
        largest = float(scaled.abs().amax()) if scaled.numel() else 0.0
        most = 2.0**62 / num_clients
        if not largest < most:
            raise ClientFailed(
                f"its largest change is {float(changes.abs().amax()):.3g}, too much for fraction_bits="
                f"{self.fraction_bits} and {num_clients} clients; lower lr, or fraction_bits"
            )
        return scaled.round().to(torch.int64)

    def from_fixed_point(self, total: Tensor, divisor: float) -> Tensor:
        """The mean of changes, float64, of the sum of their fixed-point forms."""
        return total.double() / (2.0**self.fraction_bits * divisor)

    def num_bytes(self, num_elements: int, num_clients: int) -> int:
        """What a client sends: its public keys, sealed shares for the others, its masked update, shares told."""
        from fedlit.transforms.masking import PUBLIC_BYTES, SEALED_BYTES, SHARE_BYTES

        return PUBLIC_BYTES + (num_clients - 1) * SEALED_BYTES + 8 * num_elements + num_clients * SHARE_BYTES

    def num_bytes_forwarded(self, num_clients: int) -> int:
        """What a client is sent beside the broadcast: the others' public keys, and their shares sealed for it."""
        from fedlit.transforms.masking import PUBLIC_BYTES, SEALED_BYTES

        return (num_clients - 1) * (PUBLIC_BYTES + SEALED_BYTES)

    def report(self, num_clients: int) -> dict[str, Any]:
        """As JSON values."""
        return {
            "threshold": self.threshold_of(num_clients),
            "num_clients": num_clients,
            "fraction_bits": self.fraction_bits,
            "known_to_the_server": "the sum of the updates, and of each client its pictures, losses and times",
        }
