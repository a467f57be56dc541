"""The mean of the loss or of a score over a site's pictures, with the loaded weights and without training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedlit.data.pictures import Pictures
from fedlit.errors import ClientFailed
from fedlit.training import Batch, Request, mean_loss, next_batch

if TYPE_CHECKING:
    from fedlit.client import Client


Measure = Callable[[nn.Module, Batch], Tensor]
"""(network in evaluation mode, batch) -> its mean over the batch's pictures."""


@torch.no_grad()
def mean_over(client: Client, pictures: Pictures, measure: Measure) -> float:
    """Each process of a team looks at its part.

    Raises:
        ClientFailed: there are no pictures, or the mean of a batch is NaN or Inf.
    """
    bench = client.workbench
    assert bench is not None, "a loss needs the workbench that a fleet lends"
    if not len(pictures):
        raise ClientFailed("it has none of the pictures that its loss is asked of; give it some, or weigh otherwise")
    team, length = bench.team, client.plan.batch_size if pictures.size is not None else 1
    starts = range(0, len(pictures), length)
    requests = [Request([*range(start, min(start + length, len(pictures)))], None) for start in starts]
    batches = bench.loader.batches(pictures, [team.part(request) for request in requests])
    means, counts = [], []
    bench.network.eval()
    for request in requests:
        batch = team.together(lambda: next_batch(bench, client.site, batches))
        means.append(measure(bench.network, batch).detach())
        counts.append(team.num_own(request))
    return mean_loss(team.share((torch.stack(means).double().tolist(), counts)))
