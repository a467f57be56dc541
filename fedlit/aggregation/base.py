"""What an aggregation rule is: a weight for every update, or a choice among all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedlit.errors import BadInput
from fedlit.messages import Update

Coefficient = Callable[[Update], float]
"""How much an update counts, before the coefficients of a round are divided by their sum. Above 0."""

PerCoordinate = Callable[[Tensor], Tensor]
"""[K, n] -> [n]: what becomes of n coordinates of K updates."""


ROOT = "root_of_trust"
"""The name of the client that trains on the server's own pictures, where the rule asks for it."""


@dataclass(frozen=True, eq=False)
class Differences:
    """The changes w_k - w that a round's updates ask for, from the weights w that were sent out.

    Args:
        names: K clients, in order.
        coefficients: [K], float64, of the rule's `coefficients`.
        gram: [K, K], float64: <w_k - w, w_j - w> over all that is sent, parameters and float buffers alike; 0 for a
            rule that needs none. NaN or Inf in the row and the column of an update that is not finite.
    """

    names: tuple[str, ...]
    coefficients: Tensor
    gram: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def of_clients(self) -> Tensor:
        """Which are of clients [K], bool: all but the server's own."""
        return torch.tensor([name != ROOT for name in self.names])

    def norms(self) -> Tensor:
        """|w_k - w|, [K]."""
        return self.gram.diagonal().sqrt()

    def squared_distances(self) -> Tensor:
        """|w_k - w_j|^2, [K, K]."""
        squares = self.gram.diagonal()
        return (squares[:, None] + squares[None, :] - 2 * self.gram).clamp(min=0).fill_diagonal_(0)

    def only(self, places: Tensor) -> Differences:
        """Those at some places."""
        names = tuple(self.names[place] for place in places.tolist())
        return Differences(names, self.coefficients[places], self.gram[places][:, places])

    def scaled(self, scales: Tensor) -> Differences:
        """Each times a number."""
        return Differences(self.names, self.coefficients, self.gram * scales[:, None] * scales[None, :])


@dataclass(frozen=True, eq=False)
class Chosen:
    """What a rule makes of a round: the mean of w + s_k (w_k - w) with coefficients c_k, or its `per_coordinate` of
    those with c_k above 0.

    Args:
        coefficients: c_k, [K], float64, 0 or more.
        scales: s_k, [K], float64, 0 or more. Up to 1 a running variance stays positive.
        dropped: the clients that are to count as failed, and why.
        clipped: those whose change was made smaller, and why, where that is worth a warning.
    """

    coefficients: Tensor
    scales: Tensor
    dropped: Mapping[str, str] = field(default_factory=dict)
    clipped: Mapping[str, str] = field(default_factory=dict)


class Aggregation(ABC):
    """Makes one set of tensors of a round's updates; the fleet adds `coefficient(update) * update` as they come in.

    A rule that has to see all updates before it can say anything is a `Comparing` one.
    """

    @property
    def needs_validation(self) -> bool:
        """Clients are to report `validation_loss`: of what they have trained, the mean over validation pictures."""
        return False

    @abstractmethod
    def coefficients(self, num_samples: Mapping[str, int]) -> Coefficient:
        """The coefficients of one round, known before anyone trains, or by what an update reports (its scalars).

        The same in every process, whichever updates it sees. The coefficient of a client that is dropped from the round
        is missing from the sum by which the others are divided.

        Args:
            num_samples: training pictures of every client of the cohort, by name.

        Raises:
            BadInput: the rule has no coefficient above 0 for a client, or is not defined for so few clients.
        """

    @property
    def needs_root(self) -> bool:
        """The server's own site takes part in every round, as the client ROOT."""
        return False

    @property
    def is_guarded(self) -> bool:
        """An update guard is this rule, or inside it."""
        return False

    @property
    def stretches(self) -> bool:
        """It may follow a change further than was asked for (a scale above 1), which no running statistic bears."""
        return False

    @property
    def per_coordinate(self) -> PerCoordinate | None:
        """How the chosen updates become one, where it is not their mean."""
        return None

    def choose(self, differences: Differences) -> Chosen:
        """Which updates count, how much, and how far their changes are followed: all, where nothing is compared.

        Raises:
            BadInput: the rule is not defined for so few updates as are left of the round.
            ClientFailed: the rule lets an update fail the round.
        """
        return weighted(differences, differences.coefficients)


class Comparing(Aggregation):
    """A rule that compares all updates of a round: by their inner products, or coordinate by coordinate, or both.

    It acts on the weights of an update, parameters and float buffers alike, as differences from the weights that were
    sent out. An update with slots is refused: they are no such differences. Memory grows with the number of clients,
    and each process works on its own blocks of the model.
    """

    takes_any: ClassVar[bool] = False
    """The rule judges updates with NaN or Inf itself; otherwise their clients have failed."""

    remedy: ClassVar[str] = "assume fewer malicious clients"
    """What to change of the rule where a round has too few updates for it."""

    @property
    def needs_gram(self) -> bool:
        """`choose` looks at the inner products."""
        return True

    @property
    def least(self) -> tuple[int, str]:
        """How many updates a round needs at least, and the reason."""
        return 1, ""

    def admit(self, num_updates: int) -> None:
        """Raises BadInput where the rule is not defined for so few updates."""
        least, reason = self.least
        if num_updates < least:
            raise BadInput(
                f"algorithm.aggregate: {self} needs {least} updates a round or more ({reason}), and there are "
                f"{num_updates}; {self.remedy}, let more take part, or use another rule"
            )

    def coefficients(self, num_samples: Mapping[str, int]) -> Coefficient:
        self.admit(len(num_samples))
        return lambda update: 1.0

    @abstractmethod
    def choose(self, differences: Differences) -> Chosen: ...


def nested(rule: Aggregation) -> Iterator[Aggregation]:
    """A rule and those inside it, the outermost first."""
    inner: Any = rule
    while isinstance(inner, Aggregation):
        yield inner
        inner = getattr(inner, "rule", getattr(inner, "weigh", None))


def check_stretched(rule: Aggregation, buffers: Sequence[str]) -> None:
    """Raises BadInput where there are float buffers among the entries whose changes a rule has stretched, or may."""
    *_, rule = nested(rule)  # the innermost is the one that stretches
    if buffers:
        raise BadInput(
            f"algorithm.aggregate: {type(rule).__name__} makes small updates larger, and a running statistic "
            f"({buffers[0]}), such as a variance that must stay above 0, may not be carried on so; use buffers=local, "
            "or a network without running statistics, such as norm=group"
        )


def weighted(differences: Differences, coefficients: Tensor) -> Chosen:
    """The updates as they are, with these coefficients."""
    return Chosen(coefficients, torch.ones_like(coefficients))
