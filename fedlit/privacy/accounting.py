"""Epsilon by delta of steps that each see every case with the same chance, from the package dp-accounting.

Neighbours are two federations of which one has one case more, at one hospital. The gradients of the drawn cases, each
at most the clipping norm C long, are added up; one case changes the sum by up to C. How many cases a hospital has is no
secret: the chance of a draw, the number of steps and the noise follow from it and are taken as given.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal

from fedlit.errors import BadInput
from fedlit.transforms.accounting import MISSING, is_installed, least

Accountant = Literal["rdp", "pld"]

ORDERS = (*(1 + tenth / 10 for tenth in range(10, 100)), *range(11, 64), 80, 96, 128, 192, 256, 512)
"""Of Renyi divergences, from 2 on: the series for lower ones does not converge where few cases are drawn."""

MOST = 1000.0
"""A noise multiplier above which nothing can be learnt."""


@cache
def epsilon(noise_multiplier: float, rate: float, num_steps: int, delta: float, accountant: Accountant) -> float:
    """Epsilon after steps that each draw every case with chance `rate` (Poisson sampling).

    Args:
        noise_multiplier: standard deviation of the noise in the sum of a step, divided by the clipping norm.
        accountant: `rdp`, by Renyi divergences (Mironov et al., arXiv 1908.10530, 2019), or `pld`, by the distribution
            of the privacy loss (Koskela et al., AISTATS 2020), which is about a tenth lower and slower.

    Raises:
        BadInput: dp-accounting is not installed.
    """
    if not num_steps:
        return 0.0
    if not noise_multiplier:
        return math.inf
    if not is_installed():
        raise BadInput(MISSING)
    import dp_accounting

    step: Any = dp_accounting.GaussianDpEvent(noise_multiplier)
    if rate < 1:
        step = dp_accounting.PoissonSampledDpEvent(rate, step)
    if accountant == "pld":
        from dp_accounting.pld import PLDAccountant

        counted: Any = PLDAccountant()
    else:
        from dp_accounting.rdp import RdpAccountant

        counted = RdpAccountant(ORDERS)
    counted.compose(step, num_steps)
    return float(counted.get_epsilon(delta))


@cache
def least_noise(wanted: float, rate: float, num_steps: int, delta: float, accountant: Accountant) -> float:
    """The smallest noise multiplier, to 0.1 % from above, for an epsilon of at most `wanted`; infinite above MOST."""
    return least(lambda noise: epsilon(noise, rate, num_steps, delta, accountant), wanted, within=0.001, most=MOST)
