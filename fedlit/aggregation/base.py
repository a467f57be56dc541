"""What an aggregation rule is: a weight for every update, or a function of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fedlit.messages import Update


class Aggregation(ABC):
    """Makes one set of tensors of a round's updates; the fleet adds `coefficient * update` as the updates come in."""

    @abstractmethod
    def coefficient(self, update: Update) -> float:
        """How much an update counts, before the coefficients of a round are divided by their sum. Above 0."""
