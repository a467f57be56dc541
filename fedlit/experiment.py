"""An experiment: the rounds, scored, recorded and saved one by one, then the test cases and the report."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fedlit.algorithms import Algorithm
from fedlit.beginning import Beginning
from fedlit.checkpoint import Checkpoints, State
from fedlit.closing import account
from fedlit.data.source import Manifest
from fedlit.display import Display
from fedlit.examination import Examination
from fedlit.federation import Federation, Round
from fedlit.files import write_json
from fedlit.fleet import Fleet
from fedlit.inspection import remarks
from fedlit.messages import Server
from fedlit.patients import write_patients
from fedlit.privacy import Ledger
from fedlit.progress import Progress
from fedlit.provenance import check_origin, provenance
from fedlit.record import MetricRow, Record
from fedlit.report import write_report
from fedlit.rundir import RunDirectory


@dataclass(frozen=True)
class Experiment:
    """The objects of one config in one process.

    Args:
        network_sha256: of the network's first state, which must not change while the run lasts.
    """

    config: DictConfig
    run_dir: RunDirectory
    source: Manifest
    network_sha256: str
    algorithm: Algorithm
    federation: Federation
    examination: Examination
    checkpoints: Checkpoints
    first: Server
    beginning: Beginning | None
    display: Display

    @property
    def fleet(self) -> Fleet:
        return self.federation.fleet

    @property
    def main_model(self) -> str:
        """The predictor by which the run is judged."""
        return self.examination.main_model

    @property
    def cohort_size(self) -> tuple[int, int]:
        """How many members there are, and how many of them take part in a round."""
        names = self.fleet.members
        return len(names), len(self.federation.sampling(names, 0))

    @property
    def ledger(self) -> Ledger | None:
        """What privacy of its cases each member has spent, where the experiment asks for any."""
        found = {name: self.fleet.clients[name].plan.privacy for name in self.fleet.members}
        of_site = {name: privacy for name, privacy in found.items() if privacy is not None}
        return Ledger(of_site, self.federation.sampling) if of_site else None

    def run(self, command: Sequence[str]) -> dict[str, Any]:
        """Train to the last round, score the test cases of the kept and of the last one, write the report.

        Returns the summary.
        """
        state, record = self.open(command)
        progress = Progress.from_json(state.progress) if state.progress else Progress()
        patience = self.config.patience
        if not progress.is_stale(patience):
            for round in self.federation.run(self.algorithm, state.server, self.config.num_rounds):
                progress = self.after(round, progress, record)
                if progress.is_stale(patience):
                    self.display.say(
                        f"stopped early: the last {patience} evaluations brought nothing better than "
                        f"round {progress.kept_round}"
                    )
                    break
        return self.conclude(progress, record)

    def warm_start(self, command: Sequence[str]) -> None:
        """Make the first global model, and score it on validation cases."""
        self.open(command)

    def open(self, command: Sequence[str]) -> tuple[State, Record]:
        """Where the run stands, and its tables; what its rounds start from is scored before the first."""
        state = self.resume()
        record = Record(self.run_dir.path)
        self.fleet.world.on_first(lambda: self.begin(state, record, command))
        if self.beginning is not None and not state.server.round:
            self.score_start(state.server, record)
        return state, record

    def score_start(self, server: Server, record: Record) -> None:
        """Score what the rounds start from on validation cases."""
        rows = self.examination.validate(server)
        self.display.scored(0, self.counted(rows))
        if self.fleet.is_first:
            record.add(rows)

    def evaluate(self) -> int:
        """Score the predictors on the test cases of the kept round, beside what is recorded; draw the report again.

        Returns that round.

        Raises:
            BadInput: the data or the network are not those that the run was begun with.
        """
        self.fleet.world.on_first(lambda: check_origin(self.run_dir.path, self.fingerprints()))
        state = self.checkpoints.kept()
        self.display.say(f"scoring {', '.join(self.examination.predictors)} at round {state.server.round}")
        record = Record(self.run_dir.path)
        path = self.run_dir / "summary.json"
        summary = json.loads(path.read_text()) if path.exists() else {}
        shared = self.examination.test_finally(state, record, summary.get("shared"))
        self.examination.draw(state, record)
        if self.fleet.is_first:
            warned = [*self.display.warnings]  # what comes now is of this moment: another evaluation mends it
            for site, models in self.examination.outdated(state, record).items():
                names = ", ".join(models)
                self.display.warn(f"{site} had other cases when it was scored with {names}: evaluate that again")
            write_patients(self.run_dir.path, self.federation.sites)
            if path.exists():
                scored: Any = OmegaConf.to_container(self.config.prediction)
                evaluated = {**summary.get("evaluated", {}), **scored}
                warnings = [*dict.fromkeys((*summary["warnings"], *warned))]
                write_json(path, summary | {"shared": shared, "evaluated": evaluated, "warnings": warnings})
            write_report(self.run_dir.path)
        return state.server.round

    def begin(self, state: State, record: Record, command: Sequence[str]) -> None:
        """Drop what later rounds recorded, and write where this run comes from.

        Raises:
            BadInput: the run goes on, and its data or its network are not those it was begun with.
        """
        fingerprints = self.fingerprints()
        if state.server.round:
            check_origin(self.run_dir.path, fingerprints)
        elif self.config.inspect_data and isinstance(self.source, Manifest):
            for text in remarks(self.source, fingerprints["manifest"], self.display.say):
                self.display.warn(text)
        record.truncate(state.server.round)
        write_json(self.run_dir / "provenance.json", provenance(command, fingerprints))
        write_patients(self.run_dir.path, self.federation.sites)

    def fingerprints(self) -> dict[str, str]:
        """Of the data, and of the weights that the network began with; not of `unseen_roots`."""
        return {"manifest": self.source.fingerprint(), "network": self.network_sha256}

    def resume(self) -> State:
        """The newest checkpoint, or the state before the first round."""
        begun = self.begun()
        state = self.checkpoints.newest(self.display.warn) or State(begun)
        self.fleet.workbench.resident.load(state.server.weights)  # raises where the checkpoint is of another network
        self.fleet.memories = dict(state.memories)
        if state.server.round:
            self.display.say(f"continuing after round {state.server.round}")
        return state

    def begun(self) -> Server:
        """The server before the first round; entries that stay at their sites begin with what was taught, too."""
        if self.beginning is None:
            return self.first
        taught = self.beginning.run(self.first)
        self.fleet.workbench.resident.begin_with(taught)
        return replace(self.first, weights={name: taught[name] for name in self.first.weights})

    def after(self, round: Round, progress: Progress, record: Record) -> Progress:
        """Score, record and save a completed round."""
        number = round.server.round
        self.display.round_finished(number, round.seconds, round.bytes_up, round.bytes_down)
        for name, reason in round.aggregate.dropped.items():
            self.display.warn(f"round {number}: {name} was dropped: {reason}")
        rows = [
            MetricRow(
                number, report.client, "member", "local", "train", "loss", report.scalars["loss"], report.num_samples
            )
            for report in round.aggregate.reports
            if report.client in self.federation.sites
        ]
        value = None
        is_due = number % self.config.eval_every == 0
        if is_due or number == self.config.num_rounds:
            scores = self.examination.validate(round.server)
            counted = self.counted(scores)
            self.display.scored(number, counted)
            value = self.worth(counted) if is_due else None  # a run that goes on would not have looked here
            rows += scores
        told = self.fleet.channel.told(number, *self.cohort_size), self.ledger.told(number) if self.ledger else ""
        for text in filter(None, told):
            self.display.say(f"round {number}: {text}")
        progress = progress.after(round, value, self.display.warnings)
        if self.fleet.is_first:
            record.add(rows)
            values = {f"{row.split}_{row.metric}/{row.model}/{row.site}": row.value for row in rows}
            for logger in self.fleet.workbench.fabric.loggers:
                logger.log_metrics(values, step=number)
        state = State(round.server, self.fleet.memories, progress.as_json())
        self.checkpoints.save(state, kept=progress.kept_round == number)
        return progress

    def counted(self, rows: Sequence[MetricRow]) -> dict[str, float]:
        """The Dice of every member with the main model: what the kept round is chosen by."""
        wanted = ("dice", self.main_model, "member")
        return {row.site: row.value for row in rows if (row.metric, row.model, row.role) == wanted and row.num_cases}

    def worth(self, dice: Mapping[str, float]) -> float | None:
        """The worst or the mean of the members' results; None while a member with validation cases has no model."""
        sites = self.federation.sites
        if not dice or any(
            site.role == "member" and len(site.val) and name not in dice for name, site in sites.items()
        ):
            return None
        return (min if self.config.keep_by == "worst" else statistics.fmean)(dice.values())

    def conclude(self, progress: Progress, record: Record) -> dict[str, Any]:
        """Score the test split of the kept round, of the last one and of the start, summarise, draw, report."""
        last = self.checkpoints.load(f"round-{progress.num_rounds:05d}.json")
        kept = self.checkpoints.kept()
        start = [] if self.beginning is None else [State(self.begun())]
        for state in {state.server.round: state for state in (*start, last)}.values():
            if state.server.round != kept.server.round:
                self.examination.test(state, record)
        shared = self.examination.test_finally(kept, record)
        summary = account(self, kept, last, progress, record) | {"shared": shared}
        self.examination.draw(kept, record)
        if self.fleet.is_first:
            write_json(self.run_dir / "summary.json", summary)
            write_report(self.run_dir.path)
        return summary
