"""Where to begin? Runs every start on several federations, and writes one table and one plot.

`dealt`: the members' training patients are dealt at random among them, so that all have pictures alike (IID). Test
cases are scored after round 0, 1, 5, 10 and 20 for the table; nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

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


class Result(NamedTuple):
    """Test Dice of the members after so many rounds: mean and worst over sites."""

    data: str
    algorithm: str
    start: str
    seed: int
    round: int
    mean: float
    worst: float
    seconds: float  # of the start


def experiments(data_root: str, quick: bool) -> Iterator[tuple[str, list[str], str, str, int]]:
    """(data, what sets it, algorithm, start, seed) of every run."""
    data = {"cxr_lungs": ["cxr_lungs", f"data.root={data_root}", "server_site=jsrt"]}
    if not quick:
        data |= {"cxr_lungs, dealt": [*data["cxr_lungs"], "data.deal_seed=0"], "phantom": ["quickstart"]}
    algorithms = ["fedavg"] if quick else [*ALGORITHMS]
    for (name, words), algorithm, start, seed in product(data.items(), algorithms, STARTS, range(1 if quick else 3)):
        yield name, words, algorithm, start, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_root", help="the folder of cxr_lungs, with sites.csv")
    parser.add_argument("--quick", action="store_true", help="one seed, chest X-rays, FedAvg")
    parser.add_argument("--out", type=Path, default=Path("runs/warm_start_study"))
    asked = parser.parse_args()
    results = [
        result
        for data, words, algorithm, start, seed in experiments(asked.data_root, asked.quick)
        for result in study(asked.out, data, words, algorithm, start, seed)
    ]
    table = tabulate(results)
    (asked.out / "table.md").write_text(table)
    plot(asked.out, results)
    print(table)


def study(out: Path, data: str, words: list[str], algorithm: str, start: str, seed: int) -> list[Result]:
    """The results of one run, trained as far as it is not yet."""
    folders = [name.replace(", ", "-").replace(" ", "_") for name in (data, algorithm, start)]
    run_dir = out.joinpath(*folders) / f"seed{seed}"
    noted = run_dir.with_suffix(".json")
    results = [Result(*values) for values in json.loads(noted.read_text())] if noted.exists() else []
    for stage in STAGES:
        if any(result.round == stage for result in results):
            continue
        config, *rest = words
        settings = [*rest, *ALGORITHMS[algorithm], *STARTS[start], f"seed={seed}", f"num_rounds={stage}"]
        settings += [f"run_dir={run_dir}", "metrics.test=[dice]", "report.pictures=false", "loggers={}"]
        subprocess.run([sys.executable, "-m", "fedlit", "run", config, *settings], check=True)
        seconds = ((json.loads((run_dir / "summary.json").read_text())["start"]) or {}).get("seconds", 0.0)
        rounds = {0, stage} if stage == STAGES[0] and start != "random" else {stage}
        for number in sorted(rounds):
            dice = members_dice(run_dir, number)
            results.append(Result(data, algorithm, start, seed, number, statistics.fmean(dice), min(dice), seconds))
        noted.write_text(json.dumps(results))
    return results


def members_dice(run_dir: Path, number: int) -> list[float]:
    """The test Dice of every member with the global model after a round."""
    with open(run_dir / "metrics.csv", newline="") as file:
        return [
            float(row["value"])
            for row in csv.DictReader(file)
            if (row["round"], row["role"], row["model"], row["split"], row["metric"])
            == (str(number), "member", "global", "test", "dice")
        ]


def tabulate(results: list[Result]) -> str:
    """Markdown: mean / worst site, means over seeds with their deviation."""
    rounds = sorted({result.round for result in results})
    lines = ["| data | algorithm | start | " + " | ".join(f"round {number}" for number in rounds) + " | teaching |"]
    lines.append("|---" * (4 + len(rounds)) + "|")
    for data, algorithm, start in dict.fromkeys(result[:3] for result in results):
        of_start = [result for result in results if result[:3] == (data, algorithm, start)]
        cells = []
        for number in rounds:
            found = [result for result in of_start if result.round == number]
            means, worst = ([getattr(result, key) for result in found] for key in ("mean", "worst"))
            spread = f" ± {statistics.stdev(means):.3f}" if len(means) > 1 else ""
            cells.append(f"{statistics.fmean(means):.3f}{spread} / {statistics.fmean(worst):.3f}" if found else "")
        seconds = statistics.fmean(result.seconds for result in of_start)
        lines.append(f"| {data} | {algorithm} | {start} | {' | '.join(cells)} | {seconds:.0f} s |")
    return "\n".join(lines) + "\n"


def plot(out: Path, results: list[Result]) -> None:
    """Curves of all starts, one panel for each data and algorithm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [*dict.fromkeys(result[:2] for result in results)]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 4), squeeze=False, sharey=True)
    for axis, panel in zip(axes[0], panels, strict=True):
        for start in dict.fromkeys(result.start for result in results):
            found = [result for result in results if result[:3] == (*panel, start)]
            rounds = sorted({result.round for result in found})
            means = [statistics.fmean(each.mean for each in found if each.round == number) for number in rounds]
            axis.plot(rounds, means, marker="o", label=start)
        axis.set(xlabel="round", ylabel="test Dice, mean over members", title=", ".join(panel))
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(out / "curves.png", dpi=120)


if __name__ == "__main__":
    main()
