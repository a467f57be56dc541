"""The round loop, and the scoring of every predictor at every site."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from fedlit.algorithms import Algorithm, Sampling
from fedlit.data.pictures import Case, Pictures
from fedlit.data.site import Site
from fedlit.fedfms_score import FEDFMS, levels
from fedlit.fleet import Fleet
from fedlit.losses import masks
from fedlit.messages import Aggregate, Server, size
from fedlit.metrics import Scoring
from fedlit.prediction import Learnt, Model, Predictor
from fedlit.record import CaseRow


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

    def run(self, algorithm: Algorithm, server: Server, num_rounds: int) -> Iterator[Round]:
        """Yield every round as it is completed."""
        clients = sorted(self.fleet.clients)
        while server.round < num_rounds:
            start     = time.perf_counter()
            cohort    = algorithm.cohort(server, clients, self.sampling)
            broadcast = algorithm.broadcast(server)
            aggregate = self.fleet.map(algorithm.local_update, cohort, broadcast, algorithm.aggregate)
            server    = replace(algorithm.server_update(server, aggregate), round=server.round + 1)
            self.fleet.commit()
            yield Round(server, tuple(cohort), aggregate, size(broadcast) * len(cohort), time.perf_counter() - start)

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
    ) -> list[CaseRow]:
        """One row per case, class and metric, for every predictor at every site that has cases in the split.

        Equal in every process.
        """
        names = sorted(name for name in names or self.sites if len(getattr(self.sites[name], split)))
        rows = []
        for model, predictor in predictors.items():
            score = partial(self._score_site, predictor, server, scoring, metrics, split)
            for site, scores in self.fleet.each(score, names).items():
                if not scores:
                    self.fleet.watch.warn(f"there is no {model} model for {site}: it is not scored there")
                rows += [CaseRow(server.round, site, case, model, split, classes[number], metric, value)
                         for case, number, metric, value in scores]
        return rows

    def _score_site(
        self, predictor: Predictor, server: Server, scoring: Scoring, metrics: Sequence[str], split: str, name: str
    ) -> list[tuple[str, int, str, float]]:
        pictures = getattr(self.sites[name], split)
        read = masks if set(FEDFMS).isdisjoint(metrics) else levels
        scores = []
        for case, prediction in self.predict(predictor, server, name, pictures, read=read):
            target = pictures.batch(case.indices)["target"].bool()
            scored = scoring.score(
                as_case(prediction, case).numpy(), as_case(target, case).numpy(), spacing=case.spacing, names=metrics
            )
            scores += [(case.id, *score) for score in scored]
        return scores

    def predict(
        self,
        predictor: Predictor,
        server: Server,
        name: str,
        pictures: Pictures,
        cases: Sequence[Case] | None = None,
        *,
        read: Callable[[Tensor, int], Tensor] = masks,
    ) -> Iterator[tuple[Case, Tensor]]:
        """(case, planes [slices, K, H, W]) of a site's pictures; nothing where there is no model for the site.

        read: logits [B, C, H, W] and the number of classes K -> planes [B, K, H, W], of one byte a pixel.
        """
        bench = self.fleet.workbench
        learnt = Learnt(server, bench.network, bench.resident, self.fleet.memories.get(name, {}), self.kept)
        unlabelled = pictures.unlabelled()
        model = predictor.prepare(learnt, unlabelled)
        if model is None:
            return
        planes = partial(self._planes, model, pictures.num_classes, read)
        bench.network.eval()
        for group in batches_of_cases(cases or unlabelled.cases, pictures.size is not None, self.batch_size):
            indices = [index for case in group for index in case.indices]
            parts = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
            found = torch.cat([planes(unlabelled.images(part)) for part in parts])
            yield from zip(group, found.split([len(case.indices) for case in group]), strict=True)

    @torch.inference_mode()
    def _planes(self, model: Model, num_classes: int, read: Callable[[Tensor, int], Tensor], images: Tensor) -> Tensor:
        client = next(iter(self.fleet.clients.values()))
        images = images.to(self.fleet.workbench.fabric.device, memory_format=client.memory_format)
        return read(model(images), num_classes).cpu()


def as_case(planes: Tensor, case: Case) -> Tensor:
    """[slices, K, H, W] -> [K, H, W] of a picture, [K, slices, H, W] of a volume."""
    return planes.transpose(0, 1) if case.is_volume else planes[0]


def batches_of_cases(cases: Sequence[Case], has_one_size: bool, batch_size: int) -> Iterator[list[Case]]:
    """Whole cases together, about `batch_size` pictures at once; one by one where sizes differ."""
    group: list[Case] = []
    for case in cases:
        group.append(case)
        if not has_one_size or sum(len(case.indices) for case in group) >= batch_size:
            yield group
            group = []
    if group:
        yield group
