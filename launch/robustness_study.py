"""Who withstands malicious members? Every rule of aggregation, under attacks of 0, 3 and 6 of 15 phantom members.

Rules that assume a number of malicious members are told the true one, and 3 where there is none: what caution costs.
Who is malicious is drawn by the seed. Test cases of all members, the malicious ones' too, are scored with the global
model of the last round; nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from random import Random
from typing import NamedTuple

from fedlit.aggregation import ROOT
from fedlit.config import build, check, load
from fedlit.data.phantom_hospitals import members
from fedlit.errors import BadInput

MEMBERS = tuple(sorted(hospital.name for hospital in members(15)))
MALICIOUS = (0, 3, 6)
ASSUMED = 3
"""Where there is none."""

DATA = ["data.num_members=15", "data.size=64", "network.base_channels=8"]
QUICK = ["data.scale=0.25"]
RULES: dict[str, Callable[[int], list[str]]] = {
    "mean": lambda number: ["mean"],
    "median": lambda number: ["median"],
    "trimmed mean": lambda number: ["trimmed_mean", f"fraction={number / len(MEMBERS)}"],
    "geometric median": lambda number: ["geometric_median"],
    "Krum": lambda number: ["krum", f"num_malicious={number}"],
    "Multi-Krum": lambda number: ["multi_krum", f"num_malicious={number}"],
    "Bulyan": lambda number: ["bulyan", f"num_malicious={number}"],
    "norm clipping": lambda number: ["norm_clipping"],
    "update guard": lambda number: ["update_guard"],
    "FLTrust": lambda number: ["fltrust"],
}
ATTACKS = {
    "sign flip": "{_target_: fedlit.attacks.SignFlip, factor: 5.0}",
    "Gaussian": "{_target_: fedlit.attacks.Gaussian}",
    "label flip": "{_target_: fedlit.attacks.LabelFlip}",
    "mask erosion": "{_target_: fedlit.attacks.MaskErosion}",
    "a little is enough": "{_target_: fedlit.attacks.ALittleIsEnough}",
}
IN_QUICK = ("sign flip",)
NONE = "none"


class Run(NamedTuple):
    """One run; `folder` is below that of the study."""

    rule: str
    attack: str
    num_malicious: int
    seed: int

    @property
    def folder(self) -> Path:
        names = (str(name).replace(" ", "_") for name in self[:3])
        return Path(*names) / f"seed{self.seed}"

    @property
    def words(self) -> list[str]:
        """What sets the algorithm and its rule."""
        aggregate = words_of(self.rule, self.num_malicious)
        if not self.num_malicious:
            return ["algorithm=fedavg", *aggregate]
        malicious = Random(self.seed).sample(MEMBERS, len(MEMBERS))[: self.num_malicious]
        attack = f"malicious: [{', '.join(sorted(malicious))}], attack: {ATTACKS[self.attack]}"
        return [f"algorithm={{_target_: fedlit.attacks.Attacked, {attack}}}", *aggregate]


def words_of(rule: str, num_malicious: int) -> list[str]:
    """What sets the rule, told of so many malicious members."""
    name, *arguments = RULES[rule](num_malicious or ASSUMED)
    return [f"algorithm.aggregate={name}", *(f"algorithm.aggregate.{argument}" for argument in arguments)]


@cache
def is_defined(rule: str, num_malicious: int) -> bool:
    """The rule can bear so many malicious members."""
    config = check(load("quickstart", words_of(rule, num_malicious))).require()
    made = build(config.algorithm).aggregate
    try:
        made.coefficients(dict.fromkeys([*MEMBERS, ROOT] if made.needs_root else MEMBERS, 1))
    except BadInput:
        return False
    return True


class Result(NamedTuple):
    """Test Dice of the members after the last round, mean and worst over sites; NaN where a client failed."""

    mean: float
    worst: float


def experiments(quick: bool, num_seeds: int) -> Iterator[Run]:
    """Every run, the cells without malicious members first."""
    attacks = IN_QUICK if quick else tuple(ATTACKS)
    cells = [(NONE, 0), *product(attacks, (number for number in MALICIOUS if number))]
    for (attack, number), rule, seed in product(cells, RULES, range(num_seeds)):
        yield Run(rule, attack, number, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="sign flips alone, a quarter of the pictures, one seed")
    parser.add_argument("--seeds", type=int, help="how many, instead of 3, or of 1 with --quick")
    parser.add_argument("--rounds", type=int, help="how many, instead of 20, or of 5 with --quick")
    parser.add_argument("--out", type=Path, default=Path("runs/robustness_study"))
    asked = parser.parse_args()
    num_rounds = asked.rounds or (5 if asked.quick else 20)
    data = [*DATA, *(QUICK if asked.quick else [])]
    runs = experiments(asked.quick, asked.seeds or (1 if asked.quick else 3))
    results = {run: study(asked.out, run, [*data, f"num_rounds={num_rounds}"]) for run in runs}
    table = tabulate(results)
    (asked.out / "table.md").write_text(table)
    print(table)


def study(out: Path, run: Run, words: list[str]) -> Result | None:
    """The result of one run, made unless it is there; None where the rule is not defined."""
    if not is_defined(run.rule, run.num_malicious):
        return None
    run_dir = out / run.folder
    noted = run_dir.with_suffix(".json")
    if noted.exists() and (known := json.loads(noted.read_text()))["words"] == words:
        return Result(*known["result"])
    settings = [*words, *run.words, f"seed={run.seed}", f"run_dir={run_dir}", "eval_every=1000000"]
    settings += ["metrics.test=[dice]", "report.pictures=false", "loggers={}"]
    done = subprocess.run([sys.executable, "-m", "fedlit", "run", "quickstart", *settings], check=False)
    if done.returncode not in (0, 1):  # 1: a client failed, such as by a loss that is not finite
        raise subprocess.CalledProcessError(done.returncode, done.args)
    dice = members_dice(run_dir) if done.returncode == 0 else [float("nan")]
    result = Result(statistics.fmean(dice), min(dice))
    noted.parent.mkdir(parents=True, exist_ok=True)
    noted.write_text(json.dumps({"words": words, "result": result}))
    return result


def members_dice(run_dir: Path) -> list[float]:
    """The test Dice of every member with the global model after the last round."""
    with open(run_dir / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["role"], row["model"]) == ("member", "global")]
    scored = [row for row in rows if (row["split"], row["metric"]) == ("test", "dice") and row["value"]]
    last = max(int(row["round"]) for row in scored)
    return [float(row["value"]) for row in scored if int(row["round"]) == last]


def tabulate(results: dict[Run, Result | None]) -> str:
    """Markdown: mean / worst site, the mean with its deviation over seeds; a column for each attack and number."""
    cells = list(dict.fromkeys(run[1:3] for run in results))
    named = [NONE if not number else f"{attack}, {number} of {len(MEMBERS)}" for attack, number in cells]
    lines = [f"| rule | {' | '.join(named)} |", "|---" * (len(named) + 1) + "|"]
    for rule in dict.fromkeys(run.rule for run in results):
        found = [[result for run, result in results.items() if run[:3] == (rule, *cell)] for cell in cells]
        lines.append(f"| {' | '.join((rule, *map(shown, found)))} |")
    return "\n".join(lines) + "\n"


def shown(results: list[Result | None]) -> str:
    """One cell."""
    found = [result for result in results if result is not None]
    if not found:
        return "not defined"
    if any(result.mean != result.mean for result in found):
        return "a client failed"
    means = [result.mean for result in found]
    spread = f" ± {statistics.stdev(means):.3f}" if len(means) > 1 else ""
    return f"{statistics.fmean(means):.3f}{spread} / {statistics.fmean(result.worst for result in found):.3f}"


if __name__ == "__main__":
    main()
