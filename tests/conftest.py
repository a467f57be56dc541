"""A federation of three tiny hospitals, built in well under a second."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np
import pytest
import torch

REAL_DATA = Path(os.environ.get("FEDLIT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

torch.set_num_threads(1)  # bits are compared: sums must be split the same way in every process


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Decoded pictures and drawn phantoms of the tests stay out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("FEDLIT_CACHE")
    os.environ["FEDLIT_CACHE"] = str(folder)
    yield folder
    os.environ.pop("FEDLIT_CACHE") if before is None else os.environ.__setitem__("FEDLIT_CACHE", before)


def discs(count: int, seed: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs on noise: images uint8 [N, H, W, 1], masks uint8 [N, H, W]."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    centres = random.uniform(0.3, 0.7, (count, 2, 1, 1)) * size
    radii = random.uniform(0.15, 0.3, (count, 1, 1)) * size
    masks = (rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2 < radii**2
    images = 60 + 90 * masks + random.normal(0, 15, masks.shape)
    return images.clip(0, 255).astype(np.uint8)[..., None], masks.astype(np.uint8)


def write_manifest(root: Path, counts: Mapping[str, tuple[int, int, int]], *, size: int = 32, value: int = 255) -> Path:
    """Sites of discs in the manifest layout; `counts`: site -> pictures for train, val and test."""
    from PIL import Image

    lines = ["site,image,mask,split,group"]
    for place, (site, of_split) in enumerate(counts.items()):
        images, masks = discs(sum(of_split), seed=place, size=size)
        splits = [split for split, count in zip(("train", "val", "test"), of_split, strict=True) for _ in range(count)]
        for number, (image, mask, split) in enumerate(zip(images[..., 0], masks, splits, strict=True)):
            name = f"{site}_{number:02d}.png"
            Image.fromarray(image).save(root / name)
            Image.fromarray(mask * np.uint8(value)).save(root / f"mask_{name}")
            lines.append(f"{site},{name},mask_{name},{split},p{number}")
    (root / "sites.csv").write_text("\n".join(lines) + "\n")
    return root


LONGEST = ("test_jobs.py", "test_faults.py", "test_processes.py", "test_placement.py", "test_miniature_chain.py")


def pytest_collection_modifyitems(items):
    """The files that take minutes come first, so that no process of the suite is left alone with one at the end."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


def pytest_collection():
    """Python looks for no garbage while the tests are imported, nor later among what they imported."""
    gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_unconfigure():
    gc.unfreeze()  # else triton tells of leaks at the end


CONFIG = """\
include: [base]
data: manifest
data.labels: {disc: 255}
network.base_channels: 4
network.depth: 2
num_rounds: 4
batch_size: 4
local_epochs: 3
lr: 0.01
precision: 32-true
accelerator: cpu
inspect_data: false
"""


@pytest.fixture(scope="session")
def disc_data(tmp_path_factory) -> Path:
    """A folder with sites.csv: members a, b, c, and a site u that the tests leave out."""
    return write_manifest(
        tmp_path_factory.mktemp("discs"), {"a": (7, 2, 2), "b": (5, 2, 2), "c": (4, 2, 3), "u": (2, 1, 2)}
    )


def write_config(folder: Path, disc_data: Path) -> Path:
    """An experiment on these discs that takes a second or two, and runs in `folder/run`."""
    path = folder / "discs.yaml"
    path.write_text(f"{CONFIG}data.root: {disc_data}\nunseen_sites: [u]\nrun_dir: {folder / 'run'}\n")
    return path


@pytest.fixture
def config_file(tmp_path, disc_data) -> Path:
    return write_config(tmp_path, disc_data)


def script(name: str):
    """A file of the folder launch, as a module."""
    path = Path(__file__).parents[1] / "launch" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fedlit(*words) -> int:
    """The exit code of `fedlit ...` in this process."""
    from fedlit.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code or 0


def make_site(
    name: str,
    counts: tuple[int, int, int] = (6, 2, 2),
    *,
    role: str = "member",
    seed: int | None = None,
    seed_name: str | None = None,
):
    from fedlit.data.pictures import Pictures
    from fedlit.data.site import Site

    seed = sum(map(ord, name)) if seed is None else seed
    splits = {
        split: Pictures.from_arrays(*discs(count, 10 * seed + place), np.array([[0, 1]]), name=name)
        for place, (split, count) in enumerate(zip(("train", "val", "test"), counts, strict=True))
    }
    return Site(name, role, seed_name=seed_name or name, **splits)


def make_network(norm: str = "group", dropout: float = 0.0):
    from fedlit.networks import UNet

    torch.manual_seed(0)
    return UNet(1, 1, base_channels=4, depth=2, norm=norm, dropout=dropout)


def make_world(client_timeout=None, precision="32-true", devices=1):
    from fedlit.fleet import World, open_fabric

    fabric = open_fabric(accelerator="cpu", devices=devices, num_nodes=1, precision=precision)
    return World.of(fabric, client_timeout)


def make_federation(
    sites,
    *,
    network=None,
    on_client_error="fail",
    keep_local=(),
    sampling=None,
    plan=None,
    world=None,
    processes_per_client=1,
    costs=None,
    transforms=(),
    **training,
):
    """A federation, in this process unless `world` says more, and the server before the first round."""
    from fedlit.algorithms import Sampling
    from fedlit.client import Client
    from fedlit.data.loading import Loader
    from fedlit.federation import Federation, enrolled
    from fedlit.fleet import Fleet, Workbench
    from fedlit.losses import DiceBCE
    from fedlit.messages import Server
    from fedlit.resident import Resident
    from fedlit.training import LocalTraining
    from fedlit.transforms import Channel
    from fedlit.weights import select

    training = {"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=1e-2), "batch_size": 4} | training
    plan = plan or LocalTraining(**training)
    world = world or make_world()
    team = world.form_team(processes_per_client)
    wrapped = world.fabric.setup_module(network or make_network())
    synced = team.wrap(world.fabric, wrapped.module) if team.size > 1 else wrapped
    resident = Resident(wrapped.module)
    clients = {
        site.name: Client(site, resident.network, loss=DiceBCE(), plan=plan, keep_local=keep_local)
        for site in sites
        if site.role == "member"
    }
    fleet = Fleet(
        world,
        clients,
        Workbench(world.fabric, wrapped, synced, resident, Loader(), team),
        costs=costs or {name: len(client.site.train) for name, client in clients.items()},
        scoring_costs={site.name: site.num_samples for site in sites},
        on_client_error=on_client_error,
        channel=Channel(tuple(transforms)),
    )
    federation = Federation({site.name: site for site in sites}, fleet, sampling or Sampling(), tuple(keep_local))
    first = resident.read()
    shared = {name: first[name] for name in first.keys() - select(first, keep_local).keys()}
    return federation, enrolled(Server(shared), clients)


def run_rounds(federation, server, num_rounds, algorithm=None):
    """The server after `num_rounds` rounds."""
    from fedlit.algorithms import FedAvg

    for round in federation.run(algorithm or FedAvg(), server, num_rounds):
        server = round.server
    return server


@pytest.fixture
def sites():
    return [make_site("a", (7, 2, 2)), make_site("b", (5, 2, 2)), make_site("c", (4, 2, 3))]
