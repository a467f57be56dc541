"""A little is enough: colluders stay within the spread of honest updates. Baruch et al., NeurIPS 2019."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import torch

from fedlit.attacks.base import Attack, Conspirator, Honest, Plot, acting_as
from fedlit.attacks.updates import check_finite
from fedlit.client import Client
from fedlit.errors import BadInput
from fedlit.messages import Broadcast, Slots, Update
from fedlit.weights import combine


@dataclass(frozen=True)
class ALittleIsEnough(Attack):
    """All colluders send mean - z deviation, coordinate by coordinate, of what they would have sent honestly.

    They share their pictures: each trains on the pictures of every one, so that m colluders cost m^2 local updates.

    Args:
        deviations: z; None for the paper's, the most at which enough honest members are farther from the mean: with n
            members the quantile (n - m - s) / (n - m) of the normal distribution, s = floor(n / 2 + 1) - m.
    """

    deviations: float | None = None

    def __post_init__(self) -> None:
        if self.deviations is not None:
            check_finite("deviations", self.deviations)

    def admit(self, plot: Plot) -> None:
        if len(plot.sites) < 2:
            raise BadInput(
                f"algorithm.malicious: ALittleIsEnough needs 2 colluders or more, and there are {len(plot.sites)}"
            )
        if self.deviations is None and 2 * len(plot.sites) > plot.num_members:
            raise BadInput(
                f"algorithm.malicious: {len(plot.sites)} of {plot.num_members} members are the majority, for which "
                "ALittleIsEnough has no deviations; give algorithm.attack.deviations=NUMBER"
            )

    def local_update(self, client: Client, broadcast: Broadcast, honest: Honest) -> tuple[Update, Slots]:
        assert isinstance(client.site, Conspirator)
        plot, name = client.site.plot, client.site.name
        fellows = [acting_as(client, site=site) for site in plot.sites if site.name != name]
        own, memory = honest(client, broadcast)
        sent = {update.client: update.weights for update in (own, *(honest(each, broadcast)[0] for each in fellows))}
        z = most_deviations(plot) if self.deviations is None else self.deviations

        def colluding(*values: torch.Tensor) -> torch.Tensor:
            stacked = torch.stack(values).double()
            return (stacked.mean(0) - z * stacked.std(0, correction=0)).to(values[0].dtype)

        return replace(own, weights=combine(colluding, *(sent[each] for each in sorted(sent)))), memory


def most_deviations(plot: Plot) -> float:
    """The paper's z_max; 0 where it would be infinite or negative."""
    honest = plot.num_members - len(plot.sites)
    supporters = plot.num_members // 2 + 1 - len(plot.sites)
    share = (honest - supporters) / honest
    return NormalDist().inv_cdf(share) if 0.5 < share < 1 else 0.0
