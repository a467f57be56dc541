"""Which model for a hospital that took no part? Leaves every site out in turn, and writes one table for each data set.

Every method is scored on the same runs: federations of all other sites, whose members share their personal models. The
last round is scored, a rule that looks at no result; the reference is the global model of these very runs (on cxr_lungs
with uniform weights, augmentation and a cosine schedule). Nothing is chosen by a site that was left out, but for the
phantom: there the defaults of routing, TENT, SAR and test-time augmentation were found, its table is development data.
p: Wilcoxon's signed-rank test over the site's cases (a case's Dice is the mean over seeds) against the global model,
corrected by Holm for the methods of a fold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fedlit.record import Record
from fedlit.rundir import RunDirectory
from fedlit.significance import holm, paired_p
from fedlit.summary import case_means

REFERENCE = "global"
METHODS = {
    "global": "FedAvg, global model",
    "uniform_average": "mean of the members' weights",
    "best_member": "best member (validation)",
    "nearest_member": "nearest member (features)",
    "ensemble": "ensemble of members",
    "test_time_augmentation": "test-time augmentation",
    "adabn": "AdaBN",
    "tent": "TENT",
    "sar": "SAR",
    "fedthe": "FedTHE",
    "routing_as_released": "routing, as released",
    "routing": "routing",
    "routing_online": "routing, online",
}
LAST_ROUND = "eval_every=1000000"  # no round is judged on validation cases, so the last one is kept
RUN = [
    "algorithm=iopfl",
    "share_personal=true",
    LAST_ROUND,
    "metrics.test=[dice,hd95]",
    "report.pictures=false",
    "loggers={}",
]
CONFIGS = {"cxr_lungs": "cxr_lungs_iopfl", "retina_vessels": "retina_vessels"}
PHANTOM = ("north", "harbour", "valley", "children", "icu", "rural")


class Fold(NamedTuple):
    """One run: a site left out; `folder` is below that of the study."""

    data: str
    site: str
    seed: int

    @property
    def folder(self) -> Path:
        return Path(self.data, self.site, f"seed{self.seed}")


class Scores(NamedTuple):
    """Of one fold, method and seed, by case; HD95 in the unit that the run gives."""

    dice: Mapping[str, float]
    hd95: Mapping[str, float]


def federations(asked: argparse.Namespace) -> Iterator[tuple[str, list[str], list[str]]]:
    """(data, what sets it, its sites)."""
    for name, root in (("cxr_lungs", asked.cxr_lungs), ("retina_vessels", asked.retina_vessels)):
        if root is not None:
            yield name, [CONFIGS[name], f"data.root={root}"], sites_of(root)
    yield "phantom", ["quickstart"], [*PHANTOM]


def sites_of(root: Path) -> list[str]:
    from fedlit.data.manifest import read_manifest

    return sorted({row.site for row in read_manifest(root, "sites.csv")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cxr-lungs", type=Path, metavar="FOLDER", help="chest X-rays, with sites.csv")
    parser.add_argument("--retina-vessels", type=Path, metavar="FOLDER", help="fundus photographs, with sites.csv")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--seeds", type=int, help="how many, instead of 3, or of 1 with --quick")
    parser.add_argument("--out", type=Path, default=Path("runs/unseen_site_study"))
    asked = parser.parse_args()
    seeds = range(asked.seeds or (1 if asked.quick else 3))
    parts = []
    for data, words, sites in federations(asked):
        folds = [Fold(data, site, seed) for site in sites for seed in seeds]
        for fold in folds:
            train(asked.out, fold, words)
        parts.append(table(data, {fold: read(asked.out / fold.folder, fold.site) for fold in folds}))
        (asked.out / "table.md").write_text("\n".join(parts))
    print("\n".join(parts))


def train(out: Path, fold: Fold, words: list[str]) -> None:
    """Run one fold as far as it is not yet."""
    run_dir = out / fold.folder
    if (run_dir / "summary.json").exists():
        return
    config, *rest = words
    predictors = ",".join(name for name in METHODS if name != REFERENCE)
    settings = [*rest, *RUN, f"prediction=[{predictors}]", f"unseen_sites=[{fold.site}]", f"seed={fold.seed}"]
    subprocess.run([sys.executable, "-m", "fedlit", "run", config, *settings, f"run_dir={run_dir}"], check=True)


def read(run_dir: Path, site: str) -> dict[str, Scores]:
    """By method, the scores of the site that was left out, at the kept round."""
    kept = json.loads((run_dir / "summary.json").read_text())["kept_round"]
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for (number, name, model, split, metric), cases in case_means(Record(run_dir).cases()).items():
        if (number, name, split) == (kept, site, "test"):
            found[model][metric.partition("_")[0]] = {case: value for case, value in cases.items() if value is not None}
    asked = RunDirectory(run_dir).read_config().prediction
    return {model: Scores(found[model].get("dice", {}), found[model].get("hd95", {})) for model in (*found, *asked)}


def table(data: str, results: Mapping[Fold, Mapping[str, Scores]]) -> str:
    """Markdown: a row for each method; Dice of every fold with its deviation over seeds and p, mean, worst, HD95."""
    sites = list(dict.fromkeys(fold.site for fold in results))
    corrected = {site: against_reference(results, site) for site in sites}
    head = [data, *sites, "mean", "worst", "HD95", "least gain"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    reference = {site: over_seeds(results, site, REFERENCE) for site in sites}
    for method, title in METHODS.items():
        means = {site: over_seeds(results, site, method) for site in sites}
        if not all(means.values()):
            was_run = all(method in found for found in results.values())
            said = "not applicable" if was_run else "not run"
            lines.append(f"| {title} | " + " | ".join([said] * (len(head) - 1)) + " |")
            continue
        centres = {site: statistics.fmean(means[site]) for site in sites}
        cells = [cell(means[site], corrected[site].get(method), method) for site in sites]
        distance = [
            value
            for fold in results
            for value in [statistics.fmean(found) for found in [results[fold][method].hd95.values()] if found]
        ]
        gain = min(centres[site] - statistics.fmean(reference[site]) for site in sites)
        cells += [f"**{statistics.fmean(centres.values()):.3f}**", f"{min(centres.values()):.3f}"]
        cells += [
            f"{statistics.fmean(distance):.1f}" if distance else "",
            "" if method == REFERENCE else f"{gain:+.3f}",
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def over_seeds(results: Mapping[Fold, Mapping[str, Scores]], site: str, method: str) -> list[float]:
    """The mean Dice over the cases of a fold, one for each seed; none where the method does not apply."""
    scores = [found[method].dice for fold, found in results.items() if fold.site == site and method in found]
    return [statistics.fmean(dice.values()) for dice in scores if dice]


def against_reference(results: Mapping[Fold, Mapping[str, Scores]], site: str) -> dict[str, float | None]:
    """By method, the corrected p of a fold; None with too few cases."""
    by_case: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for fold, found in results.items():
        if fold.site == site:
            for method, scores in found.items():
                for case, value in scores.dice.items():
                    by_case[method][case].append(value)
    means = {method: {case: statistics.fmean(of) for case, of in cases.items()} for method, cases in by_case.items()}
    reference = means[REFERENCE]
    return holm({
        method: paired_p([cases[case] - reference[case] for case in sorted(reference) if case in cases])
        for method, cases in means.items()
        if method in METHODS and method != REFERENCE
    })  # fmt: skip


def cell(dice: list[float], p: float | None, method: str) -> str:
    """`0.912 ± 0.004 (p 0.03)`."""
    spread = f" ± {statistics.stdev(dice):.3f}" if len(dice) > 1 else ""
    if method == REFERENCE:
        return f"{statistics.fmean(dice):.3f}{spread}"
    return f"{statistics.fmean(dice):.3f}{spread} ({'too few' if p is None else f'p {p:.2g}'})"


if __name__ == "__main__":
    main()
