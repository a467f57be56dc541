"""What does it cost to send less? Test Dice of the members against the bytes that they send, for every compression.

Phantom members of 64 x 64 pixels, a U-Net. The global model is scored, of the round that validation cases chose.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

DATA = ["data.size=64", "network.base_channels=8"]
QUICK = ["data.scale=0.25"]
WAYS: dict[str, list[str]] = {
    "whole": [],
    "bf16": ["transform=low_precision", "transform.low_precision.precision=bf16"],
    "fp16": ["transform=low_precision", "transform.low_precision.precision=fp16"],
    "int8": ["transform=low_precision"],
    "int8, no feedback": ["transform=low_precision", "transform.low_precision.feedback=false"],
    "top 5 %": ["transform=top_k"],
    "top 5 %, int8": ["transform=[top_k, low_precision]"],
    "top 1 %": ["transform=top_k", "transform.top_k.share=0.01"],
    "top 1 %, no feedback": ["transform=top_k", "transform.top_k.share=0.01", "transform.top_k.feedback=false"],
    "rank 4": ["transform=low_rank"],
    "rank 4, int8": ["transform=[low_rank, low_precision]"],
    "rank 1": ["transform=low_rank", "transform.low_rank.rank=1"],
}


class Result(NamedTuple):
    """Of one run: test Dice over members, mean and worst, and what one member sends in one round, in bytes."""

    mean: float
    worst: float
    num_bytes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the pictures, one seed")
    parser.add_argument("--seeds", type=int, help="how many, instead of 3, or of 1 with --quick")
    parser.add_argument("--rounds", type=int, help="how many, instead of 20, or of 5 with --quick")
    parser.add_argument("--out", type=Path, default=Path("runs/compression_study"))
    asked = parser.parse_args()
    words = [*DATA, *(QUICK if asked.quick else []), f"num_rounds={asked.rounds or (5 if asked.quick else 20)}"]
    seeds = range(asked.seeds or (1 if asked.quick else 3))
    results: dict[str, list[Result]] = {way: [] for way in WAYS}
    for seed, way in product(seeds, WAYS):
        results[way].append(study(asked.out, way, seed, words))
    table = tabulate(results)
    (asked.out / "table.md").write_text(table)
    print(table)


def study(out: Path, way: str, seed: int, words: list[str]) -> Result:
    """The result of one run, made unless it is there."""
    name = way.replace(" ", "_").replace(",", "").replace("%", "percent")
    run_dir = out / name / f"seed{seed}"
    noted = run_dir.with_suffix(".json")
    if noted.exists() and (known := json.loads(noted.read_text()))["words"] == words:
        return Result(*known["result"])
    settings = [*words, *WAYS[way], f"seed={seed}", f"run_dir={run_dir}", "metrics.test=[dice]"]
    settings += ["report.pictures=false", "loggers={}"]
    subprocess.run([sys.executable, "-m", "fedlit", "run", "quickstart", *settings], check=True)
    result = read(json.loads((run_dir / "summary.json").read_text()))
    noted.write_text(json.dumps({"words": words, "result": result}))
    return result


def read(summary: Mapping) -> Result:
    num_members = sum(site["role"] == "member" for site in summary["sites"].values())
    num_bytes = summary["bytes_up"] / summary["num_rounds"] / num_members
    return Result(summary["mean_dice"], summary["worst_dice"], num_bytes)


def tabulate(results: Mapping[str, list[Result]]) -> str:
    """Markdown, one row a way: bytes, how many times fewer, Dice with its deviation over seeds, Dice at the worst."""
    lines = ["| sent | MB a member and round | times less | mean Dice | worst site |", "|---" * 5 + "|"]
    whole = results["whole"][0].num_bytes
    for way, found in results.items():
        means, num_bytes = [result.mean for result in found], found[0].num_bytes
        spread = f" ± {statistics.stdev(means):.3f}" if len(means) > 1 else ""
        worst = statistics.fmean(result.worst for result in found)
        cells = (f"{num_bytes / 1e6:.3f}", f"{whole / num_bytes:.1f}", f"{statistics.fmean(means):.3f}{spread}")
        lines.append(f"| {' | '.join((way, *cells, f'{worst:.3f}'))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
