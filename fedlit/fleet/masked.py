"""Updates collected under masks: what the processes share of a round tells of the sum of all updates alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedlit.aggregation import Coefficient
from fedlit.errors import ClientFailed
from fedlit.fleet.collecting import Outcome
from fedlit.fleet.world import World
from fedlit.messages import Broadcast, Update, tensors
from fedlit.transforms import SecureAggregation
from fedlit.weights import Weights, shaped

if TYPE_CHECKING:
    from fedlit.transforms.masking import PublicKeys

Part = tuple[Weights | None, Mapping[str, float]]


class Masked:
    """The sum of the masked updates that were made here; to make one is the first phase of the protocol, for all.

    Args:
        here: the clients of the cohort for which this process keeps the secrets.

    Raises:
        ProcessLost: another process has ended.
    """

    def __init__(
        self,
        secure: SecureAggregation,
        coefficient: Coefficient,
        broadcast: Broadcast,
        world: World,
        *,
        here: Collection[str],
        num_clients: int,
    ):
        from fedlit.transforms.masking import Member  # needs a package that only this does

        self.secure, self.coefficient, self.broadcast, self.world = secure, coefficient, broadcast, world
        self.threshold = secure.threshold_of(num_clients)
        self.context = f"round {broadcast.round}"
        self.like: Weights | None = None
        self.total = torch.empty(0, dtype=torch.int64)
        self.coefficients: dict[str, float] = {}
        self.members = {name: Member(name, self.threshold, self.context) for name in here}
        self.keys: Mapping[str, PublicKeys] = merged(
            world.share({name: member.public_keys() for name, member in self.members.items()})
        )
        sealed = merged(world.share({name: member.seal(self.keys) for name, member in self.members.items()}))
        for name, member in self.members.items():
            member.open({sender: shares[name] for sender, shares in sealed.items() if sender != name})

    def add(self, update: Update) -> None:
        """Mask an update and add it to the others.

        Raises:
            ClientFailed: it is too large for the fixed point, or holds NaN.
        """
        coefficient = self.coefficient(update)
        flat = {name: value for name, value in tensors(update).items() if value.is_floating_point()}
        like = {name: torch.empty_like(value, device="meta") for name, value in flat.items()}
        if self.like is not None and self.like.keys() != like.keys():
            names = sorted(self.like.keys() ^ like.keys())
            raise ValueError(f"updates of one round have different entries: {names[0]} ({len(names)} in all)")
        changes = vector({name: flat[name] for name in self.like or like}) - self._start(self.like or like)
        values = self.secure.in_fixed_point(changes, coefficient, len(self.keys))
        masked = self.members[update.client].mask(values)
        self.total = masked if self.like is None else self.total + masked
        self.like = self.like or like
        self.coefficients[update.client] = coefficient

    def part(self) -> Part:
        """What the other processes need to know of this one's."""
        return self.like, self.coefficients

    def outcome(self, parts: Sequence[Part]) -> Outcome:
        """The mean over the updates of all processes, whose `parts` these are.

        Raises:
            ClientFailed: in every process, if fewer clients are left than the threshold; the masks stay on.
        """
        from fedlit.transforms.masking import unmask

        like = next(like for like, _ in parts if like is not None)
        coefficients = merged([part for _, part in parts])
        if len(coefficients) < self.threshold:
            raise ClientFailed(
                f"{len(coefficients)} of {len(self.keys)} clients have sent an update, fewer than the threshold of "
                f"{self.threshold} for secure aggregation: what they have sent stays masked"
            )
        revealed = merged(
            self.world.share({name: self.members[name].reveal(coefficients.keys()) for name in self.coefficients})
        )
        start = self._start(like)
        total = self.world.add_up(self.total if self.like is not None else torch.zeros_like(start, dtype=torch.int64))
        unmask(total, self.keys, coefficients.keys(), revealed, self.threshold, self.context)
        flat = start + self.secure.from_fixed_point(total, math.fsum(coefficients.values()))
        return Outcome(shaped(flat.to(self.world.fabric.device), like), {}, {})

    def _start(self, like: Weights) -> Tensor:
        """What was sent out of the entries that come back, as a vector; 0 for those that were not."""
        sent = tensors(self.broadcast)
        return vector({name: sent.get(name, torch.zeros(value.shape)) for name, value in like.items()})


def vector(weights: Weights) -> Tensor:
    """All entries as one vector of float64 on the CPU."""
    parts = [value.detach().cpu().double().reshape(-1) for value in weights.values()]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the processes know of their clients, in order of names."""
    return dict(sorted((name, value) for part in parts for name, value in part.items()))
