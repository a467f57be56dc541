"""Where a run stands between two rounds: what it has cost, and which round was best on validation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedlit.federation import Round


@dataclass(frozen=True)
class Progress:
    """Sums over the rounds so far.

    `kept_round` is None until a round has been scored on validation; `best` is its value, -inf before. `screened` is
    how often, by client, `Aggregate.screened` has said what.
    """

    num_rounds: int = 0
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    kept_round: int | None = None
    best: float = -math.inf
    num_stale: int = 0  # evaluations since the kept round
    dropped: tuple[str, ...] = ()
    work: Mapping[str, tuple[float, int]] = field(default_factory=dict)  # client -> seconds, pictures
    warnings: tuple[str, ...] = ()
    screened: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        best = -math.inf if values["best"] is None else values["best"]
        return cls(
            **{**values, "best": best, "dropped": tuple(values["dropped"]), "warnings": tuple(values["warnings"])}
        )

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "best": None if self.best == -math.inf else self.best}

    def after(self, round: Round, value: float | None, warnings: Iterable[str] = ()) -> Progress:
        """With one more round, its validation result where it was scored, and what was warned of so far."""
        number = round.server.round
        work = dict(self.work)
        root = round.aggregate.root
        for report in (*round.aggregate.reports, *([] if root is None else [root])):
            seconds, pictures = work.get(report.client, (0.0, 0))
            work[report.client] = (seconds + report.seconds, pictures + report.num_samples)
        screened = {name: dict(counts) for name, counts in self.screened.items()}
        for name, what in round.aggregate.screened.items():
            counts = screened.setdefault(name, {"dropped": 0, "clipped": 0})
            counts[what] += 1
        is_better = value is not None and value > self.best
        dropped = (f"round {number}: {name}: {reason}" for name, reason in round.aggregate.dropped.items())
        return Progress(
            num_rounds=number,
            seconds=self.seconds + round.seconds,
            bytes_up=self.bytes_up + round.bytes_up,
            bytes_down=self.bytes_down + round.bytes_down,
            kept_round=number if is_better else self.kept_round,
            best=self.best if value is None else max(self.best, value),
            num_stale=0 if is_better else self.num_stale + (value is not None),
            dropped=(*self.dropped, *dropped),
            work=work,
            warnings=tuple(dict.fromkeys((*self.warnings, *warnings))),
            screened=screened,
        )

    def is_stale(self, patience: int | None) -> bool:
        """`patience` evaluations have brought nothing better."""
        return patience is not None and self.num_stale >= patience
