"""All that happens to an update between a client and the server."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fedlit.messages import Aggregate, Broadcast, Slots, Update, header, restore, size, tensors
from fedlit.seeding import address
from fedlit.transforms.base import Compression, Transform
from fedlit.transforms.differential_privacy import DifferentialPrivacy
from fedlit.transforms.secure_aggregation import SecureAggregation
from fedlit.weights import Weights, add, beside, check_finite, dumps, flattened, lerp, loads, num_bytes

Spread = Callable[[Callable[[], bytes]], bytes]

UNSENT = "unsent"
"""The slot of a client's memory that holds what error feedback has still to send."""


@dataclass(frozen=True)
class Sent:
    """What arrives of an update, the bytes that were sent for it, and what the client remembers of sending."""

    update: Update
    num_bytes: int
    memory: Slots


@dataclass(frozen=True)
class Channel:
    """The transforms of an experiment, in order.

    Args:
        seed: of the experiment.
    """

    transforms: tuple[Transform, ...] = ()
    seed: int = 0

    @property
    def privacy(self) -> DifferentialPrivacy | None:
        return next((each for each in self.transforms if isinstance(each, DifferentialPrivacy)), None)

    @property
    def masking(self) -> SecureAggregation | None:
        return next((each for each in self.transforms if isinstance(each, SecureAggregation)), None)

    @property
    def compressions(self) -> list[Compression]:
        return [each for each in self.transforms if isinstance(each, Compression)]

    def send(self, update: Update, seen: Broadcast, memory: Slots, buffers: Collection[str], num_clients: int) -> Sent:
        """What becomes of an update on its way; without transforms, the update itself.

        Args:
            seen: what the client was sent, from which its changes are counted.
            memory: of the client, before the round.
            buffers: the entries that are float buffers. They are sent whole: a running variance that is nearly right
                may be negative.
            num_clients: of the round's cohort.

        Raises:
            ClientFailed: the update cannot be sent so.
        """
        sent = self._compressed(update, seen, memory, buffers) if self.compressions else Sent(update, size(update), {})
        if self.masking is not None:
            sent = replace(sent, num_bytes=self.num_bytes(update, buffers, num_clients))
        return sent if self.privacy is None else replace(sent, update=clipped(self.privacy, sent.update, seen))

    def receive(
        self, aggregate: Aggregate, broadcast: Broadcast, num_clients: int, buffers: Collection[str], spread: Spread
    ) -> Aggregate:
        """What the server makes of the mean of a round's updates; without privacy, that mean.

        Args:
            num_clients: of the round's cohort, of which the reports name those that have sent something.
            buffers: the entries that are float buffers.
            spread: makes bytes in one process, known in all.
        """
        privacy = self.privacy
        if privacy is None:
            return aggregate
        flat = floating(tensors(aggregate))
        share = len(aggregate.reports) / num_clients
        if share < 1:  # those that are missing have changed nothing
            start = tensors(broadcast)
            still = {name: start[name].to(value) if name in start else value * 0 for name, value in flat.items()}
            flat = lerp(still, flat, share)
        if privacy.noise_multiplier:
            noise = partial(privacy.noise, flat, num_clients, self.seed, broadcast.round)
            drawn = loads(spread(lambda: dumps(noise()))) if privacy.secure_noise else noise()
            flat = add(flat, beside(drawn, flat))
        for name in variances(buffers) & flat.keys():
            flat[name] = flat[name].clamp(min=0)
        noised = restore(Aggregate, {}, {**tensors(aggregate), **flat})
        return replace(aggregate, weights=noised.weights, slots=noised.slots, counts_dropped=True)

    def num_bytes_forwarded(self, num_clients: int) -> int:
        """The bytes that each client of a round of so many is sent beside the broadcast."""
        return 0 if self.masking is None else self.masking.num_bytes_forwarded(num_clients)

    def report(self, num_rounds: int, num_members: int, num_clients: int) -> dict[str, Any]:
        """What the run's summary says of it, as JSON values."""
        found: dict[str, Any] = {}
        if self.privacy is not None:
            found["privacy"] = self.privacy.report(num_rounds, num_members, num_clients)
        if self.masking is not None:
            found["secure_aggregation"] = self.masking.report(num_clients)
        return found

    def told(self, num_rounds: int, num_members: int, num_clients: int) -> str:
        """One line after a round; none where there is nothing to tell."""
        if self.privacy is None:
            return ""
        found = self.privacy.epsilon_after(num_rounds, num_members, num_clients)
        simulated = "" if self.privacy.secure_noise else " (simulation only)"
        return f"epsilon {found:.3g} at delta {self.privacy.delta:g}{simulated}"

    def _compressed(self, update: Update, seen: Broadcast, memory: Slots, buffers: Collection[str]) -> Sent:
        start, flat = tensors(seen), tensors(update)
        chosen = compressible(flat, buffers)
        changes = {name: value - start[name].to(value) if name in start else value for name, value in chosen.items()}
        check_finite(flattened(changes))
        due = memory.get(UNSENT, {})
        wanted = {name: value + due[name].to(value) if name in due else value for name, value in changes.items()}
        came, num_sent = self._through(wanted, address(self.seed, update.client, seen.round, "transform"))
        arrived = {name: start[name].to(value) + value if name in start else value for name, value in came.items()}
        received = restore(Update, header(update), {**flat, **arrived})
        keeps = any(each.feedback for each in self.compressions)
        unsent = {UNSENT: {name: value - came[name] for name, value in wanted.items()}} if keeps else {}
        return Sent(received, num_sent + size(update) - num_bytes(chosen), unsent)

    def num_bytes(self, update: Update, buffers: Collection[str], num_clients: int) -> int:
        """The bytes that are sent for an update, whose tensors need no content, in a round of so many clients."""
        flat = tensors(update)
        if self.masking is not None:
            return self.masking.num_bytes(sum(value.numel() for value in floating(flat).values()), num_clients)
        chosen = compressible(flat, buffers)
        sent: Weights = chosen
        for compression in self.compressions:
            sent = compression.encode(sent, 0)
        return num_bytes(flat) - num_bytes(chosen) + num_bytes(sent)

    def _through(self, changes: Weights, seed: int) -> tuple[dict[str, Tensor], int]:
        """What arrives of changes that are compressed step by step, and the bytes of the last step."""
        steps, sent = [], dict(changes)
        for compression in self.compressions:
            like = sent
            sent = compression.encode(like, seed)
            steps.append((compression, like))
        count = num_bytes(sent)
        for compression, like in reversed(steps):
            sent = compression.decode(sent, like)
        return sent, count


