"""What does a model of one's own bring? Runs every personalisation on re-splits of the patients, and writes one table.

Everything is scored on the test cases of the last round, a rule that looks at no result. Every site's patients are
dealt anew into its train, val and test for each re-split. Differences to the global model are taken run by run; their
interval is Student's t over re-splits, each the mean over its seeds. One that reaches below -0.01 has a `*`. As
re-splits share patients they are too narrow (Nadeau and Bengio, Machine Learning 2003).
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fedlit.collect import unfinished
from fedlit.collected_table import rounded
from fedlit.errors import BadInput
from fedlit.grouping import Spread
from fedlit.studies.results import read_summary
from fedlit.studies.rounds import dice_of_members, make
from fedlit.studies.running import Halted
from fedlit.text_table import Cell, TextTable

CONFIG = "cxr_lungs_iopfl"
UNIFORM = "algorithm.aggregate={_target_: fedlit.aggregation.Mean, by: uniform}"
SHORT = "local_steps=10"
RUNS = {
    "iopfl": [SHORT],
    "iopfl_40_steps": [],
    "iopfl_as_published": [SHORT, "algorithm=iopfl_as_published", UNIFORM],
    "centralized": [SHORT, "algorithm=centralized"],
    "centralized_40_steps": ["algorithm=centralized"],
    "finetuning": [SHORT, "algorithm=finetuning", UNIFORM],
    "fedbn": [SHORT, "algorithm=fedavg", UNIFORM, "keep_local=['*norm*']"],
    "ditto": [SHORT, "algorithm=ditto", UNIFORM],
    "fedavg": ["algorithm=fedavg", "schedule=null", "local_epochs=1", "data.augment=null"],
}
"""By folder, what sets a run; the federation of those of IOP-FL is that of FedAvg, bit for bit."""


class Row(NamedTuple):
    """A row of the table: a model of the runs of one kind, and the row it is set against."""

    kind: str
    model: str
    reference: str = "FedAvg"


METHODS = {
    "FedAvg": Row("iopfl", "global"),
    "FedBN": Row("fedbn", "global"),
    "FedAvg + one epoch of fine-tuning": Row("finetuning", "personal"),
    "Ditto": Row("ditto", "personal"),
    "IOP-FL, as published": Row("iopfl_as_published", "personal"),
    "IOP-FL": Row("iopfl", "personal"),
    "centralized": Row("centralized", "global"),
    "FedAvg, 40 steps a round": Row("iopfl_40_steps", "global"),
    "IOP-FL, 40 steps a round": Row("iopfl_40_steps", "personal", "FedAvg, 40 steps a round"),
    "centralized, 40 steps a round": Row("centralized_40_steps", "global", "FedAvg, 40 steps a round"),
    "FedAvg as in cxr_lungs.yaml": Row("fedavg", "global"),
}
MARGIN = 0.01
T975 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, two-sided 95 %, by degrees of freedom."""


class Run(NamedTuple):
    """One run; `folder` is below that of the study."""

    kind: str
    resplit: int
    seed: int

    @property
    def folder(self) -> Path:
        return Path(self.kind, f"resplit{self.resplit}", f"seed{self.seed}")


