"""The round loop, and the scoring of every predictor at every site."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fedlit.aggregation import ROOT
from fedlit.algorithms import Algorithm, Sampling
from fedlit.client import Client
from fedlit.data.pictures import Case, Pictures
from fedlit.data.site import Site
from fedlit.fedfms_score import FEDFMS, levels
from fedlit.fleet import Fleet
from fedlit.losses import masks
from fedlit.messages import Aggregate, Broadcast, Expert, Server, size
from fedlit.metrics import Scoring
from fedlit.prediction import Learnt, Predictor
from fedlit.prediction.predicted import Predicted, as_case, case_by_case
from fedlit.record import CaseRow, GateRow


@dataclass(frozen=True)
class Round:
    """A completed round: the server after it, who took part, what it cost in seconds and bytes."""

    server: Server
    cohort: tuple[str, ...]
    aggregate: Aggregate
    bytes_down: int
    seconds: float

    @property
    def bytes_up(self) -> int:
        return sum(report.num_bytes for report in self.aggregate.reports)


class Scores(NamedTuple):
    """One row per case, class and metric; of mixtures one per case, layer and member."""

    cases: list[CaseRow]
    gates: list[GateRow]


@dataclass(frozen=True)
class Federation:
    """Sites, the fleet that works for them, and who takes part in a round.

    Args:
        sites: by name, all that are scored.
        kept: shell patterns of entries that stay at a site.
        batch_size: pictures predicted at once.
    """

    sites: Mapping[str, Site]
    fleet: Fleet
    sampling: Sampling = field(default_factory=Sampling)
    kept: tuple[str, ...] = ()
    batch_size: int = 8

    @property
    def roles(self) -> dict[str, str]:
        """By site."""
        return {name: site.role for name, site in self.sites.items()}

    def run(self, algorithm: Algorithm, server: Server, num_rounds: int) -> Iterator[Round]:
        """Yield every round as it is completed."""
        server  = placed(enrolled(server, self.fleet.clients), self.fleet.workbench.fabric.device)
        clients = sorted(self.fleet.clients)
        while server.round < num_rounds:
            start     = time.perf_counter()
            cohort    = algorithm.cohort(server, clients, self.sampling)
            broadcast = algorithm.broadcast(server)
            older     = algorithm.older(server, cohort)  # what those who lag behind still train from
            num_bytes = self._bytes_down(cohort, broadcast, older, algorithm.num_begun_anew(server, cohort))
            aggregate = self.fleet.map(algorithm.local_update, cohort, broadcast, algorithm.aggregate, older)
            server    = replace(algorithm.server_update(server, aggregate), round=server.round + 1)
            self.fleet.commit()
            yield Round(server, tuple(cohort), aggregate, num_bytes, time.perf_counter() - start)

    def _bytes_down(
        self, cohort: Sequence[str], broadcast: Broadcast, older: Mapping[str, Broadcast], num_begun_anew: int
    ) -> int:
        """What the clients of a round are sent, with what they hear of each other; to the server nothing is sent."""
        cohort = [name for name in cohort if name != ROOT]
        forwarded = self.fleet.channel.num_bytes_forwarded(len(cohort))
        in_vain = num_begun_anew * size(broadcast)
        return in_vain + sum(size(older.get(name, broadcast)) + forwarded for name in cohort)

    def score(
        self,
        predictors: Mapping[str, Predictor],
        server: Server,
        *,
        scoring: Scoring,
        metrics: Sequence[str],
        classes: Sequence[str],
        split: str,
        names: Iterable[str] | None = None,
        experts: Mapping[str, Expert] | None = None,
    ) -> Scores:
        """Every predictor's scores at every site that it is meant for and that has cases in the split.

        Equal in every process.

        Args:
            experts: what members share with the predictors that need it.
        """
        asked = self.sites if names is None else names
        names = sorted(name for name in asked if len(getattr(self.sites[name], split)))
        found = Scores([], [])
        for model, predictor in predictors.items():
            of_its_roles = [name for name in names if self.sites[name].role in predictor.roles]
            if names and not of_its_roles:
                self.fleet.watch.warn(f"{model} is for {' and '.join(predictor.roles)} sites, and there is none")
            for name in of_its_roles[:1]:
                for remark in self._remarks(predictor, server, name, getattr(self.sites[name], split), experts):
                    self.fleet.watch.warn(f"{model}: {remark}")
            score = partial(self._score_site, predictor, server, experts or {}, scoring, metrics, split)
            for site, (scores, gates) in self.fleet.each(score, of_its_roles).items():
                if not scores:
                    self.fleet.watch.warn(f"there is no {model} model for {site}: it is not scored there")
                found.cases.extend(
                    CaseRow(server.round, site, case, model, split, classes[number], metric, value)
                    for case, number, metric, value in scores
                )
                found.gates.extend(
                    GateRow(server.round, site, case, model, split, layer, member, value)
                    for case, layer, member, value in gates
                )
        return found

    def _remarks(
        self, predictor: Predictor, server: Server, name: str, pictures: Pictures, experts: Mapping[str, Expert] | None
    ) -> Iterable[str]:
        """What one should know of a predictor, by the pictures of one site."""
        unlabelled = pictures.unlabelled()
        learnt = self.learnt(server, name, num_classes=pictures.num_classes, experts=experts)
        learnt.check_pictures(unlabelled)
        return predictor.remarks(learnt, unlabelled)

    def _score_site(
        self,
        predictor: Predictor,
        server: Server,
        experts: Mapping[str, Expert],
        scoring: Scoring,
        metrics: Sequence[str],
        split: str,
        name: str,
    ) -> tuple[list[tuple[str, int, str, float]], list[tuple[str, str, str, float]]]:
        pictures = getattr(self.sites[name], split)
        read = masks if set(FEDFMS).isdisjoint(metrics) else levels
        scores, gates = [], []
        for case, prediction, of_case in self.predict(predictor, server, name, pictures, read=read, experts=experts):
            target = pictures.batch(case.indices)["target"].bool()
            scored = scoring.score(
                as_case(prediction, case).numpy(), as_case(target, case).numpy(),
                spacing=case.spacing, names=metrics, numbers=case.numbers,
            )  # fmt: skip
            scores += [(case.id, *score) for score in scored]
            gates += [(case.id, layer, member, value) for (layer, member), value in of_case.items()]
        return scores, gates

    def predict(
        self,
        predictor: Predictor,
        server: Server,
        name: str,
        pictures: Pictures,
        cases: Sequence[Case] | None = None,
        *,
        read: Callable[[Tensor, int], Tensor] = masks,
        experts: Mapping[str, Expert] | None = None,
    ) -> Iterator[Predicted]:
        """The predictions of a site's cases, see `fedlit.prediction.predicted`."""
        learnt = self.learnt(server, name, num_classes=pictures.num_classes, experts=experts)
        client = next(iter(self.fleet.clients.values()))
        device = self.fleet.workbench.fabric.device
        place = partial(Tensor.to, device=device, memory_format=client.memory_format)
        return case_by_case(predictor, learnt, pictures, cases, place=place, read=read)

    def learnt(
        self, server: Server, name: str, *, num_classes: int, experts: Mapping[str, Expert] | None = None
    ) -> Learnt:
        """What there is at a site to predict with; the resident network is in evaluation mode."""
        bench = self.fleet.workbench
        bench.network.eval()
        return Learnt(
            server,
            bench.network,
            bench.resident,
            self.fleet.memories.get(name, {}),
            self.kept,
            experts or {},
            site=name,
            num_classes=num_classes,
            seed=self.sampling.seed,
            batch_size=self.batch_size,
            channels=next(iter(self.sites.values())).train.channels,
            lend=bench.lend,
        )


def enrolled(server: Server, clients: Mapping[str, Client]) -> Server:
    """The server, told who its clients are, and which of the entries that it shares with them are buffers.

    Its own site is none of them, see `fedlit.aggregation.FLTrust`.
    """
    buffers = next(iter(clients.values())).resident.buffers
    names = sorted(name for name in clients if name != ROOT)
    return replace(server, clients=names, buffers=[name for name in buffers if name in server.weights])


def placed(server: Server, device: torch.device) -> Server:
    """The server with its tensors where those of aggregates are; one that was saved comes back on the CPU."""
    weights = {name: value.to(device) for name, value in server.weights.items()}
    slots = {slot: {name: value.to(device) for name, value in each.items()} for slot, each in server.slots.items()}
    return replace(server, weights=weights, slots=slots)
