"""Feature matching: the student's features are drawn to the teacher's embedding. Romero et al., FitNets, ICLR 2015."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedlit.client import Client
from fedlit.errors import BadInput
from fedlit.messages import Slots
from fedlit.teachers.teacher import SAMTeacher
from fedlit.training_state import load_optimizer_state, optimizer_state


class Matching:
    """mean (P f - e)^2: f the student's features, e the teacher's embedding, channel by channel of unit deviation.

    P is a 1x1 convolution that learns beside the student and is thrown away with the start; from pass to pass it is
    remembered by the server's client.

    Args:
        bottleneck: the student's module whose output is f, [B, C, h, w].

    Raises:
        BadInput: the student has no such module.
    """

    def __init__(self, client: Client, teacher: SAMTeacher, bottleneck: str):
        modules = dict(client.network.named_modules())
        if bottleneck not in modules:
            raise BadInput(
                f"start.bottleneck={bottleneck!r}: the network has no such module; it has {', '.join(modules)}"
            )
        self.client, self.module = client, modules[bottleneck]
        self.sam = teacher.load(client.device)
        self.seen: list[Tensor] = []
        image = client.site.train.batch([0])["image"].to(client.device)
        client.network.eval()
        with torch.no_grad(), self.watching():
            client.network(image)
            num_in, num_out = self.seen[0].shape[1], self.sam.encode(image).shape[1]
        self.projection = nn.Conv2d(num_in, num_out, 1).to(client.device)
        with torch.no_grad():  # nothing is drawn: it starts at the embedding's mean
            for value in self.projection.parameters():
                value.zero_()
        self.optimizer = torch.optim.Adam(self.projection.parameters(), lr=1e-3)
        if "projection" in client.memory:
            self.projection.load_state_dict(client.memory["projection"])
            load_optimizer_state(self.projection, self.optimizer, client.memory["projection_optimizer"])

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While this lasts, the features of the network's pass are noted."""
        self.seen.clear()
        handle = self.module.register_forward_hook(lambda module, inputs, output: self.seen.append(output))
        try:
            yield
        finally:
            handle.remove()

    def distance(self, image: Tensor) -> Tensor:
        """Between the features noted and the embedding of the same pictures [B, C, H, W]."""
        with torch.no_grad():
            embedding = self.sam.encode(image).float()
            embedding = (embedding - embedding.mean((0, 2, 3), keepdim=True)) / (
                embedding.std((0, 2, 3), keepdim=True) + 1e-5
            )
        (features,) = self.seen
        found = self.projection(features.float())
        return F.mse_loss(F.interpolate(found, embedding.shape[-2:], mode="bilinear", align_corners=False), embedding)

    def step(self, network: nn.Module) -> None:
        """The projection's own step, with the gradients of this one; those of a team are made equal first."""
        assert self.client.workbench is not None
        gradients = [value.grad for value in self.projection.parameters() if value.grad is not None]
        self.client.workbench.team.align(gradients)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def memory(self) -> Slots:
        """What the next pass goes on from."""
        state = {name: value.detach().cpu().clone() for name, value in self.projection.state_dict().items()}
        return {"projection": state, "projection_optimizer": optimizer_state(self.projection, self.optimizer)}
