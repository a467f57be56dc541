"""How loaded weights do on a site's pictures, without training: their mean loss, and their Dice case by case."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedlit.data.pictures import Case, Pictures
from fedlit.errors import ClientFailed
from fedlit.training import Batch, Request, mean_loss, next_batch

if TYPE_CHECKING:
    from fedlit.client import Client
    from fedlit.fleet.workbench import Workbench


@torch.no_grad()
def mean_loss_over(client: Client, pictures: Pictures) -> float:
    """The mean loss over pictures. Each process of a team looks at its part.

    Raises:
        ClientFailed: there are no pictures, or the mean of a batch is NaN or Inf.
    """
    found = [(mean, len(own)) for own, mean in _looked_at(client, pictures, client.objective)]
    means, counts = zip(*found, strict=True)
    return mean_loss(_bench(client).team.share((torch.stack(means).double().tolist(), counts)))


@torch.no_grad()
def mean_dice_over(client: Client, pictures: Pictures) -> float:
    """The mean Dice over the cases of pictures, see `dice_of_cases`. Each process of a team looks at its part.

    Raises:
        ClientFailed: there are no pictures.
    """
    found = [(own, values[: len(own)]) for own, values in _looked_at(client, pictures, client.overlaps)]
    indices = [index for own, _ in found for index in own]
    counts = torch.empty(len(pictures), *found[0][1].shape[1:], dtype=torch.long)
    for numbers, values in _bench(client).team.share((indices, torch.cat([values for _, values in found]).cpu())):
        counts[numbers] = values
    return dice_of_cases(pictures.cases, counts)


def dice_of_cases(cases: Sequence[Case], counts: Tensor) -> float:
    """The mean over cases of the mean over classes of Dice, by which runs are judged, a volume as one body.

    A class in neither mask of a case does not count; 1 where nothing counts.

    Args:
        counts: of every picture and class [pictures, K, 2], see `overlaps`.
    """
    means = []
    for case in cases:
        both, size = counts[[*case.indices]].sum(0).double().unbind(1)
        if counted := (both / size)[size > 0].tolist():
            means.append(statistics.fmean(counted))
    return statistics.fmean(means) if means else 1.0


def _looked_at(
    client: Client, pictures: Pictures, measure: Callable[[nn.Module, Batch], Tensor]
) -> Iterator[tuple[list[int], Tensor]]:
    """Of this process's part of every batch the numbers of the pictures that count, and what `measure` finds."""
    bench = _bench(client)
    if not len(pictures):
        raise ClientFailed("it has none of the pictures that its loss is asked of; give it some, or weigh otherwise")
    team, length = bench.team, client.plan.batch_size if pictures.size is not None else 1
    starts = range(0, len(pictures), length)
    requests = [Request([*range(start, min(start + length, len(pictures)))], None) for start in starts]
    parts = [team.part(request) for request in requests]
    batches = bench.loader.batches(pictures, parts)
    bench.network.eval()
    for request, part in zip(requests, parts, strict=True):
        batch = team.together(lambda: next_batch(bench, client.site, batches))
        yield [*part.indices[: team.num_own(request)]], measure(bench.network, batch).detach()


def _bench(client: Client) -> Workbench:
    assert client.workbench is not None, "to look at pictures needs the workbench that a fleet lends"
    return client.workbench
