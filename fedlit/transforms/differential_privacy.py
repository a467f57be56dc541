"""Client-level differential privacy: updates are clipped, their mean gets noise. McMahan et al., ICLR 2018."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fedlit.aggregation import Mean
from fedlit.transforms.accounting import MISSING, epsilon, is_installed, least_noise
from fedlit.transforms.base import Transform
from fedlit.transforms.noise import seeded_noise, system_noise
from fedlit.weights import Weights

SIMULATED = "simulation only: the noise is drawn from the seed, and whoever knows that can take it away"
SECURE = (
    "the noise is drawn from the system's generator: no round can be repeated bit by bit, not even by a resumed run"
)
IN_SECRET = "by drawing clients at random, which counts as a secret here: the draw comes from the seed"
COVERED = (
    "the global weights of all rounds; not the losses and scores in the run's tables, nor the choice of the kept round "
    "by them, nor what stays at the members"
)


@dataclass(frozen=True)
class DifferentialPrivacy(Transform):
    """w + sum_k min(1, C / |u_k|) u_k / m + N(0, (z C / m)^2), u_k all changes that client k of m sends, as one vector.

    Parameters, float buffers and further tensors of an update count alike. Where clients are drawn, only a secret draw
    makes epsilon smaller; it comes from the seed, and tables name who took part, so it counts in simulations alone. The
    server adds the noise, so it is trusted with the updates. A client that fails counts as one without changes; the
    divisor is always m. A running variance that the noise makes negative becomes 0.

    Args:
        clip: C; `.inf` for none, which noise_multiplier=0 alone allows.
        noise_multiplier: z. With 0 epsilon is infinite.
        delta: chance that epsilon does not hold; choose less than 1 in the number of members.
        epsilon: the most that the planned rounds may have; where they have more, the run does not start.
        secure_noise: from the system's generator, for use; from the seed, for simulation.
    """

    stage: ClassVar[str] = "privacy"

    clip: float = 1.0
    noise_multiplier: float = 1.0
    delta: float = 1e-5
    epsilon: float | None = None
    secure_noise: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "clip": (self.clip > 0, "one above 0, or .inf"),
            "noise_multiplier": (0 <= self.noise_multiplier < math.inf, "0 or more"),
            "delta": (0 < self.delta < 1, "one above 0 and below 1"),
            "epsilon": (self.epsilon is None or self.epsilon > 0, "one above 0, or null"),
        }
        for name, (holds, what) in allowed.items():
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed; use {what}")
        if math.isinf(self.clip) and self.noise_multiplier:
            raise ValueError("clip=.inf is not allowed with noise, which is a multiple of it; use noise_multiplier=0")

    def problems(
        self, algorithm: Any, settings: Mapping[str, Any], before: Sequence[Transform], num_members: int | None = None
    ) -> Iterator[str]:
        yield from super().problems(algorithm, settings, before, num_members)
        rule = getattr(algorithm, "aggregate", Mean(by="uniform"))
        if rule != Mean(by="uniform"):
            advice = "choose another algorithm" if rule == Mean(by="reported") else "set algorithm.aggregate=uniform"
            yield (
                f"differential privacy needs the uniform mean of updates, and {type(algorithm).__name__} has {rule}; "
                f"{advice}"
            )
        if settings["share_personal"] is True:
            yield "share_personal=true is not allowed: members would send models that are neither clipped nor noised"
        if settings["precision"] in ("16-true", "bf16-true"):
            yield f"precision={settings['precision']} rounds clipping and noise; use 32-true, or a -mixed precision"
        if self.noise_multiplier and not is_installed():
            yield MISSING
            return
        cohort, num_rounds = cohort_size(settings, num_members), settings["num_rounds"]
        if self.epsilon is not None and cohort is not None and isinstance(num_rounds, int):
            yield from self._unmet(self.epsilon, *cohort, num_rounds)

    def _unmet(self, wanted: float, num_members: int, num_clients: int, num_rounds: int) -> Iterator[str]:
        place = (num_members, self._counted(num_members, num_clients), num_rounds, self.delta)
        found = epsilon(self.noise_multiplier, *place)
        if found > wanted:
            who = "all members" if num_clients == num_members else f"{num_clients} of {num_members} members"
            enough = math.ceil(1000 * least_noise(wanted, *place)) / 1000
            yield (
                f"epsilon={wanted:g} cannot be met: {num_rounds} rounds with {who} have epsilon {found:.4g} at delta "
                f"{self.delta:g}; use fewer rounds, or noise_multiplier={enough:g} instead of {self.noise_multiplier:g}"
            )

    def scale(self, norm: float) -> float:
        """What the changes of a client are multiplied by."""
        return min(1.0, self.clip / norm) if norm else 1.0

    def noise(self, like: Weights, num_clients: int, seed: int, round: int) -> dict[str, Tensor]:
        """What is added to the mean of a round of so many clients, whose tensors are like these."""
        deviation = self.noise_multiplier * self.clip / num_clients
        if self.secure_noise:
            return system_noise(like, deviation)
        return seeded_noise(like, deviation, seed, round, "privacy")

    def epsilon_after(self, num_rounds: int, num_members: int, num_clients: int) -> float:
        """See `fedlit.transforms.accounting.epsilon`; with `secure_noise` as if every member were in every round."""
        counted = self._counted(num_members, num_clients)
        return epsilon(self.noise_multiplier, num_members, counted, num_rounds, self.delta)

    def _counted(self, num_members: int, num_clients: int) -> int:
        """Of how many clients a round counts for epsilon: of all where it is no secret who they are."""
        return num_members if self.secure_noise else num_clients

    def report(self, num_rounds: int, num_members: int, num_clients: int) -> dict[str, Any]:
        """As JSON values; an infinite epsilon is None."""
        found = [self.epsilon_after(round, num_members, num_clients) for round in range(1, num_rounds + 1)]
        finite = [value if math.isfinite(value) else None for value in found]
        return {
            "epsilon": finite[-1] if finite else 0.0,
            "delta": self.delta,
            "epsilon_per_round": finite,
            "neighbours": "federations that differ in all pictures of one member",
            "clip": self.clip if math.isfinite(self.clip) else None,
            "noise_multiplier": self.noise_multiplier,
            "num_clients": num_clients,
            "num_members": num_members,
            "noise": SECURE if self.secure_noise else SIMULATED,
            **({"amplified": IN_SECRET} if num_clients < num_members and not self.secure_noise else {}),
            "covers": COVERED,
        }


def cohort_size(settings: Mapping[str, Any], num_members: int | None) -> tuple[int, int] | None:
    """(members, clients of a round); (1, 1) stands for all of any number, None where it is not known."""
    count, share = settings["clients_per_round"], settings["fraction_train"]
    if not all(value is None or isinstance(value, int | float) for value in (count, share)):
        return None
    if num_members is None:
        return (1, 1) if count is None and share in (None, 1) else None
    if count is not None:
        return num_members, min(num_members, count)
    return num_members, num_members if share is None else max(1, math.ceil(num_members * share - 1e-9))
