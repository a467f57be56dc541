"""What fedlit costs, as ratios against bare PyTorch in the same process: python -m tests.bench [NAME ...]

Names: sites, clients, memory, start, pair, sharing, mean, sam, sam_ways, sam_cache, sam_gpu, routing,
preparation. Medians over alternating rounds; nothing here decides a test.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from fedlit.algorithms import FedAvg
from fedlit.assembly import assemble
from fedlit.checkpoint import Checkpoints, State
from fedlit.config import check, load
from fedlit.display import open_display
from fedlit.fleet import World
from fedlit.losses import DiceBCE
from fedlit.machine import resolve, start
from fedlit.provenance import provenance
from tests import bench_preparation, bench_routing, bench_sam, bench_sam_ways
from tests.conftest import REAL_DATA, write_manifest


def experiment(path: str, *overrides: str):
    """The objects of a config, as `fedlit run` builds them."""
    config = resolve(check(load(path, overrides)).require())
    return assemble(config, World.of(start(config, {})), open_display("bench", 1, is_shown=False))


def ours(made, folder: Path) -> Iterator[None]:
    """One round after the other: train, aggregate, save."""
    checkpoints = Checkpoints(folder / "ours", made.fleet)
    for round in made.federation.run(FedAvg(), made.first, 10**6):
        checkpoints.save(State(round.server, made.fleet.memories))
        yield


def bare(made, folder: Path) -> Iterator[None]:
    """The same steps as a plain script has them: data in memory, Adam anew for each client, a mean, torch.save."""
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


def compare(name: str, made, folder: Path, *, num_rounds: int, target: float) -> None:
    """Print the median seconds of a round of both, and the median ratio of neighbours; one warm-up round each."""
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    both = {"ours": ours(made, folder), "bare": bare(made, folder)}
    for number in range(num_rounds + 1):
        for side, rounds in both.items():
            begin = time.perf_counter()
            next(rounds)
            if number:
                seconds[side].append(time.perf_counter() - begin)
    ratio = statistics.median(mine / plain for mine, plain in zip(*seconds.values(), strict=True))
    mine, plain = map(statistics.median, seconds.values())
    print(f"{name}: {mine:.3f} s a round, bare loop {plain:.3f} s, ratio {ratio:.3f} (target {target})")


def bench_sites(folder: Path) -> None:
    root = REAL_DATA / "cxr_lungs"
    if not root.is_dir():
        print("sites: skipped, FEDLIT_TEST_DATA does not hold cxr_lungs")
        return
    made = experiment("cxr_lungs", f"data.root={root}", f"run_dir={folder}")
    name = f"sites: 7 sites of cxr_lungs, 128 px, U-Net 16, {made.config.precision}"
    compare(name, made, folder, num_rounds=10, target=1.05)


def bench_clients(folder: Path) -> None:
    made = many_clients(folder, 64)
    name = f"clients: 64 clients of 8 pictures, 32 px, U-Net 8, {made.config.precision}"
    compare(name, made, folder, num_rounds=30, target=1.10)


def many_clients(folder: Path, count: int):
    root = folder / f"discs{count}"
    root.mkdir()
    write_manifest(root, {f"s{number:02d}": (8, 1, 1) for number in range(count)})
    data = ("data.labels={disc: 255}", "data.image_size=null", f"data.root={root}", "data.allow_duplicates=true")
    return experiment("cxr_lungs", *data, "network.base_channels=8", f"run_dir={folder}", "precision=32-true")


def bench_memory(folder: Path) -> None:
    """Resident memory after round 10 and after round 100; with 8 and with 64 clients, each in a process of its own."""
    early, late = memory_in_a_process(folder, num_clients=16, num_rounds=100)
    growth = 100 * (late / early - 1)
    print(
        f"memory: 16 clients: {early:.0f} MB after round 10, {late:.0f} MB after round 100, {growth:+.2f} % (target 1)"
    )
    few, many = (memory_in_a_process(folder, num_clients=count, num_rounds=10)[1] for count in (8, 64))
    print(f"memory: 8 clients {few:.0f} MB, 64 clients {many:.0f} MB, ratio {many / few:.3f}")


def memory_in_a_process(folder: Path, *, num_clients: int, num_rounds: int) -> tuple[float, float]:
    """MB after round 10 and after the last one."""
    command = [sys.executable, "-m", "tests.bench", "--memory-of", str(folder), str(num_clients), str(num_rounds)]
    early, late = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
    return float(early), float(late)


def print_memory(folder: Path, num_clients: int, num_rounds: int) -> None:
    rounds = ours(many_clients(folder, num_clients), folder)
    for number in range(1, num_rounds + 1):
        next(rounds)
        if number in (10, num_rounds):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(*[pages * os.sysconf("SC_PAGE_SIZE") / 1e6] * (2 if num_rounds == 10 else 1))


STOPWATCH = """
import os, sys, time
begin = time.perf_counter()
import torch
def step(*arguments, **options):
    print("first step after", time.perf_counter() - begin, flush=True)
    os._exit(0)