Dice = Mapping[str, Mapping[str, float]]
"""Of one run: by model, the mean test Dice of every member."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_root", nargs="?", help="the folder of cxr_lungs, with sites.csv")
    parser.add_argument("--quick", action="store_true", help="one re-split and one seed")
    parser.add_argument("--resplits", type=int, help="how many, instead of 5, or of 1 with --quick; at most 10")
    parser.add_argument("--seeds", type=int, help="how many for each, instead of 3, or of 1 with --quick")
    parser.add_argument(
        "--only", nargs="+", choices=RUNS, default=[*RUNS], help="run these; the table has all there are"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/personalization_study"))
    parser.add_argument("--table-only", action="store_true", help="the table of the runs there are; begin none")
    asked = parser.parse_args()
    if asked.data_root is None and not asked.table_only:
        parser.error("data_root is needed, but with --table-only")
    num_resplits = min(asked.resplits or (1 if asked.quick else 5), len(T975))
    runs = experiments(asked.only, num_resplits, asked.seeds or (1 if asked.quick else 3))
    for run in () if asked.table_only else runs:
        study(asked.out, run, asked.data_root)
        (asked.out / "table.md").write_text(tabulate(recorded(asked.out)))
    table = tabulate(recorded(asked.out))
    (asked.out / "table.md").write_text(table)
    print(table)


def experiments(kinds: Sequence[str], num_resplits: int, num_seeds: int) -> Iterator[Run]:
    """Every run, those of one kind together: each re-split once, then again with the next seed."""
    for kind in kinds:
        for seed in range(num_seeds):
            yield from (Run(kind, resplit, seed) for resplit in range(num_resplits))


def study(out: Path, run: Run, data_root: str) -> None:
    """Train one run, unless that was done."""
    run_dir = out / run.folder
    if not unfinished(run_dir):
        return
    split = f"data.resplit_seed={run.resplit}"
    settings = [*RUNS[run.kind], f"data.root={data_root}", split, f"seed={run.seed}", "eval_every=1000000"]
    if "algorithm=centralized" in settings:
        settings.append(f"local_steps={pooled_steps(data_root, RUNS[run.kind])}")
    make(CONFIG, settings, run_dir)


def pooled_steps(data_root: str, settings: Sequence[str]) -> int:
    """As many steps a round as all members take together."""
    from fedlit.config import check, load
    from fedlit.data.manifest import read_manifest

    return check(load(CONFIG, settings)).config.local_steps * len({row.site for row in read_manifest(data_root)})


def recorded(out: Path) -> dict[Run, Dice]:
    """The members' test Dice after the last round, by model, of every run that is finished.

    Raises:
        BadInput: there is none.
    """
    found = {}
    for finished in sorted(out.glob("*/resplit*/seed*/summary.json")):
        run_dir = finished.parent
        kind, resplit, seed = run_dir.relative_to(out).parts
        run = Run(kind, int(resplit.removeprefix("resplit")), int(seed.removeprefix("seed")))
        found[run] = dice_of_members(run_dir, "test")[read_summary(run_dir)["num_rounds"]]
    if not found:
        raise BadInput(f"{out}: no run of this study is finished")
    return found


def tabulate(results: Mapping[Run, Dice]) -> str:
    """Markdown: the members' Dice, then the differences to FedAvg."""
    sites = sorted({site for dice in results.values() for of_site in dice.values() for site in of_site})
    scores = {
        name: {run[1:]: dice[row.model] for run, dice in results.items() if run.kind == row.kind and row.model in dice}
        for name, row in METHODS.items()
    }
    rows = []
    for name, of_run in scores.items():
        if of_run:
            means = [statistics.fmean(dice.values()) for dice in of_run.values()]
            worst = [min(dice.values()) for dice in of_run.values()]
            of_sites = [[dice[site] for dice in of_run.values()] for site in sites]
            cells = [rounded(Spread.of(values)) for values in (means, worst, *of_sites)]
            rows.append([Cell(text) for text in (name, str(len(of_run)), *cells)])
    first = TextTable(["method", "runs", "mean", "worst site", *sites], rows).as_markdown()
    rows = []
    for name, of_run in scores.items():
        reference = METHODS[name].reference
        beside = scores[reference]
        common = sorted(of_run.keys() & beside.keys())
        if name != reference and common:
            differences = {run: [of_run[run][site] - beside[run][site] for site in sites] for run in common}
            columns = [{run: statistics.fmean(values) for run, values in differences.items()}]
            columns += [{run: values[place] for run, values in differences.items()} for place in range(len(sites))]
            count = str(len({resplit for resplit, _ in common}))
            rows.append([Cell(name), Cell(count), *map(interval, columns)])
    second = TextTable(["method", "re-splits", "mean over sites", *sites], rows).as_markdown()
    return (
        "# What a model of one's own brings to members\n\n"
        f"## Dice\n\n{first}\nMean ± deviation over runs; 10 steps a round where a name says nothing else.\n\n"
        f"## Difference to FedAvg\n\n{second}\nTo that of as many steps (FedAvg, 40 steps a round: to FedAvg); with its"
        " 95 % interval over re-splits; \\*: that reaches below -0.01.\n"
    )


def interval(differences: Mapping[tuple[int, int], float]) -> Cell:
    """The mean of the differences by (re-split, seed), and its interval where there are several re-splits."""
    by_resplit: dict[int, list[float]] = {}
    for (resplit, _), value in differences.items():
        by_resplit.setdefault(resplit, []).append(value)
    means = [statistics.fmean(values) for values in by_resplit.values()]
    mean = statistics.fmean(means)
    if len(means) == 1:
        return Cell(f"{mean:+.3f}")
    half = T975[len(means) - 1] * statistics.stdev(means) / math.sqrt(len(means))
    text = f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"
    return Cell(text, mark="*" * (mean - half < -MARGIN))


if __name__ == "__main__":
    try:
        main()
    except (BadInput, Halted) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "code", 2))
