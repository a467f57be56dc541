"""Norm clipping: no update may change the weights by more than a limit. Sun et al., arXiv:1911.07963, 2019."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fedlit.aggregation.base import Chosen, Differences
from fedlit.aggregation.screening import Screening


@dataclass(frozen=True)
class NormClipping(Screening):
    """Each update becomes w + min(1, limit / |w_k - w|) (w_k - w); then a further rule makes one of them.

    Parameters and float buffers are moved together, between w and w_k, so that running variances stay positive. What
    the server trains itself, see `FLTrust`, is no client's update: it is not clipped, nor among the round's norms.

    Args:
        limit: of the norm; None for the median of the round's norms.
        rule: what makes one of the clipped updates; the paper's is the mean.
    """

    limit: float | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and not self.limit > 0:
            raise ValueError(f"limit={self.limit!r} is not allowed; use a number above 0, or null")

    def choose(self, differences: Differences) -> Chosen:
        norms, is_client = differences.norms(), differences.of_clients()
        limit = norms[is_client].quantile(0.5) if self.limit is None else torch.tensor(self.limit, dtype=norms.dtype)
        scales = torch.where(is_client & (norms > limit), limit / norms, torch.ones_like(norms))
        chosen = self.rule.choose(differences.scaled(scales))
        return replace(chosen, scales=chosen.scales * scales)
