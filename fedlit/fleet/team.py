"""The processes that train one client together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import Tensor, nn

from fedlit.errors import BadInput
from fedlit.fleet.processes import Processes
from fedlit.fleet.starting import Placed

if TYPE_CHECKING:
    from lightning.fabric.wrappers import _FabricModule

    from fedlit.training import Request


@dataclass(frozen=True)
class Team(Processes):
    """The processes that train one client together: each a part of every batch, their gradients averaged.

    Args:
        number: which of the world's teams.
        gradients: the process group in which they travel, gloo or NCCL.
    """

    number: int = 0
    gradients: Any = None

    def part(self, request: Request) -> Request:
        """What of a batch this process works on; a process without a share works on the first picture, for nothing."""
        if self.size == 1:
            return request
        own = slice(self.place, None, self.size) if self.num_own(request) else slice(0, 1)
        return request._replace(indices=request.indices[own], seeds=request.seeds and request.seeds[own])

    def num_own(self, request: Request) -> int:
        """Pictures of a batch that count here."""
        return len(range(self.place, len(request.indices), self.size))

    def weighted(self, loss: Tensor, request: Request) -> Tensor:
        """A mean over this process's pictures, so that the mean over the team is the mean over the batch."""
        if self.size == 1:
            return loss
        return loss * (self.size * self.num_own(request) / len(request.indices))

    def averaging(self, fabric: Fabric, network: _FabricModule, is_last: bool) -> AbstractContextManager:
        """Gradients are averaged once a step, with its last batch."""
        return nullcontext() if self.size == 1 or is_last else fabric.no_backward_sync(network)

    def check_reached(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Raises BadInput where the loss has not reached a parameter: its gradient would be waited for in vain."""
        unreached = [name for name, value in parameters.items() if self.size > 1 and value.grad is None]
        if unreached:
            raise BadInput(
                f"network: the loss never reaches {len(unreached)} trained parameters, such as "
                f"{', '.join(unreached[:3])}, so {self.size} processes cannot share a client; freeze them "
                "(requires_grad=False) or set processes_per_client=1"
            )

    def normalising_together(self, network: nn.Module, device: torch.device, warn: Callable[[str], None]) -> nn.Module:
        """The network with BatchNorm over the team's whole batch; the CPU has none that could, and a warning.

        Other layers that say by `averages_batches` that they keep a mean over batches are only told of.
        """
        if self.size == 1:
            return network
        if any(getattr(module, "averages_batches", False) for module in network.modules()):
            warn(
                f"amplitude_norm sees a {self.size}th of each batch in every process of a team, and the first one's "
                "amplitudes are kept; use processes_per_client=1 for the result of one process"
            )
        if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
            return network
        if device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(network, self.gradients)
        warn(
            f"BatchNorm sees a {self.size}th of each batch in every process of a team, and the first one's statistics "
            "are kept; use norm=group, or processes_per_client=1 for the result of one process"
        )
        return network

    def wrap(self, fabric: Fabric, network: nn.Module) -> _FabricModule:
        """The network as Fabric wraps it, its gradients averaged within the team."""
        strategy = fabric.strategy
        assert isinstance(strategy, Placed)
        strategy.team = self.gradients
        try:
            return fabric.setup_module(network)
        finally:
            strategy.team = None

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, group=self.gradients, group_src=0)
