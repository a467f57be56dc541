"""What the server does before the first round: its start, pass by pass over its own pictures, saved after each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedlit import training
from fedlit.checkpoint import Checkpoints, State
from fedlit.data.site import Site
from fedlit.display import Display
from fedlit.errors import BadInput
from fedlit.federation import Federation
from fedlit.fleet import World
from fedlit.messages import Server
from fedlit.progress import Progress
from fedlit.seeding import address
from fedlit.starts import Start, Study
from fedlit.weights import load, save


@dataclass(frozen=True)
class Beginning:
    """From the network's first state to the first global model.

    Args:
        site: the server's own data; None where there is none.
        classes: of the masks.
        alone: a federation whose one client is the site it is given.
        run_dir: where `start/` (checkpoints) and `initial.safetensors` (the first global model) are kept.
    """

    start: Start
    site: Site | None
    classes: tuple[str, ...]
    alone: Callable[[Site], Federation]
    world: World
    run_dir: Path
    seed: int
    display: Display

    def run(self, first: Server) -> dict[str, Tensor]:
        """The network that the rounds start from, every entry of it; nothing is done twice.

        Raises:
            BadInput: the start cannot be made with these data.
        """
        path = self.run_dir / "initial.safetensors"
        if not path.exists():
            self._make(first, path)
        return load(path)[0]

    def report(self) -> dict[str, Any]:
        """What `summary.json` says of the start."""
        return load(self.run_dir / "initial.safetensors")[1]

    def _make(self, first: Server, path: Path) -> None:
        if self.site is None or not len(self.site.train):
            what = "the data name no server site" if self.site is None else f"{self.site.name} has no training pictures"
            raise BadInput(f"start: {what}; set server_site to a site with pictures, or start=null")
        began = time.perf_counter()
        studied = self._study(self.site)
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in studied.report.items())
        self.display.say(f"start: {type(self.start).__name__}{': ' * bool(told)}{told}")
        taught = time.perf_counter() - began
        server, progress = self._passes(self.alone(studied.site), studied.site, first)
        report = {
            "kind": type(self.start).__name__,
            **studied.report,
            "passes": progress.num_rounds,
            "kept_pass": progress.kept_round or progress.num_rounds,
            "seconds": round(progress.seconds + taught, 1),
        }
        self.world.on_first(lambda: save(path, server.weights, report))  # nobody reads it before it is there

    def _study(self, site: Site) -> Study:
        """What the start makes of the server's data; the first process goes ahead and fills the caches for all."""
        found: list[Study] = []

        def study() -> None:
            found.append(self.start.study(site, self.classes, self.world.fabric.device, self.seed))

        self.world.on_first(study)
        if not found:
            study()
        return found[0]

    def _passes(self, federation: Federation, site: Site, first: Server) -> tuple[Server, Progress]:
        fleet, start = federation.fleet, self.start
        checkpoints = Checkpoints(self.run_dir / "start", fleet)
        state = checkpoints.newest(self.display.warn) or State(start.begin(first, self.world.fabric.device))
        fleet.memories = dict(state.memories)
        progress = Progress.from_json(state.progress) if state.progress else Progress()
        if progress.is_stale(start.patience):
            return checkpoints.kept().server, progress
        server = state.server
        for each in federation.run(start, state.server, start.num_rounds):
            server = each.server
            loss = fleet.each(partial(held_out_loss, federation, server, start, self.seed), [site.name])[site.name]
            progress = progress.after(each, None if loss is None else -loss)
            is_best = progress.kept_round == server.round
            checkpoints.save(State(server, fleet.memories, progress.as_json()), kept=is_best)
            held_out = "" if loss is None else f" | held-out loss {loss:.4f}"
            self.display.say(f"start: pass {server.round} of {start.num_rounds} | {each.seconds:.1f} s{held_out}")
            if progress.is_stale(start.patience):
                break
        return (checkpoints.kept().server if progress.kept_round else server), progress


@torch.no_grad()
def held_out_loss(federation: Federation, server: Server, start: Start, seed: int, name: str) -> float | None:
    """The mean loss over the pictures that a start has kept for this; None where there are none."""
    client, bench = federation.fleet.clients[name], federation.fleet.workbench
    pictures = client.site.val
    if not len(pictures):
        return None
    bench.resident.load(server.weights)
    bench.network.eval()
    total = 0.0
    for place in range(0, len(pictures), federation.batch_size):
        indices = list(range(place, min(place + federation.batch_size, len(pictures))))
        training.reseed(address(seed, "held out", place), bench.fabric.device)
        total += float(start.objective(client, bench.network, pictures.batch(indices))) * len(indices)
    return total / len(pictures)
