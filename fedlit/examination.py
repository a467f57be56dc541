"""How a state of the run is judged: every predictor at every site it is meant for, on validation and on test cases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fedlit.checkpoint import State
from fedlit.federation import Federation, Scores
from fedlit.gallery import chosen_cases, remove_pictures, save_picture
from fedlit.judging import candidates_of
from fedlit.messages import Expert, Server
from fedlit.metrics import Scoring
from fedlit.prediction import Predictor
from fedlit.record import MetricRow, Record
from fedlit.rundir import RunDirectory
from fedlit.sharing import joined, load_experts, save_experts, share, sharing_summary
from fedlit.summary import site_metrics


@dataclass(frozen=True)
class Examination:
    """The predictors of a run, and what they are judged by.

    Args:
        predictors: by name; the first is the one by which the run is judged.
        shares_kept: members share the entries that they keep once, for sites that have none.
    """

    federation: Federation
    predictors: Mapping[str, Predictor]
    scoring: Scoring
    classes: Sequence[str]
    run_dir: RunDirectory
    shows_pictures: bool = True
    shares_kept: bool = False

    @property
    def main_model(self) -> str:
        return next(iter(self.predictors))

    @property
    def elsewhere(self) -> str | None:
        """The one shown at sites that never trained, where the main one is for members alone."""
        if "unseen" in self.predictors[self.main_model].roles:
            return None
        return next((name for name, predictor in self.of_rounds.items() if "unseen" in predictor.roles), None)

    @property
    def shown(self) -> dict[str, str]:
        """By site, the predictor whose cases are drawn."""
        other = self.elsewhere or self.main_model
        return {name: self.main_model if role == "member" else other for name, role in self.federation.roles.items()}

    @property
    def of_rounds(self) -> dict[str, Predictor]:
        """Those that are scored after every round."""
        return {name: predictor for name, predictor in self.predictors.items() if not predictor.is_final}

    @property
    def without_kept(self) -> list[str]:
        """The sites that never train and whose global model is to take the mean of what members keep."""
        sites, clients = self.federation.sites, self.federation.fleet.clients
        never_train = sorted(name for name, site in sites.items() if name not in clients and len(site.test))
        return never_train if self.shares_kept else []

    @property
    def of_the_end(self) -> dict[str, Predictor]:
        """Those that are scored on the kept round's test cases alone."""
        return {name: predictor for name, predictor in self.predictors.items() if predictor.is_final}

    @property
    def is_first(self) -> bool:
        return self.federation.fleet.is_first

    def validate(self, server: Server) -> list[MetricRow]:
        """Rows for metrics.csv of the validation cases after a round."""
        scores = self._score(self.of_rounds, server, "val", self.scoring.validation, {})
        return self._by_site(scores)

    def test(self, state: State, record: Record) -> None:
        """Score and record the test cases of a state, with the predictors that are scored after every round."""
        self._test(state, record, self.of_rounds, {})

    def test_finally(
        self, state: State, record: Record, before: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """Score and record the test cases of the kept state with all predictors.

        Args:
            before: what members have shared for this state already; what they share now is added to it.

        Returns what members shared for it, as JSON values; None where nobody needed anything.
        """
        self.federation.fleet.memories = dict(state.memories)
        needs = {need for predictor in self.predictors.values() for need in predictor.needs}
        without = self.without_kept
        if without:
            needs.add("weights")
            self.federation.fleet.watch.warn(
                f"the global model of {', '.join(without)} takes the mean over members of the entries that they keep"
            )
        else:  # whatever fails from here on, these are scored
            self._test(state, record, self.of_rounds, {})
        experts, everything = self._share(state.server, needs, keeps_old=before is not None) if needs else ({}, {})
        for name, predictor in (self.predictors if without else self.of_the_end).items():
            self._test(state, record, {name: predictor}, experts)
        if not needs:
            return None if before is None else dict(before)
        needing = [name for name, predictor in self.predictors.items() if predictor.needs]
        needing += [f"the global model of {name}" for name in without]
        return sharing_summary(before, everything, needs, needing, self._choices(experts))

    def draw(self, state: State, record: Record) -> None:
        """Keep the best, the median and the worst test case of every site as pictures, or remove those there are.

        Those of sites that are not at hand stay, such as of `unseen_roots` that an earlier evaluation was given.
        """

        def choose() -> dict:
            remove_pictures(self.run_dir.path, self.shown if self.shows_pictures else None)
            if not self.shows_pictures:
                return {}
            chosen: dict = {}
            for model in dict.fromkeys(self.shown.values()):
                found = chosen_cases(record, state.server.round, model)
                chosen |= {site: cases for site, cases in found.items() if self.shown.get(site) == model}
            return chosen

        self.federation.fleet.memories = dict(state.memories)
        chosen = self.federation.fleet.world.on_first(choose)
        experts = load_experts(self.run_dir / "experts", state.server.round) if self.without_kept else {}
        self.federation.fleet.each(partial(self._save_pictures, state.server, chosen, experts), sorted(chosen))

    def outdated(self, state: State, record: Record) -> dict[str, list[str]]:
        """By site, the predictors whose recorded scores of that state are of other cases than the site has now."""
        sites = self.federation.sites
        now = {name: {case.id for case in site.test.cases} for name, site in sites.items()}
        scored: dict[tuple[str, str], set[str]] = defaultdict(set)
        for row in record.cases():
            if (row.round, row.split) == (state.server.round, "test") and row.site in now:
                scored[row.site, row.model].add(row.case)
        found: dict[str, list[str]] = defaultdict(list)
        for (site, model), cases in sorted(scored.items()):
            if cases != now[site]:
                found[site].append(model)
        return dict(found)

    def _choices(self, experts: Mapping[str, Expert]) -> dict[str, str]:
        """What predictors that choose among others have chosen, and by what."""
        made = {name: predictor.choice(experts) for name, predictor in self.predictors.items()}
        choices = {name: choice for name, choice in made.items() if choice is not None}
        for name, choice in choices.items():
            self.federation.fleet.watch.say(f"{name} is {choice}")
        return choices

    def _share(
        self, server: Server, needs: set[str], *, keeps_old: bool
    ) -> tuple[dict[str, Expert], dict[str, Expert]]:
        """What members share now; and all that they have shared of this state, where that is written."""
        candidates = candidates_of(self.predictors)
        experts = share(
            self.federation, server, needs, scoring=self.scoring, classes=self.classes, candidates=candidates
        )
        if not self.is_first:
            return experts, experts
        folder = self.run_dir / "experts"
        everything = joined(load_experts(folder, server.round) if keeps_old else {}, experts)
        save_experts(folder, everything, server.round)
        return experts, everything

    def _test(
        self, state: State, record: Record, predictors: Mapping[str, Predictor], experts: Mapping[str, Expert]
    ) -> None:
        self.federation.fleet.memories = dict(state.memories)
        scores = self._score(predictors, state.server, "test", self.scoring.test, experts)
        if self.is_first:
            record.add(self._by_site(scores), scores.cases, scores.gates)

    def _score(
        self,
        predictors: Mapping[str, Predictor],
        server: Server,
        split: str,
        metrics: Sequence[str],
        experts: Mapping[str, Expert],
    ) -> Scores:
        return self.federation.score(
            predictors,
            server,
            scoring=self.scoring,
            metrics=metrics,
            classes=self.classes,
            split=split,
            experts=experts,
        )

    def _by_site(self, scores: Scores) -> list[MetricRow]:
        return site_metrics(scores.cases, self.federation.roles)

    def _save_pictures(
        self,
        server: Server,
        chosen: Mapping[str, Mapping[str, tuple[str, float]]],
        experts: Mapping[str, Expert],
        site: str,
    ) -> None:
        pictures = self.federation.sites[site].test
        cases = {case.id: case for case in pictures.cases}
        for rank, (name, dice) in chosen[site].items():
            predictor = self.predictors[self.shown[site]]
            found = self.federation.predict(predictor, server, site, pictures, [cases[name]], experts=experts)
            for case, prediction, _ in found:
                target = pictures.batch(case.indices)["target"].bool()
                shown = int(target.flatten(1).sum(1).argmax())  # of a volume, the slice with most foreground
                image = pictures.images([case.indices[shown]])[0].permute(1, 2, 0)
                save_picture(
                    self.run_dir.path, site=site, case=name, rank=rank, model=self.shown[site], dice=dice,
                    image=(image * 255).round().to(torch.uint8).squeeze(-1).numpy(),
                    target=target[shown].numpy(), prediction=prediction[shown].numpy(),
                )  # fmt: skip
