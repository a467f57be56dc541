"""The exact mean over all processes: each adds up its blocks of the model, and gives the others what came out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fedlit.weights import CHUNK, WeightedSum, add_exactly

BLOCKS = 1 << 22  # elements of the blocks of one round, one block for each process
SMALLEST = 1 << 16
AHEAD = 4  # rounds that travel while one is added up


class Arriving(NamedTuple):
    """The sums of other processes over one block, on their way here."""

    block: slice
    pairs: list[tuple[Tensor, Tensor]]
    messages: list[Any]


def mean_of_all(total: WeightedSum, have_terms: Sequence[bool], place: int, divisor: float) -> dict[str, Tensor]:
    """sum_p sum_k c_k w_k / divisor over the processes p, in the terms' own dtypes, equal in every process.

    12 bytes an element travel to whom they are added up by, 4 bytes back. `total` is used up.

    Args:
        total: of this process, perhaps of no term.
        have_terms: whether each process has any, in their order.
        place: of this process among them.
        divisor: the sum of all c_k, whose last bit must not depend on who added what.
    """
    high, low = total.pair()
    mean = low  # a block's mean comes back after its sum has gone
    rounds = blocks(high.numel(), len(have_terms))
    arriving = [_send_sums(high, low, each, have_terms, place, number) for number, each in enumerate(rounds[:AHEAD])]
    going: list[Any] = []
    for number, of_round in enumerate(rounds):
        block, pairs, messages = arriving.pop(0)
        _wait(messages)
        _add_up((high[block], low[block]), pairs, divisor)
        going += _send_means(mean, of_round, place, number)
        if (ahead := number + AHEAD) < len(rounds):
            arriving.append(_send_sums(high, low, rounds[ahead], have_terms, place, ahead))
    _wait(going)
    return total.shaped(mean)


def blocks(num_elements: int, num_processes: int) -> list[list[slice]]:
    """For every round the block of each process; the last ones may be short or empty."""
    length = max(SMALLEST, BLOCKS // num_processes)
    bounds = [
        slice(min(start, num_elements), min(start + length, num_elements))
        for start in range(0, max(1, num_elements), length)
    ]
    bounds += [slice(num_elements, num_elements)] * (-len(bounds) % num_processes)
    return [bounds[first : first + num_processes] for first in range(0, len(bounds), num_processes)]


def _send_sums(
    high: Tensor, low: Tensor, of_round: list[slice], have_terms: Sequence[bool], place: int, number: int
) -> Arriving:
    """Post the messages of one round: to the owner of each block the sum over it, from the others that of our own."""
    mine = of_round[place]
    messages, pairs = [], []
    for peer, block in enumerate(of_round):
        if peer == place:
            continue
        if have_terms[peer] and mine.start < mine.stop:
            pair = torch.empty_like(high[mine]), torch.empty_like(low[mine])
            pairs.append(pair)
            messages += [dist.P2POp(dist.irecv, part, peer, tag=3 * number + kind) for kind, part in enumerate(pair)]
        if have_terms[place] and block.start < block.stop:
            pair = high[block], low[block]
            messages += [dist.P2POp(dist.isend, part, peer, tag=3 * number + kind) for kind, part in enumerate(pair)]
    return Arriving(mine, pairs, _post(messages))


def _send_means(mean: Tensor, of_round: list[slice], place: int, number: int) -> list[Any]:
    """Post the messages that bring every block's mean from its owner to all others."""
    messages, tag = [], 3 * number + 2
    for peer, block in enumerate(of_round):
        if peer == place:
            continue
        if block.start < block.stop:
            messages.append(dist.P2POp(dist.irecv, mean[block], peer, tag=tag))
        if of_round[place].start < of_round[place].stop:
            messages.append(dist.P2POp(dist.isend, mean[of_round[place]], peer, tag=tag))
    return _post(messages)


def _add_up(pair: tuple[Tensor, Tensor], others: list[tuple[Tensor, Tensor]], divisor: float) -> None:
    """The mean of all sums, put into the second of `pair`; part by part, so that it stays in the cache."""
    length = CHUNK if pair[0].device.type == "cpu" else max(1, pair[0].numel())
    for start in range(0, pair[0].numel(), length):
        part = slice(start, start + length)
        high, low = pair[0][part], pair[1][part].double()
        for other in others:
            high = add_exactly(high, low, other[0][part])
            low += other[1][part]
        pair[1][part] = (high + low) / divisor


def _post(messages: list[Any]) -> list[Any]:
    return dist.batch_isend_irecv(messages) if messages else []


def _wait(messages: list[Any]) -> None:
    for message in messages:
        message.wait()
