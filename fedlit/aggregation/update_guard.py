"""The update guard: what to do with updates that are not finite, or much larger than the others of their round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from fedlit.aggregation.base import ROOT, Chosen, Differences
from fedlit.aggregation.screening import Screening
from fedlit.errors import ClientFailed

Policy = Literal["fail", "drop", "clip"]

NORMAL = 1.4826
"""Standard deviations of a normal distribution in its median absolute deviation."""

LEAST_SPREAD = 0.1
"""Of the median norm: clients that are alike by chance are no measure of what is far from them."""


@dataclass(frozen=True)
class UpdateGuard(Screening):
    """An update is an outlier where |w_k - w| is above median + num_deviations 1.4826 MAD over the round's updates.

    MAD is the median absolute deviation of the norms, at least a tenth of their median. What the server trains itself,
    see `FLTrust`, is no client's update and no candidate. What is done is recorded: `guard` of the run's summary counts
    it by client, `dropped` and `warnings` name the round, the client and the norm.

    Args:
        policy: `fail` the round, `drop` the client from it (it remembers nothing of it), or `clip` the change to the
            limit; an update with NaN or Inf cannot be clipped and is dropped.
        num_deviations: 3.5 is what Iglewicz and Hoaglin (1993) advise.
        rule: what makes one of the others.
    """

    policy: Policy = "drop"
    num_deviations: float = 3.5

    takes_any: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise ValueError(f"policy={self.policy!r} is unknown; use one of {', '.join(get_args(Policy))}")
        if not self.num_deviations > 0:
            raise ValueError(f"num_deviations={self.num_deviations!r} is not allowed; use a number above 0")

    @property
    def is_guarded(self) -> bool:
        return True

    def limit(self, norms: Tensor) -> tuple[float, float]:
        """The largest norm that is none too many, and the median."""
        median = norms.quantile(0.5)
        deviation = (norms - median).abs().quantile(0.5).clamp(min=LEAST_SPREAD * median)
        return float(median + self.num_deviations * NORMAL * deviation), float(median)

    def choose(self, differences: Differences) -> Chosen:
        norms, count = differences.norms(), len(differences)
        limit, broken, large = self.outliers(differences, norms)
        if self.policy == "fail" and (reasons := {**broken, **large}):
            name = min(reasons)
            raise ClientFailed(f"client {name!r}: {reasons[name]}; UpdateGuard's policy is fail")
        dropped = broken if self.policy == "clip" else {**broken, **large}
        kept = torch.tensor([place for place, name in enumerate(differences.names) if name not in dropped])
        is_large = torch.tensor([name in large for name in differences.names])[kept]
        scales = torch.where(is_large, limit / norms[kept], torch.ones_like(norms[kept]))
        inner = self.rule.choose(differences.only(kept).scaled(scales))
        coefficients, all_scales = torch.zeros(count, dtype=torch.float64), torch.ones(count, dtype=torch.float64)
        coefficients[kept], all_scales[kept] = inner.coefficients, inner.scales * scales
        clipped = {} if self.policy == "drop" else large
        return Chosen(coefficients, all_scales, {**dropped, **inner.dropped}, {**clipped, **inner.clipped})

    def outliers(self, differences: Differences, norms: Tensor) -> tuple[float, dict[str, str], dict[str, str]]:
        """The limit; the clients whose updates are not finite, and those whose norms are above it, and why.

        Raises:
            ClientFailed: no client's update is finite, or not that which all are compared with.
        """
        names, finite = differences.names, norms.isfinite()
        if ROOT in names and not finite[names.index(ROOT)]:
            raise ClientFailed(
                "the update of the server's own site holds NaN or Inf, and all others are compared with it; lower lr "
                "or set gradient_clip"
            )
        sound = finite & differences.of_clients()
        if not sound.any():
            raise ClientFailed("no update of the round is finite; lower lr or set gradient_clip")
        limit, median = self.limit(norms[sound])
        broken = {names[place]: "its update holds NaN or Inf" for place in (~finite).nonzero().flatten()}
        large = {}
        for place in (sound & (norms > limit)).nonzero().flatten():
            norm, most = apart(float(norms[place]), limit)
            reason = f"its update's norm {norm} is above the limit {most} (the median of {int(sound.sum())} is"
            large[names[place]] = f"{reason} {median:.3g})"
        return limit, broken, large


def apart(one: float, other: float) -> tuple[str, str]:
    """Two different numbers in as few digits, from three on, as tell them apart."""
    texts = ((f"{one:.{digits}g}", f"{other:.{digits}g}") for digits in range(3, 18))
    return next(pair for pair in texts if pair[0] != pair[1])
