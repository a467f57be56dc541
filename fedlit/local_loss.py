"""The mean loss of the loaded weights over a site's pictures, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedlit.data.pictures import Pictures
from fedlit.errors import ClientFailed
from fedlit.training import Request, mean_loss, next_batch

if TYPE_CHECKING:
    from fedlit.client import Client


@torch.no_grad()
def loss_over(client: Client, pictures: Pictures) -> float:
    """See `Client.loss_over`; each process of a team looks at its part."""
    bench = client.workbench
    assert bench is not None, "a loss needs the workbench that a fleet lends"
    if not len(pictures):
        raise ClientFailed("it has none of the pictures that its loss is asked of; give it some, or weigh otherwise")
    team, length = bench.team, client.plan.batch_size if pictures.size is not None else 1
    starts = range(0, len(pictures), length)
    requests = [Request([*range(start, min(start + length, len(pictures)))], None) for start in starts]
    batches = bench.loader.batches(pictures, [team.part(request) for request in requests])
    losses, counts = [], []
    bench.network.eval()
    for request in requests:
        batch = team.together(lambda: next_batch(bench, client.site, batches))
        losses.append(client.objective(bench.network, batch).detach())
        counts.append(team.num_own(request))
    return mean_loss(team.share((torch.stack(losses).double().tolist(), counts)))
