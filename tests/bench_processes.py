"""What several processes bring and cost, for `tests.bench`: run by itself as one process of a group.

`python -m tests.bench_processes pace FOLDER COUNT PICTURES SIZE CHANNELS`, `... sharing`, `... mean`: one figure on the
standard output of the first process.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fedlit import hardware
from fedlit.fleet.exchange import mean_of_all
from fedlit.weights import WeightedSum
from tests.conftest import make_world, write_manifest

NUM_FLOATS = 94_000_000
NUM_CLIENTS = 50


def equal_clients(folder: Path, count: int, pictures: int, size: int) -> list[str]:
    """Overrides for a federation of equal clients, its data written once."""
    root = folder / f"discs{count}x{pictures}"
    if not root.is_dir():
        root.mkdir()
        write_manifest(root, {f"s{number:02d}": (pictures, 1, 1) for number in range(count)}, size=size)
    return ["data.labels={disc: 255}", "data.image_size=null", f"data.root={root}", "data.allow_duplicates=true"]


def pace(world, folder: str, count: str, pictures: str, size: str, channels: str) -> float:
    """Median seconds of a round: train, aggregate, save."""
    from fedlit.assembly import assemble
    from fedlit.checkpoint import Checkpoints, State
    from fedlit.config import check, load
    from fedlit.display import open_display
    from fedlit.machine import resolve

    data = equal_clients(Path(folder), int(count), int(pictures), int(size))
    overrides = [*data, f"network.base_channels={channels}", f"run_dir={folder}", "precision=32-true"]
    config = resolve(check(load("cxr_lungs", overrides)).require())
    made = assemble(config, world, open_display("bench", 1, is_shown=False))
    checkpoints = Checkpoints(Path(folder) / f"saved{world.size}", made.fleet)
    seconds, begin = [], time.perf_counter()
    for round in made.federation.run(made.algorithm, made.first, 12):
        checkpoints.save(State(round.server, made.fleet.memories))
        seconds.append(time.perf_counter() - begin)
        begin = time.perf_counter()
    return statistics.median(seconds[2:])


def sharing(world) -> float:
    """Median seconds from every process having its sum to every process having the mean."""
    seconds = []
    for _ in range(7):
        total = WeightedSum()
        total.add({"w": torch.rand(NUM_FLOATS)}, 1.0)
        total.pair()
        world.share(None)
        begin = time.perf_counter()
        mean_of_all(total, [True] * world.size, world.place, world.size)
        world.share(None)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[2:])


def mean(world) -> float:
    """Peak memory of the mean over 50 clients in this process, in models; the update that is being added counts."""
    num_floats, share = NUM_FLOATS // 4, NUM_CLIENTS // world.size
    before, total = memory("VmRSS"), WeightedSum()
    for client in range(share):
        total.add({f"layer{number}": torch.rand(num_floats // 8) for number in range(8)}, 1.0 + client)
    mean_of_all(total, [True] * world.size, world.place, world.size * total.coefficient)
    return (memory("VmHWM") - before) / (4 * num_floats)


def memory(kind: str) -> float:
    """Bytes: VmRSS now, VmHWM at most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return float(line.split()[1]) * 1024


MEASURES: dict[str, Callable] = {"pace": pace, "sharing": sharing, "mean": mean}

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # the tests' own setting is one
    hardware.keep_freed_memory()
    with make_world() as world:
        figures = world.share(MEASURES[sys.argv[1]](world, *sys.argv[2:]))
        if world.is_first:
            print("figure", max(figures))