torch.optim.Adam.step = step
from fedlit.__main__ import main
main(sys.argv[1:])
"""


def bench_start(folder: Path) -> None:
    """From the command to the first optimizer step, decoded pictures in the cache."""
    root = REAL_DATA / "cxr_lungs"
    config = ["cxr_lungs", f"data.root={root}"] if root.is_dir() else ["quickstart"]
    seconds = []
    for number in range(4):
        command = [sys.executable, "-c", STOPWATCH, "run", *config, f"run_dir={folder / f'start{number}'}"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds.append(float(out.split("first step after")[1].split()[0]))
    cached = statistics.median(seconds[1:])
    print(f"start: {config[0]}: {cached:.1f} s to the first step on cached data (target 10 s)")


def in_processes(count: int, *words: str) -> float:
    """The figure of `tests.bench_processes` in a group of processes that divide the cores."""
    cores = len(os.sched_getaffinity(0))
    group = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"] if count > 1 else []
    command = [sys.executable, *group, "-m", "tests.bench_processes", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // count))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return float(done.stdout.split("figure")[1].split()[0])


def bench_pair(folder: Path) -> None:
    """Two processes of one thread, clients side by side, against one process of two threads."""
    for shape, target in ((("8", "32", "64", "16"), 1.2), (("64", "8", "32", "8"), 1.5)):
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(3):
            for count, found in seconds.items():
                found.append(in_processes(count, "pace", str(folder), *shape))
        one, two = (statistics.median(found) for found in seconds.values())
        what = "{} clients of {} pictures, {} px, U-Net {}".format(*shape)
        print(f"pair: {what}: {one:.3f} s a round alone, {two:.3f} s side by side, {one / two:.2f} x (target {target})")


def bench_sharing(folder: Path) -> None:
    print(f"sharing: 94 M floats between 2 processes: {in_processes(2, 'sharing'):.2f} s (target 0.5 s)")


def bench_mean(folder: Path) -> None:
    print(f"mean: peak memory of the mean over 50 clients: {in_processes(2, 'mean'):.1f} models a process (target 6)")


BENCHES: dict[str, Callable[[Path], None]] = {
    "sites": bench_sites,
    "clients": bench_clients,
    "memory": bench_memory,
    "start": bench_start,
    "pair": bench_pair,
    "sharing": bench_sharing,
    "mean": bench_mean,
    "sam": bench_sam.bench_sam,
    "sam_ways": bench_sam_ways.bench_sam_ways,
    "sam_cache": bench_sam.bench_sam_cache,
    "sam_gpu": bench_sam.bench_sam_gpu,
    "routing": bench_routing.bench_routing,
    "preparation": bench_preparation.bench_preparation,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="all by default", metavar="NAME")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if arguments.memory_of:
        folder, num_clients, num_rounds = arguments.memory_of
        print_memory(Path(folder), int(num_clients), int(num_rounds))
        return
    print(f"{provenance('', {})['hardware']['cpu']}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in arguments.names or BENCHES:
        with tempfile.TemporaryDirectory() as folder:
            BENCHES[name](Path(folder))


if __name__ == "__main__":
    main()
