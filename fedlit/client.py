"""A client: a network, its loss and optimizer, at a site, with a memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler

from fedlit import local_score, training
from fedlit.data.pictures import Pictures
from fedlit.data.site import Site
from fedlit.errors import BadInput
from fedlit.losses import overlaps
from fedlit.messages import Slots, Update
from fedlit.privacy import fitting
from fedlit.resident import Resident
from fedlit.training import Batch, LocalTraining, Request
from fedlit.training_state import load_optimizer_state
from fedlit.weights import Weights, select

if TYPE_CHECKING:
    from fedlit.fleet import Workbench


class Client(lightning.LightningModule):
    """A site's part in the federation.

    All clients of a process share one resident network. `fit` needs the workbench that a fleet lends; without one, the
    same object trains alone under `lightning.Trainer`, where one epoch is one round's local work.

    Args:
        site: the hospital's data.
        network: image [B, C, H, W] -> logits.
        loss: (logits, target [B, K, H, W]) -> scalar mean over pictures.
        plan: how much and with what the client trains.
        keep_local: shell patterns of entries that stay at the site (FedBN: `*norm*`).
        channels_last: train in that memory format.
    """

    def __init__(
        self,
        site: Site,
        network: nn.Module,
        *,
        loss: Callable[[Tensor, Tensor], Tensor],
        plan: LocalTraining,
        keep_local: Sequence[str] = (),
        channels_last: bool = False,
    ):
        super().__init__()
        self.site = site
        self.network = network
        self.loss = loss
        self.plan = plan
        self.keep_local = tuple(keep_local)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.memory: Slots = {}
        self.workbench: Workbench | None = None
        self.reports_validation = False
        self.report: dict[str, float] = {}

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def objective(self, network: nn.Module, batch: Batch) -> Tensor:
        """The mean loss over the pictures of a batch."""
        return self.loss(*self._predicted(network, batch))

    def overlaps(self, network: nn.Module, batch: Batch) -> Tensor:
        """What Dice is made of, for the pictures and classes of a batch, see `fedlit.losses.overlaps`."""
        return overlaps(*self._predicted(network, batch))

    def _predicted(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits, and the target on their device."""
        image = batch["image"].to(self.device, memory_format=self.memory_format, non_blocking=True)
        return network(image), batch["target"].to(self.device, non_blocking=True)

    def parameters_of(self, names: Collection[str] | None = None) -> list[nn.Parameter]:
        """The trained parameters of the resident network, or those of these names."""
        return [value for name, value in self.resident.parameters.items() if names is None or name in names]

    def make_optimizer(self, round: int, trained: Collection[str] | None = None) -> Optimizer:
        """The optimizer of one round, with the state kept from the last one where the plan keeps it.

        Args:
            trained: names of its parameters, instead of all.
        """
        optimizer = self.plan.optimizer(self.parameters_of(trained))
        for group in optimizer.param_groups:
            group["lr"] *= self.plan.schedule(round) if self.plan.schedule else 1
        if self.plan.optimizer_state == "keep" and "optimizer" in self.memory:
            load_optimizer_state(self.network, optimizer, self.memory["optimizer"])
        return optimizer

    @property
    def device(self) -> torch.device:
        """The workbench's: Fabric moves the resident network there, and no client."""
        return self.workbench.fabric.device if self.workbench else super().device

    @property
    def resident(self) -> Resident:
        return self.workbench.resident if self.workbench else Resident(self.network)

    # What an algorithm calls

    def load(self, weights: Weights) -> None:
        """Put the broadcast weights into the resident network, then the client's own kept entries."""
        self.resident.load({**weights, **self.memory.get("kept", {})})

    def fit(self, round: int, *, plan: LocalTraining | None = None, **openings: Any) -> None:
        """Train for one round; see `fedlit.training.fit` for the openings.

        Args:
            plan: how much and with what, instead of the client's own.
        """
        own, self.plan = self.plan, plan or self.plan
        try:
            self.report = {"loss": self._train(round, **openings)}
        finally:
            self.plan = own
        if self.reports_validation:
            self.report["validation_loss"] = self.loss_over(self.site.val)
        if self.keep_local:
            self.memory = {**self.memory, "kept": select(self.weights(), self.keep_local)}

    def _train(self, round: int, **openings: Any) -> float:
        return (training.fit if self.plan.privacy is None else fitting.fit)(self, round, **openings)

    def validation_dice(self, weights: Weights) -> float:
        """The mean Dice over the site's validation cases; these weights stay in the resident network."""
        self.resident.load(weights)
        return local_score.mean_dice_over(self, self.site.val)

    def loss_over(self, pictures: Pictures) -> float:
        """The mean loss over pictures with the loaded weights, in evaluation mode, without augmentation.

        Raises:
            ClientFailed: there are no pictures, or the loss is NaN or Inf.
        """
        return local_score.mean_loss_over(self, pictures)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the resident network's entries."""
        return self.resident.read()

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """The resident network's trained parameters, less those that stay at the site."""
        parameters = self.resident.parameters
        return {name: value for name, value in parameters.items() if not select({name: value}, self.keep_local)}

    def here(self, weights: Weights) -> dict[str, Tensor]:
        """The values of the shared parameters among `weights`, on the network's device; 0 where there is none."""
        return {
            name: weights[name].to(parameter.device) if name in weights else torch.zeros_like(parameter).detach()
            for name, parameter in self.shared_parameters().items()
        }

    def distance(self, start: Weights) -> float:
        """The Euclidean distance that training has moved the shared parameters from `start`."""
        start = self.here(start)
        moved = [
            (value.detach() - start[name]).double().square().sum() for name, value in self.shared_parameters().items()
        ]
        return torch.stack(moved).sum().sqrt().item()

    def update(
        self, weights: Weights | None = None, *, numbers: Mapping[str, float] | None = None, **slots: Weights
    ) -> Update:
        """The message to the server: the shared entries (or `weights`), further numbers, and any further slots."""
        if weights is None:
            weights = self.weights()
            kept = select(weights, self.keep_local)
            weights = {name: value for name, value in weights.items() if name not in kept}
        return Update(self.site.name, len(self.site.train), weights, slots, {**self.report, **(numbers or {})})

    # What lightning.Trainer calls

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        training.reseed(self.plan.step_seed(self.site, self.current_epoch, batch_index), self.device)
        loss = self.objective(self.network, batch)
        self.log("loss", loss, batch_size=len(batch["image"]))
        return loss

    def configure_optimizers(self) -> Any:
        if self.plan.privacy is not None:
            raise BadInput("privacy: lightning.Trainer adds no noise; train by `client.fit`, or without privacy")
        optimizer = self.make_optimizer(0)
        schedule = self.plan.schedule
        if schedule is None:
            return optimizer
        first = schedule(0)
        return [optimizer], [LambdaLR(optimizer, lambda round: schedule(round) / first)]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_Batches(self.site), sampler=_Rounds(self), batch_size=None)


class _Batches(Dataset):
    def __init__(self, site: Site):
        self.site = site

    def __getitem__(self, request: Request) -> Batch:
        return self.site.train.batch(request.indices, request.seeds)


class _Rounds(Sampler):
    """The requests of round after round; Lightning calls `set_epoch` before each."""

    def __init__(self, client: Client):
        self.client = client
        self.round = 0

    def set_epoch(self, round: int) -> None:
        self.round = round

    def __iter__(self) -> Iterator[Request]:
        return (request for step in self.client.plan.requests(self.client.site, self.round) for request in step)

    def __len__(self) -> int:
        return sum(1 for _ in iter(self))
