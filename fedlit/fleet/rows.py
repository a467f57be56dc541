"""All updates of a round side by side, block by block: each process works on its own blocks of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from fedlit.fleet.world import World

ELEMENTS = 1 << 22  # of a block of all rows
SHORTEST = 1 << 14

Block = Callable[[Tensor, slice], Tensor]
"""(rows [K, m] in order of names, which coordinates of n these m are) -> what is to be known of them."""


class Rows:
    """K updates as rows of n coordinates, each in the process that is its client's home.

    The blocks depend on K and n alone, so that what is computed of each does not depend on the number of processes.

    Args:
        here: the rows of this process by client, [n] each, on the CPU and of one dtype.
        places: by client, the process that has its row; all clients of the round.
    """

    def __init__(self, here: Mapping[str, Tensor], places: Mapping[str, int], num_elements: int, world: World):
        self.here = {name: here[name] for name in sorted(here)}
        self.names = tuple(sorted(places))
        self.of_place = [[name for name in self.names if places[name] == place] for place in range(world.size)]
        self.world = world
        length = max(SHORTEST, ELEMENTS // len(self.names))
        self.blocks = [
            slice(start, min(start + length, num_elements)) for start in range(0, max(1, num_elements), length)
        ]

    def each_block(
        self, function: Block, empty: Callable[[int], Tensor], dtype: torch.dtype
    ) -> Iterator[tuple[slice, Tensor]]:
        """Every block in order, and what `function` returns for it, computed in one process and known in all.

        Args:
            empty: number of coordinates -> a tensor like what `function` returns for so many.
            dtype: of the rows.

        Raises:
            ProcessLost: another process has ended.
        """
        size, place = self.world.size, self.world.place
        for first in range(0, len(self.blocks), size):
            of_round = self.blocks[first : first + size]
            rows = self._gathered(of_round, dtype)
            found = [
                function(rows, block) if owner == place else empty(block.stop - block.start)
                for owner, block in enumerate(of_round)
            ]
            self._spread(found)
            yield from zip(of_round, found, strict=True)

    def _gathered(self, of_round: list[slice], dtype: torch.dtype) -> Tensor:
        """All rows of the block of this round that is worked on here; of none, no rows."""
        place, messages, parts = self.world.place, [], []
        for peer, block in enumerate(of_round):
            if peer != place and self.here:
                own = torch.stack([row[block] for row in self.here.values()])
                messages.append(dist.P2POp(dist.isend, own, peer, group=self.world.lane))
        mine = of_round[place] if place < len(of_round) else None
        for peer, names in enumerate(self.of_place):
            if mine is None or not names:
                continue
            if peer == place:
                parts.append(torch.stack([self.here[name][mine] for name in names]))
                continue
            parts.append(torch.empty(len(names), mine.stop - mine.start, dtype=dtype))
            messages.append(dist.P2POp(dist.irecv, parts[-1], peer, group=self.world.lane))
        self._travel(messages)
        if not parts:
            return torch.empty(0, 0, dtype=dtype)
        order = [name for names in self.of_place for name in names]
        return torch.cat(parts)[[order.index(name) for name in self.names]]

    def _spread(self, found: list[Tensor]) -> None:
        """What each process has found becomes known in all; `found` has a place for it."""
        place, messages = self.world.place, []
        for peer in range(self.world.size):
            if peer == place:
                continue
            if place < len(found):
                messages.append(dist.P2POp(dist.isend, found[place], peer, group=self.world.lane))
            if peer < len(found):
                messages.append(dist.P2POp(dist.irecv, found[peer], peer, group=self.world.lane))
        self._travel(messages)

    def _travel(self, messages: list[dist.P2POp]) -> None:
        if not messages:
            return
        try:
            for message in dist.batch_isend_irecv(messages):
                message.wait()
        except RuntimeError as error:
            raise self.world.lookout.explain(error) from error
