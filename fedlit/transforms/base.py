"""What a transform of updates is, and which of them go together in what order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from fedlit.weights import Weights

STAGES = ("compression", "precision", "privacy", "masking")
"""What may happen to an update, in this order and each at most once."""


@dataclass(frozen=True)
class Transform(ABC):
    """Something that is done to every update of a run, where it is sent, where it arrives, or at both ends."""

    stage: ClassVar[str]

    def problems(
        self, algorithm: Any, settings: Mapping[str, Any], before: Sequence[Transform], num_members: int | None = None
    ) -> Iterator[str]:
        """What forbids this transform in an experiment.

        Args:
            algorithm: of the experiment; anything else where it is not known.
            settings: the experiment's plain keys, such as `num_rounds`.
            before: the transforms that come before this one.
            num_members: how many clients there are, where it is known.
        """
        if not getattr(algorithm, "sends_updates", True):
            yield f"{type(algorithm).__name__} sends no updates of members; use no transforms"
        if exchanged := getattr(algorithm, "exchanged", ""):
            yield f"{type(algorithm).__name__} sends {exchanged}, which has to arrive as it is; use no transforms"
        for other in before:
            one, two = STAGES.index(other.stage), STAGES.index(self.stage)
            names = f"{type(self).__name__} and {type(other).__name__}"
            if one == two:
                yield f"{names} do the same kind of thing ({self.stage}); choose one of them"
            elif one > two:
                order = ", ".join(each.__name__ for each in (type(self), type(other)))
                yield f"{names} are in the wrong order; list them as {order}"


@dataclass(frozen=True)
class Compression(Transform):
    """A client sends its changes, and these in fewer bytes.

    Args:
        feedback: what could not be sent stays in the client's memory and is added to what it sends next (error
            feedback; Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019).
    """

    feedback: bool = field(default=True, kw_only=True)

    @abstractmethod
    def encode(self, changes: Weights, seed: int) -> dict[str, Tensor]:
        """What is sent of floating-point tensors; integer ones pass as they are. Names are free."""

    @abstractmethod
    def decode(self, sent: Weights, like: Weights) -> dict[str, Tensor]:
        """The tensors again that `encode` was given, nearly; of the names, shapes and dtypes of `like`."""
