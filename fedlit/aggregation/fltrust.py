"""FLTrust: updates count by how far they point the way of the server's own. Cao et al., NDSS 2021."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fedlit.aggregation.base import ROOT, Chosen, Coefficient, Comparing, Differences
from fedlit.errors import BadInput

MISSING = (
    "algorithm.aggregate: FLTrust compares all updates with one that is learnt from the server's own pictures; "
    "name the site that has them by server_site=NAME, or use another rule"
)


@dataclass(frozen=True)
class FLTrust(Comparing):
    """sum_k t_k (|g_0| / |g_k|) g_k / sum_k t_k with g_k = w_k - w and the trust t_k = max(0, cos(g_k, g_0)).

    g_0 is the change that the server's own site asks for: it trains in every round as the members do, and does not
    count itself. That is the work of no client: nothing of it is sent, and no number of clients holds it. Where no
    client is trusted, the weights stay and a warning says so.
    """

    @property
    def needs_root(self) -> bool:
        return True

    @property
    def stretches(self) -> bool:
        return True

    def coefficients(self, num_samples: Mapping[str, int]) -> Coefficient:
        if ROOT not in num_samples:
            raise BadInput(MISSING)
        return lambda update: 1.0

    def choose(self, differences: Differences) -> Chosen:
        if ROOT not in differences.names:
            raise BadInput("algorithm.aggregate: the server's own site has failed, and FLTrust compares all with it")
        root, norms = differences.names.index(ROOT), differences.norms()
        inner = differences.gram[root]
        trust = torch.where((inner > 0) & (norms > 0), inner / (norms * norms[root]), torch.zeros_like(norms))
        trust[root] = 0
        scales = torch.where(trust > 0, norms[root] / norms, torch.zeros_like(norms))
        if trust.any():
            return Chosen(trust, scales)
        stays = torch.zeros_like(trust)
        stays[root] = 1
        reason = "no client's update points the way of the server's own, and the weights stay as they are"
        return Chosen(stays, scales, clipped={ROOT: reason})
