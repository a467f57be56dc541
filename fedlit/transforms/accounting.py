"""What differential privacy a run has: epsilon by delta, from the accountant of the package dp-accounting.

Neighbours are two federations that differ in all pictures of one member, whose update may be any other of at most the
clipping norm C: the sum of a round then differs by up to 2 C. The number of members is no secret.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from fedlit.errors import BadInput

MISSING = "differential privacy needs the package dp-accounting; install it by `pip install 'fedlit[privacy]'`"


def is_installed() -> bool:
    return find_spec("dp_accounting") is not None


@lru_cache(maxsize=4096)
def epsilon(noise_multiplier: float, num_members: int, num_clients: int, num_rounds: int, delta: float) -> float:
    """Epsilon after some rounds, each with `num_clients` of the members, drawn without replacement.

    With all members in every round it is exact (the rounds together are one Gaussian mechanism; Balle and Wang, ICML
    2018); with some of them an upper bound by Renyi privacy (Wang et al., AISTATS 2019).

    Args:
        noise_multiplier: standard deviation of the noise in the sum of a round, divided by the clipping norm.

    Raises:
        BadInput: dp-accounting is not installed.
    """
    if not num_rounds:
        return 0.0
    if not noise_multiplier:
        return math.inf
    if not is_installed():
        raise BadInput(MISSING)
    import dp_accounting

    deviation = noise_multiplier / 2  # in units of how much one member can change the sum
    if num_clients >= num_members:
        return float(dp_accounting.get_epsilon_gaussian(deviation / math.sqrt(num_rounds), delta))
    from dp_accounting.rdp import RdpAccountant

    sampled = dp_accounting.SampledWithoutReplacementDpEvent(
        num_members, num_clients, dp_accounting.GaussianDpEvent(deviation)
    )
    accountant: Any = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    accountant.compose(sampled, num_rounds)
    drawn = float(accountant.get_epsilon(delta))
    return min(drawn, epsilon(noise_multiplier, num_members, num_members, num_rounds, delta))


def least_noise(wanted: float, num_members: int, num_clients: int, num_rounds: int, delta: float) -> float:
    """The smallest noise multiplier, to 1 %, that gives an epsilon of at most `wanted`."""
    return least(lambda noise: epsilon(noise, num_members, num_clients, num_rounds, delta), wanted, within=0.01)


def least(epsilon_of: Callable[[float], float], wanted: float, *, within: float, most: float = math.inf) -> float:
    """The smallest noise multiplier, from above, with an epsilon of at most `wanted`; infinite if above `most`.

    Args:
        epsilon_of: falls with the noise multiplier.
        within: how far it may be off, as a share of it.
    """
    low, high = 0.0, 1.0
    while epsilon_of(high) > wanted:
        low, high = high, 2 * high
        if high > most:
            return math.inf
    while high - low > within * high:
        middle = (low + high) / 2
        if epsilon_of(middle) > wanted:
            low = middle
        else:
            high = middle
    return high
