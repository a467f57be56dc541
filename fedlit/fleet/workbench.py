"""What a process lends to the client at work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lightning.fabric import Fabric
from torch import Tensor, nn

from fedlit.fleet.team import Team
from fedlit.hardware import differentiable

if TYPE_CHECKING:
    from lightning.fabric.wrappers import _FabricModule

    from fedlit.data.loading import Loader
    from fedlit.resident import Resident


@dataclass(frozen=True)
class Workbench:
    """What a process lends to the client at work.

    Args:
        network: what Fabric made of the resident's network.
        synced: the same, its gradients averaged over the team; for a team of one the same object.
    """

    fabric: Fabric
    network: _FabricModule
    synced: _FabricModule
    resident: Resident
    loader: Loader
    team: Team = field(default_factory=Team)

    def lend(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """A network beside the resident one, on the same device and in the same precision, for as long as it is used.

        Fabric would keep one that it sets up for ever.
        """
        network.to(self.fabric.device)

        def model(images: Tensor) -> Tensor:
            with self.fabric.autocast(), differentiable(self.fabric.device):
                return network(images.to(next(network.parameters()).dtype)).float()

        return model
