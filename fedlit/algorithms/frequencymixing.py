"""FedDG's augmentation: pictures take on the low-frequency amplitudes of other sites. Liu et al., CVPR 2021."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedlit.algorithms.base import Algorithm, require
from fedlit.client import Client
from fedlit.data.pictures import Pictures
from fedlit.messages import Aggregate, Broadcast, Server, Slots, Update
from fedlit.networks.amplitudes import amplitudes_of, check_frequencies, mixed, of_all
from fedlit.training import Batch
from fedlit.weights import Weights


@dataclass(frozen=True)
class FrequencyMixing(Algorithm):
    """FedAvg over pictures whose low-frequency amplitudes are mixed with those of another site; phases stay.

    Which site, and how much of it, is drawn for each picture of each step. Every client sends the mean amplitude
    spectrum of its training pictures and sees those of all others, from the second round on.

    Of FedDG this is one half: amplitude spectra are exchanged, and training pictures are augmented with them. The other
    half is not in it: no episodic learning (no meta-train and meta-test step) and no boundary loss; each step descends
    the experiment's own loss. And FedDG exchanges the spectrum of every picture, here it is the mean of a site.

    Args:
        strength: the share of the other site's amplitudes is drawn from 0 to this; 1 in the paper. 0 is FedAvg.
        num_frequencies: of each axis and sign, from 0: (2 n + 1)^2 numbers a channel are sent.
    """

    neutral: ClassVar[Mapping[str, float]] = {"strength": 0.0}

    strength: float = 1.0
    num_frequencies: int = 2

    def __post_init__(self) -> None:
        require(
            strength=(self.strength, 0 <= self.strength <= 1, "a share from 0 to 1"),
            num_frequencies=(self.num_frequencies, self.num_frequencies >= 0, "0 or more"),
        )

    @property
    def exchanged(self) -> str:
        side = 2 * self.num_frequencies + 1
        return f"every site's mean amplitude spectrum, {side} x {side} frequencies a channel" if self.strength else ""

    def check_size(self, size: Sequence[int]) -> None:
        if self.strength:
            check_frequencies(size, self.num_frequencies, "algorithm.num_frequencies")

    def broadcast(self, server: Server) -> Broadcast:
        places = {f"place/{name}": place for place, name in enumerate(server.clients)} if self.strength else {}
        return Broadcast(server.round, server.weights, server.slots, places)

    def local_update(self, client: Client, broadcast: Broadcast) -> tuple[Update, Slots]:
        client.load(broadcast.weights)
        if not self.strength:
            client.fit(broadcast.round)
            return client.update(), client.memory
        places = [name.partition("/")[2] for name in broadcast.scalars]
        own = places.index(client.site.name)
        memory = client.memory.get("spectrum") or {"amplitudes": mean_spectrum(client, self.num_frequencies)}
        bank = broadcast.slots.get("bank", {"present": torch.zeros(len(places))})
        others = [place for place in range(len(places)) if place != own and bank["present"][place]]
        if others:
            client.fit(broadcast.round, objective=self.mixing(client, bank["amplitudes"][others]))
        else:
            client.fit(broadcast.round)
        sent = alone(memory["amplitudes"].to(client.device), own, len(places))
        return client.update(bank=sent), {**client.memory, "spectrum": memory}

    def server_update(self, server: Server, aggregate: Aggregate) -> Server:
        if not self.strength:
            return replace(server, weights=aggregate.weights)
        bank = told_apart(aggregate.slots["bank"])
        if "bank" in server.slots:
            known = server.slots["bank"]
            bank = {
                "amplitudes": torch.where(of_all(known["present"]) > 0, known["amplitudes"], bank["amplitudes"]),
                "present": torch.maximum(known["present"], bank["present"]),
            }
        return replace(server, weights=aggregate.weights, slots={"bank": bank})

    def mixing(self, client: Client, spectra: Tensor) -> Callable[[nn.Module, Batch], Tensor]:
        """The objective over mixed pictures; `spectra` [S, C, n, n] are those of the other sites."""

        def objective(network: nn.Module, batch: Batch) -> Tensor:
            images = batch["image"].to(client.device)
            self.check_size(images.shape[-2:])
            whose = torch.randint(len(spectra), (len(images),))
            shares = self.strength * torch.rand(len(images))
            return client.objective(network, {**batch, "image": mixed(images, spectra[whose], shares)})

        return objective


def mean_spectrum(client: Client, count: int) -> Tensor:
    """The mean amplitudes [C, n, n] of the lowest frequencies of a client's training pictures, as they are stored."""
    pictures: Pictures = client.site.train
    length = client.plan.batch_size if pictures.size is not None else 1
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(pictures), length):
        images = pictures.images([*range(start, min(start + length, len(pictures)))])
        total = total + amplitudes_of(images, count).double().sum(0)
    return (total / len(pictures)).float()


def alone(amplitudes: Tensor, place: int, num_places: int) -> dict[str, Tensor]:
    """One client's spectrum in a bank that is 0 elsewhere, so that banks can be averaged and told apart again."""
    bank = amplitudes.new_zeros(num_places, *amplitudes.shape)
    present = amplitudes.new_zeros(num_places)
    bank[place], present[place] = amplitudes, 1
    return {"amplitudes": bank, "present": present}


def told_apart(mean: Weights) -> dict[str, Tensor]:
    """The bank whose mean over clients, however they are weighed, is given."""
    present = mean["present"]
    amplitudes = mean["amplitudes"] / of_all(torch.where(present > 0, present, 1))
    return {"amplitudes": amplitudes, "present": (present > 0).to(present.dtype)}
