"""Rules that look at updates before another rule makes one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedlit.aggregation.base import Aggregation, Coefficient, Comparing, PerCoordinate
from fedlit.aggregation.mean import Mean


@dataclass(frozen=True)
class Screening(Comparing):
    """A rule that changes updates or leaves some out, and hands the others on.

    Args:
        rule: what makes one of the others; any rule.
    """

    rule: Aggregation = field(default_factory=Mean, kw_only=True)

    @property
    def needs_root(self) -> bool:
        return self.rule.needs_root

    @property
    def is_guarded(self) -> bool:
        return self.rule.is_guarded

    @property
    def stretches(self) -> bool:
        return self.rule.stretches

    @property
    def needs_validation(self) -> bool:
        return self.rule.needs_validation

    @property
    def per_coordinate(self) -> PerCoordinate | None:
        return self.rule.per_coordinate

    def coefficients(self, num_samples: Mapping[str, int]) -> Coefficient:
        return self.rule.coefficients(num_samples)
