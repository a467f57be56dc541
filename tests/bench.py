"""What fedlit costs, as ratios against bare PyTorch in the same process: python -m tests.bench [NAME ...]

Names: sites, clients, memory, start. Medians over alternating rounds; nothing here decides a test.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from fedlit.algorithms import FedAvg
from fedlit.assembly import assemble, resolve, start
from fedlit.checkpoint import Checkpoints, State
from fedlit.config import check, load
from fedlit.display import open_display
from fedlit.losses import DiceBCE
from tests.conftest import REAL_DATA, write_manifest


def experiment(path: str, *overrides: str):
    """The objects of a config, as `fedlit run` builds them."""
    config = resolve(check(load(path, overrides)).require())
    config.loggers = {}
    return assemble(config, start(config), open_display("bench", 1, is_shown=False))


def ours(made, folder: Path) -> Iterator[None]:
    """One round after the other: train, aggregate, save."""
    checkpoints = Checkpoints(folder / "ours", made.fleet)
    for round in made.federation.run(FedAvg(), made.first, 10**6):
        checkpoints.save(State(round.server, made.fleet.memories))
        yield


def bare(made, folder: Path) -> Iterator[None]:
    """The same steps as a plain PyTorch script writes them: data in memory, Adam anew for each client, a state-dict mean, torch.save."""
    config, network = made.config, copy.deepcopy(made.fleet.workbench.resident.network)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    data = []
    for site in (client.site for client in made.fleet.clients.values()):
        batch = site.train.batch(range(len(site.train)))
        data.append((batch["image"].contiguous(memory_format=memory_format), batch["target"]))
    weights, loss, total = copy.deepcopy(network.state_dict()), DiceBCE(), sum(len(images) for images, _ in data)
    while True:
        mean = {name: torch.zeros_like(value) for name, value in weights.items()}
        for images, targets in data:
            network.load_state_dict(weights)
            network.train()
            optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
            for indices in torch.randperm(len(images)).split(config.batch_size):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16-mixed"):
                    logits = network(images[indices])
                loss(logits, targets[indices]).backward()
                optimizer.step()
            for name, value in network.state_dict().items():
                mean[name] += value * (len(images) / total)
        weights = mean
        torch.save(weights, folder / "bare.pt")
        yield


def alternate(left: Iterator[None], right: Iterator[None], num_rounds: int) -> tuple[float, float, float]:
    """Median seconds of a round of each, and the median of the ratios of neighbours; one warm-up round each."""
    seconds: dict[str, list[float]] = {"left": [], "right": []}
    for number in range(num_rounds + 1):
        for name, rounds in (("left", left), ("right", right)):
            begin = time.perf_counter()
            next(rounds)
            if number:
                seconds[name].append(time.perf_counter() - begin)
    ratios = [one / other for one, other in zip(seconds["left"], seconds["right"], strict=True)]
    return statistics.median(seconds["left"]), statistics.median(seconds["right"]), statistics.median(ratios)


def bench_sites(folder: Path) -> None:
    root = REAL_DATA / "cxr_lungs"
    if not root.is_dir():
        print("sites: skipped, FEDLIT_TEST_DATA does not hold cxr_lungs")
        return
    made = experiment("cxr_lungs", f"data.root={root}", f"run_dir={folder}")
    mine, plain, ratio = alternate(ours(made, folder), bare(made, folder), 10)
    print(f"sites: 7 sites of cxr_lungs, 128 px, U-Net 16, {made.config.precision}: {mine:.2f} s a round, bare loop {plain:.2f} s, ratio {ratio:.3f} (target 1.05)")


def bench_clients(folder: Path) -> None:
    made = many_clients(folder, 64)
    mine, plain, ratio = alternate(ours(made, folder), bare(made, folder), 30)
    print(f"clients: 64 clients of 8 pictures, 32 px, U-Net 8, {made.config.precision}: {mine:.3f} s a round, bare loop {plain:.3f} s, ratio {ratio:.3f} (target 1.10)")


def many_clients(folder: Path, count: int):
    root = folder / f"discs{count}"
    root.mkdir()
    write_manifest(root, {f"s{number:02d}": (8, 1, 1) for number in range(count)})
    data = ("data.labels={disc: 255}", "data.image_size=null", f"data.root={root}", "data.allow_duplicates=true")
    return experiment("cxr_lungs", *data, "network.base_channels=8", f"run_dir={folder}", "precision=32-true")


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def bench_memory(folder: Path) -> None:
    """Resident memory after round 10 and after round 100; and with 8 against 64 clients, each in a process of its own."""
    made = many_clients(folder, 16)
    rounds, sizes = ours(made, folder), []
    for _ in range(100):
        next(rounds)
        sizes.append(resident_mb())
    print(f"memory: 16 clients: {sizes[9]:.0f} MB after round 10, {sizes[99]:.0f} MB after round 100, growth {100 * (sizes[99] / sizes[9] - 1):.2f} % (target 1 %)")
    found = {}
    for count in (8, 64):
        code = f"from pathlib import Path; from tests.bench import *; made = many_clients(Path({str(folder)!r}), {count}); rounds = ours(made, Path({str(folder)!r})); [next(rounds) for _ in range(5)]; print(resident_mb())"
        found[count] = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1])
    print(f"memory: 8 clients {found[8]:.0f} MB, 64 clients {found[64]:.0f} MB, ratio {found[64] / found[8]:.3f}")


def bench_start(folder: Path) -> None:
    """From the command to the first optimizer step, decoded pictures in the cache."""
    code = (
        "import time, sys; begin = time.time(); import torch; old = torch.optim.Adam.step\n"
        "def step(*args, **kwargs):\n    print('first step after', time.time() - begin); import os; sys.stdout.flush(); os._exit(0)\n"
        "torch.optim.Adam.step = step\nfrom fedlit.__main__ import main; main(sys.argv[1:])"
    )
    root = REAL_DATA / "cxr_lungs"
    config = ["cxr_lungs", f"data.root={root}"] if root.is_dir() else ["quickstart"]
    seconds = []
    for number in range(4):
        command = [sys.executable, "-c", code, "run", *config, f"run_dir={folder / f'start{number}'}"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds.append(float(out.split("first step after")[1].split()[0]))
    print(f"start: {config[0]}: {statistics.median(seconds[1:]):.1f} s to the first step on cached data (target 10 s), {seconds[0]:.1f} s at the first start")


BENCHES: dict[str, Callable[[Path], None]] = {"sites": bench_sites, "clients": bench_clients, "memory": bench_memory, "start": bench_start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], default=[*BENCHES])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, numpy {np.__version__}")
    for name in parser.parse_args().names:
        with tempfile.TemporaryDirectory() as folder:
            BENCHES[name](Path(folder))


if __name__ == "__main__":
    main()
