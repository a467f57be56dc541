"""What an aggregation rule is: a weight for every update, or a function of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from fedlit.messages import Update

Coefficient = Callable[[Update], float]
"""How much an update counts, before the coefficients of a round are divided by their sum. Above 0."""


class Aggregation(ABC):
    """Makes one set of tensors of a round's updates; the fleet adds `coefficient(update) * update` as they come in."""

    @abstractmethod
    def coefficients(self, num_samples: Mapping[str, int]) -> Coefficient:
        """The coefficients of one round, known before anyone trains, or by what an update reports (its scalars).

        The same in every process, whichever updates it sees. The coefficient of a client that is dropped from the round
        is missing from the sum by which the others are divided.

        Args:
            num_samples: training pictures of every client of the cohort, by name.

        Raises:
            BadInput: the rule has no coefficient above 0 for a client.
        """
