"""Where to begin? Runs every start on several federations, and writes one table and one plot.

`dealt`: the members' training patients are dealt at random among them, so that all have pictures alike (IID). Test
cases are scored after round 0, 1, 5, 10 and 20 for the table; nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

from fedlit.collected_table import rounded
from fedlit.grouping import Spread
from fedlit.studies.results import read_summary
from fedlit.studies.rounds import dice_of_members, make
from fedlit.studies.running import Halted
from fedlit.text_table import Cell, TextTable

STAGES = (1, 5, 10, 20)
TEACHING = ["start.num_rounds=10"]
AUGMENT = (
    "start.augment=[{_target_: albumentations.Affine, scale: [0.9, 1.1], rotate: [-10, 10], translate_percent: 0.05},"
    " {_target_: albumentations.RandomBrightnessContrast, p: 0.8}, {_target_: albumentations.RandomGamma}]"
)
OWN_BOXES = "prompts: {_target_: fedlit.teachers.MaskBoxes}"
STARTS = {
    "random": ["start=null"],
    "supervised": ["start=supervised", *TEACHING],
    "SAM, prior boxes": ["start=distillation", *TEACHING, AUGMENT],
    "SAM, own boxes": [
        *("start=distillation", *TEACHING, AUGMENT),
        f"start.teacher={{_target_: fedlit.teachers.SAMTeacher, {OWN_BOXES}}}",
    ],
    "ellipses, own boxes": [
        *("start=distillation", *TEACHING, AUGMENT),
        f"start.teacher={{_target_: fedlit.teachers.Ellipses, {OWN_BOXES}}}",
    ],
    "mean lung, own boxes": [
        *("start=distillation", *TEACHING, AUGMENT),
        f"start.teacher={{_target_: fedlit.teachers.MeanLungs, {OWN_BOXES}}}",
    ],
}
ALGORITHMS = {"fedavg": ["algorithm=fedavg"], "fedprox": ["algorithm=fedprox"]}


class Run(NamedTuple):
    """One run; `folder` is below that of the study."""

    data: str
    algorithm: str
    start: str
    seed: int

    @property
    def folder(self) -> Path:
        names = (name.replace(", ", "-").replace(" ", "_") for name in self[:3])
        return Path(*names) / f"seed{self.seed}"


class Result(NamedTuple):
    """Test Dice of the members after so many rounds, mean and worst over sites; what the start and all rounds cost."""

    round: int
    mean: float
    worst: float
    seconds: float  # of the start
    megabytes: float  # up and down so far


def experiments(data_root: str, quick: bool, num_seeds: int) -> Iterator[tuple[Run, list[str]]]:
    """Every run, and what sets its data."""
    data = {"cxr_lungs": ["cxr_lungs", f"data.root={data_root}", "server_site=jsrt"]}
    if not quick:
        data |= {"cxr_lungs, dealt": [*data["cxr_lungs"], "data.deal_seed=0"], "phantom": ["quickstart"]}
    algorithms = ["fedavg"] if quick else [*ALGORITHMS]
    for (name, words), algorithm, start, seed in product(data.items(), algorithms, STARTS, range(num_seeds)):
        yield Run(name, algorithm, start, seed), words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_root", help="the folder of cxr_lungs, with sites.csv")
    parser.add_argument("--quick", action="store_true", help="chest X-rays by hospital and FedAvg alone; one seed")
    parser.add_argument("--seeds", type=int, help="how many, instead of 3, or of 1 with --quick")
    parser.add_argument("--out", type=Path, default=Path("runs/warm_start_study"))
    asked = parser.parse_args()
    runs = experiments(asked.data_root, asked.quick, asked.seeds or (1 if asked.quick else 3))
    results = {run: study(asked.out, run, words) for run, words in runs}
    table = tabulate(asked.out, results)
    (asked.out / "table.md").write_text(table)
    plot(asked.out, [*results])
    print(table)


def study(out: Path, run: Run, words: list[str]) -> list[Result]:
    """The results of one run, trained as far as it is not yet."""
    run_dir = out / run.folder
    noted = run_dir.with_suffix(".json")
    results = [Result(*values) for values in json.loads(noted.read_text())] if noted.exists() else []
    for stage in STAGES:
        if any(result.round == stage for result in results):
            continue
        config, *rest = words
        settings = [*rest, *ALGORITHMS[run.algorithm], *STARTS[run.start], f"seed={run.seed}", f"num_rounds={stage}"]
        make(config, settings, run_dir)
        summary, scores = read_summary(run_dir), dice_of_members(run_dir, "test")
        seconds = (summary["start"] or {}).get("seconds", 0.0)
        megabytes = (summary["bytes_up"] + summary["bytes_down"]) / 1e6
        for number in sorted({stage, *([0] if stage == STAGES[0] and summary["start"] else [])}):
            dice = scores[number]["global"].values()
            results.append(Result(number, statistics.fmean(dice), min(dice), seconds, megabytes if number else 0.0))
        noted.write_text(json.dumps(results))
    return results


def curve(run_dir: Path) -> dict[int, float]:
    """By round, the mean validation Dice of the members."""
    found = dice_of_members(run_dir, "val")
    return {number: statistics.fmean(scores["global"].values()) for number, scores in sorted(found.items())}


def rounds_needed(out: Path, run: Run) -> float | None:
    """Until validation reaches 90 % of where the random start of the same seed ends; None: never."""
    aim = 0.9 * curve(out / run._replace(start="random").folder)[STAGES[-1]]
    return next((float(number) for number, dice in curve(out / run.folder).items() if dice >= aim), None)


def tabulate(out: Path, results: dict[Run, list[Result]]) -> str:
    """Markdown: mean / worst site, means over seeds with their deviation."""
    rounds = sorted({result.round for of_run in results.values() for result in of_run})
    named = [*("data", "algorithm", "start", "rounds to 90 %"), *(f"round {number}" for number in rounds)]
    rows = []
    for kind in dict.fromkeys(run[:3] for run in results):
        runs = [run for run in results if run[:3] == kind]
        needed = [rounds_needed(out, run) for run in runs]
        known = [number for number in needed if number is not None]
        cells = [f"{statistics.fmean(known):.1f}" if len(known) == len(needed) else "not reached"]
        for number in rounds:
            found = [result for run in runs for result in results[run] if result.round == number]
            worst = Spread.of([result.worst for result in found]).mean
            means = rounded(Spread.of([result.mean for result in found]))
            cells.append("" if worst is None else f"{means} / {worst:.3f}")
        last = [results[run][-1] for run in runs]
        cells.append(f"{statistics.fmean(result.megabytes for result in last):.0f}")
        cells.append(f"{statistics.fmean(result.seconds for result in last):.0f} s")
        rows.append([Cell(text) for text in (*kind, *cells)])
    return TextTable([*named, "MB", "teaching"], rows, num_left=3).as_markdown()


def plot(out: Path, runs: list[Run]) -> None:
    """Validation curves of all starts, means over seeds; a column of panels for each data, a row for each algorithm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    data, algorithms = ([*dict.fromkeys(run[place] for run in runs)] for place in (0, 1))
    size = (4.2 * len(data), 3.2 * len(algorithms))
    figure, axes = pyplot.subplots(
        len(algorithms), len(data), figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    for axis, (algorithm, name) in zip(axes.flat, product(algorithms, data), strict=True):
        for start in dict.fromkeys(run.start for run in runs):
            curves = [curve(out / run.folder) for run in runs if run[:3] == (name, algorithm, start)]
            rounds = sorted(set.intersection(*(set(each) for each in curves)))
            axis.plot(rounds, [statistics.fmean(each[number] for each in curves) for number in rounds], label=start)
        axis.set(title=f"{name}, {algorithm}", ylim=(0.6, 1.0))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.supxlabel("round")
    figure.supylabel("validation Dice, mean over members")
    axes[0][0].legend(fontsize="small")
    figure.savefig(out / "curves.png", dpi=120)


if __name__ == "__main__":
    try:
        main()
    except Halted as stop:
        print(f"error: {stop}", file=sys.stderr)
        sys.exit(stop.code)
