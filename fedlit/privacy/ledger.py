"""What privacy a run has spent, site by site and round by round."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlit.privacy.case_level import CasePrivacy
from fedlit.transforms.differential_privacy import SECURE, SIMULATED

COVERED = (
    "the weights that members send in all rounds, and all that is made of them; not the losses and scores in the run's "
    "tables, nor the choice of the kept round by them, nor what stays at the members, nor how many patients and "
    "pictures they have, nor what a round sent that was broken off and begun again, nor the server's own pictures"
)


@dataclass(frozen=True)
class Ledger:
    """Counts the rounds that a site was drawn for; one that failed in a round has spent it all the same.

    Args:
        of_site: at every member, all of the same settings.
        cohort: (names, round) -> the members of a round, from 0.
    """

    of_site: Mapping[str, CasePrivacy]
    cohort: Callable[[Sequence[str], int], Sequence[str]]

    def spent(self, num_rounds: int) -> list[dict[str, float]]:
        """After each of the first rounds, epsilon by site."""
        names, taken, found = sorted(self.of_site), dict.fromkeys(self.of_site, 0), []
        for round in range(num_rounds):
            for name in self.cohort(names, round):
                taken[name] += 1
            found.append({name: self.of_site[name].epsilon_after(taken[name]) for name in names})
        return found

    def told(self, num_rounds: int) -> str:
        """One line after a round."""
        spent, settings = self.spent(num_rounds)[-1], self.settings
        worst = max(sorted(spent), key=lambda name: spent[name])
        simulated = "" if settings.secure_noise else " (simulation only)"
        return f"epsilon of a case at most {spent[worst]:.3g}, at {worst}, at delta {settings.delta:g}{simulated}"

    def report(self, num_rounds: int) -> dict[str, Any]:
        """What the run's summary says, as JSON values; an infinite epsilon is None."""
        spent, settings = self.spent(num_rounds), self.settings
        most = [finite(max(of_round.values())) for of_round in spent]
        sites = {
            name: {
                "epsilon": finite(spent[-1][name]) if spent else 0.0,
                "epsilon_per_round": [finite(of_round[name]) for of_round in spent],
                "noise_multiplier": here.noise_multiplier,
                "num_cases": here.num_cases,
                "sampling_rate": here.rate,
                "steps_per_round": here.steps_per_round,
            }
            for name, here in sorted(self.of_site.items())
        }
        return {
            "epsilon": most[-1] if most else 0.0,
            "delta": settings.delta,
            "epsilon_per_round": most,
            "neighbours": "federations of which one has one case (patient) more, at one hospital",
            "clip": finite(settings.clip),
            "accountant": settings.accountant,
            "sites": sites,
            "noise": SECURE if settings.secure_noise else SIMULATED,
            "covers": COVERED,
        }

    @property
    def settings(self) -> Any:
        return next(iter(self.of_site.values())).settings


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
