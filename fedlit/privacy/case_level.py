"""Case-level differential privacy: DP-SGD at every hospital, the unit is a patient. Abadi et al., CCS 2016."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args

from fedlit.privacy.accounting import MOST, Accountant, epsilon, least_noise
from fedlit.transforms.accounting import MISSING, is_installed
from fedlit.units import counted

if TYPE_CHECKING:
    from fedlit.data.site import Site
    from fedlit.training import LocalTraining, Request

MISSING_OPACUS = "privacy by case needs the package opacus; install it by `pip install 'fedlit[privacy]'`"


@dataclass(frozen=True)
class CaseLevel:
    """w <- optimizer(w, (sum_i min(1, C / |g_i|) g_i + N(0, (z C)^2)) / L) in every step of local training.

    g_i is the gradient of the loss of one picture of case i, over all trained parameters as one vector. A case is all
    pictures of a patient (a manifest's `group`). A step draws every case with chance L / N, one by one, L being
    batch_size accumulate_batches and N the site's cases; a drawn case gives one of its pictures. An epoch is
    ceil(N / L) steps.

    Args:
        clip: C; `.inf` for none, which noise_multiplier=0 alone allows.
        noise_multiplier: z, for all sites; null: for each site the least with which the planned rounds have `epsilon`.
        epsilon: the most that any site may have after the planned rounds; null for any.
        delta: chance that epsilon does not hold; choose less than 1 in the number of a site's cases.
        secure_noise: noise and draws from the system's generator, for use; from the seed, for simulation.
        accountant: `rdp`, or `pld`, which is slower and finds an epsilon about a tenth lower.
    """

    clip: float = 1.0
    noise_multiplier: float | None = None
    epsilon: float | None = 8.0
    delta: float = 1e-5
    secure_noise: bool = False
    accountant: Accountant = "rdp"

    def __post_init__(self) -> None:
        noise = self.noise_multiplier
        allowed = {
            "clip": (self.clip > 0, "one above 0, or .inf"),
            "noise_multiplier": (noise is None or 0 <= noise < math.inf, "0 or more, or null"),
            "epsilon": (self.epsilon is None or self.epsilon > 0, "one above 0, or null"),
            "delta": (0 < self.delta < 1, "one above 0 and below 1"),
            "accountant": (self.accountant in get_args(Accountant), " or ".join(get_args(Accountant))),
        }
        for name, (holds, what) in allowed.items():
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed; use {what}")
        if noise is None and self.epsilon is None:
            raise ValueError("noise_multiplier and epsilon are both null; give one of them")
        if math.isinf(self.clip) and noise != 0:
            raise ValueError("clip=.inf is not allowed with noise, which is a multiple of it; use noise_multiplier=0")

    def problems(self, algorithm: Any, settings: Mapping[str, Any], transforms: Mapping[str, Any]) -> Iterator[str]:
        """What forbids this in an experiment.

        Args:
            algorithm: of the experiment; anything else where it is not known.
            settings: the experiment's plain keys.
            transforms: of updates, by name.
        """
        kind = type(algorithm).__name__
        if not getattr(algorithm, "sends_training_alone", True):
            yield (
                f"{kind} lets sites tell what no noise is added to, or trains more than once a round, so that epsilon "
                "would not hold; use fedavg, fedprox, scaffold or another one that sends what one training makes"
            )
        if looking := weighs_by_loss(getattr(algorithm, "aggregate", None)):
            yield f"{looking} weighs updates by losses, which no noise is added to; use samples or uniform"
        if settings["share_personal"] is True:
            yield "share_personal=true is not allowed: members would tell statistics and scores without noise"
        if any(getattr(each, "stage", "") == "privacy" for each in transforms.values()):
            yield "transform.differential_privacy covers whole members and their cases with them; choose one of the two"
        if find_spec("opacus") is None:
            yield MISSING_OPACUS
        if self.noise_multiplier != 0 and not is_installed():
            yield MISSING

    def at(self, num_cases: int, expected: int, steps_per_round: int, num_rounds: int) -> CasePrivacy:
        """What it comes to at a site.

        Args:
            expected: cases of a step, on average.
            num_rounds: those that are planned with this site.
        """
        rate, num_rounds = min(1.0, expected / num_cases), max(1, num_rounds)
        noise = self.noise_multiplier
        if noise is None:
            assert self.epsilon is not None
            noise = least_noise(self.epsilon, rate, num_rounds * steps_per_round, self.delta, self.accountant)
        return CasePrivacy(self, num_cases, expected, rate, steps_per_round, num_rounds, noise)


@dataclass(frozen=True)
class CasePrivacy:
    """Case-level privacy at one site.

    Args:
        expected: cases of a step, on average, by which its sum is divided.
        rate: chance of a case to be drawn for a step.
    """

    settings: CaseLevel
    num_cases: int
    expected: int
    rate: float
    steps_per_round: int
    num_rounds: int
    noise_multiplier: float

    @property
    def deviation(self) -> float:
        """Of the noise in the sum of a step."""
        return self.noise_multiplier * self.settings.clip if self.noise_multiplier else 0.0

    def requests(self, plan: LocalTraining, site: Site, round: int) -> Iterator[list[Request]]:
        """See `fedlit.privacy.drawing.requests`."""
        from fedlit.privacy.drawing import requests

        return requests(plan, self, site, round)

    def epsilon_after(self, num_rounds: int) -> float:
        """After so many rounds with this site."""
        settings, num_steps = self.settings, num_rounds * self.steps_per_round
        return epsilon(self.noise_multiplier, self.rate, num_steps, settings.delta, settings.accountant)

    def unmet(self) -> Iterator[str]:
        """Why the planned rounds cannot keep to the epsilon that was asked for."""
        wanted, settings = self.settings.epsilon, self.settings
        if wanted is None:
            return
        of_steps = f"{counted(self.num_rounds, 'round')} of {counted(self.steps_per_round, 'step')}"
        drawn = f"{self.num_cases} cases, about {self.expected if self.rate < 1 else self.num_cases} in a step"
        found = math.inf if math.isinf(self.noise_multiplier) else self.epsilon_after(self.num_rounds)
        if found <= wanted:
            return
        place = (self.rate, self.num_rounds * self.steps_per_round, settings.delta, settings.accountant)
        least = least_noise(wanted, *place)
        if math.isinf(least):
            yield (
                f"epsilon={wanted:g} cannot be met: {of_steps} ({drawn}) would need a noise_multiplier above {MOST:g}; "
                "use fewer rounds or steps, or a smaller batch_size"
            )
        else:
            yield (
                f"epsilon={wanted:g} cannot be met: {of_steps} ({drawn}) have epsilon {found:.4g} at delta "
                f"{settings.delta:g} with noise_multiplier={self.noise_multiplier:g}; use fewer rounds or steps, or "
                f"noise_multiplier={math.ceil(1000 * least) / 1000:g}"
            )


def weighs_by_loss(rule: Any) -> str:
    """The rule, or one inside it, that looks at losses; empty where there is none."""
    if getattr(rule, "by", "") in ("loss", "validation_loss"):
        return repr(rule)
    inside = (getattr(rule, name, None) for name in ("rule", "weigh"))
    return next((found for each in inside if each is not None and (found := weighs_by_loss(each))), "")