def clipped(privacy: DifferentialPrivacy, update: Update, seen: Broadcast) -> Update:
    """The update, its changes no longer than the privacy allows.

    Raises:
        ClientFailed: it holds NaN or Inf.
    """
    start, flat = tensors(seen), floating(tensors(update))
    changes = {name: value - start[name].to(value) if name in start else value for name, value in flat.items()}
    vector = flattened(changes)
    check_finite(vector)
    scale = privacy.scale(float(torch.linalg.vector_norm(vector, dtype=torch.float64)))
    if scale == 1:
        return update
    short = {
        name: start[name].to(value) + scale * value if name in start else scale * value
        for name, value in changes.items()
    }
    return restore(Update, header(update), {**tensors(update), **short})


def floating(flat: Weights) -> dict[str, Tensor]:
    """The floating-point tensors."""
    return {name: value for name, value in flat.items() if value.is_floating_point()}


def variances(buffers: Collection[str]) -> set[str]:
    """Which of these are running variances, which torch calls so."""
    return {f"weights/{name}" for name in buffers if name.endswith("running_var")}


def compressible(flat: Weights, buffers: Collection[str]) -> dict[str, Tensor]:
    """What of an update's tensors is compressed: floating-point ones that are no buffers."""
    whole = {f"weights/{name}" for name in buffers}
    return {name: value for name, value in floating(flat).items() if name not in whole}
