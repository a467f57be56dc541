"""The same job in one process (this one), in two of their own, and from an installed wheel: the same bits."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fedlit.weights import load
from fedlit.weights import sha256 as weights_sha256
from tests.conftest import fedlit, write_manifest

ROOT = Path(__file__).parents[1]
PREDICTORS = sorted({path.stem for path in (ROOT / "configs" / "prediction").glob("*.yaml")} - {"personal", "global"})
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def started(*command, cwd=ROOT, **environment) -> subprocess.CompletedProcess:
    words = [str(word) for word in command]
    return subprocess.run(words, env=ENVIRONMENT | environment, cwd=cwd, capture_output=True, text=True, timeout=600)


def run_by_two(*options) -> subprocess.CompletedProcess:
    """Two processes that fedlit starts itself: without the third that `fabric run` is."""
    return started(sys.executable, "-m", "fedlit", "run", *options, "devices=2")


def sha256(run_dir: Path) -> str:
    return json.loads((run_dir / "summary.json").read_text())["weights_sha256"]


@pytest.fixture
def fabric_run():
    """`fabric run` on two CPU processes, as the README has it."""
    program = [sys.executable, "-c", "from lightning.fabric.cli import _main; _main()"]
    return (*program, "run", "--accelerator=cpu", "--devices=2", ROOT / "launch" / "train.py")


@pytest.mark.parametrize(
    "algorithm, flags", [("fedavg", ()), pytest.param("local", ("--strategy=ddp",), marks=pytest.mark.long)]
)
def test_two_processes_equal_one(config_file, tmp_path, fabric_run, algorithm, flags):
    """Clients side by side change no bit: of the global weights, of personal states, of any score.

    Nor is one changed where one process then goes on with what two have begun.
    """
    options = (config_file, f"algorithm={algorithm}", "optimizer_state=keep", "num_rounds=3")
    assert fedlit("run", *options, f"run_dir={tmp_path / 'one'}") == 0
    two = started(*fabric_run[:-1], *flags, fabric_run[-1], *options, f"run_dir={tmp_path / 'two'}")
    assert two.returncode == 0, two.stderr
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")
    for table in ("metrics.csv", "cases.csv"):
        assert (tmp_path / "one" / table).read_text() == (tmp_path / "two" / table).read_text()
    assert fedlit("run", *options[:-1], f"run_dir={tmp_path / 'whole'}") == 0
    assert fedlit("run", *options[:-1], f"run_dir={tmp_path / 'two'}") == 0
    assert sha256(tmp_path / "whole") == sha256(tmp_path / "two") != sha256(tmp_path / "one")


@pytest.mark.long
def test_a_start_and_what_members_share_are_the_same_in_two_processes(config_file, tmp_path):
    """The server's teaching, the members' personal models, and every predictor at two unseen sites."""
    boxes = "{_target_: fedlit.teachers.PriorBoxes, boxes: {disc: [[0.2, 0.2, 0.8, 0.8]]}}"
    teacher = f"start.teacher={{_target_: fedlit.teachers.Ellipses, prompts: {boxes}}}"
    (tmp_path / "data").mkdir()
    counts = {"a": (7, 2, 2), "b": (5, 2, 2), "c": (4, 2, 3), "u": (2, 1, 2), "v": (2, 1, 3)}
    data = write_manifest(tmp_path / "data", counts)
    options = (config_file, f"data.root={data}", "unseen_sites=[u,v]", "network.norm=batch", "server_site=c",
               "start=distillation", teacher, "start.num_rounds=2", "num_rounds=2", "algorithm=iopfl",
               "share_personal=true", f"prediction=[{','.join(PREDICTORS)}]")  # fmt: skip
    assert fedlit("run", *options, f"run_dir={tmp_path / 'one'}") == 0
    two = run_by_two(*options, f"run_dir={tmp_path / 'two'}")
    assert two.returncode == 0, two.stderr
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")
    for table in ("metrics.csv", "cases.csv", "routing.csv"):
        assert (tmp_path / "one" / table).read_text() == (tmp_path / "two" / table).read_text()
    for path in ["initial.safetensors", *(each.name for each in (tmp_path / "one" / "experts").iterdir())]:
        folder = "" if path.startswith("initial") else "experts"
        one_file, two_file = (load(tmp_path / name / folder / path)[0] for name in ("one", "two"))
        assert weights_sha256(one_file) == weights_sha256(two_file)


@pytest.mark.long
def test_a_team_equals_one_process_but_for_rounding_also_with_adam(config_file, tmp_path):
    """In fp64, for Adam turns the rounding of fp32 into differences of its own; with scores, resume and two teams."""
    from fedlit.checkpoint import read_state

    options = (config_file, "precision=64-true", "num_rounds=2", "optimizer_state=keep")
    assert fedlit("run", *options, f"run_dir={tmp_path / 'one'}") == 0
    two = run_by_two(*options, "processes_per_client=world", f"run_dir={tmp_path / 'two'}")
    assert two.returncode == 0 and "2 processes train each client together" in two.stdout, two.stderr
    states = [read_state(tmp_path / name / "checkpoint", "round-00002.json") for name in ("one", "two")]
    assert states[0].memories.keys() == states[1].memories.keys() == {"a", "b", "c"}
    for name, value in states[0].server.weights.items():
        torch.testing.assert_close(states[1].server.weights[name], value, rtol=0, atol=1e-6)


@pytest.mark.long
def test_two_nodes_equal_one_process(config_file, tmp_path, fabric_run):
    """As `fabric run --num-nodes=2`, typed on each of two machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert fedlit("run", config_file, f"run_dir={tmp_path / 'one'}") == 0
    words = [word for word in map(str, fabric_run[:-1]) if not word.startswith("--devices")]
    words += ["--devices=1", "--num-nodes=2", "--main-address=127.0.0.1", f"--main-port={port}"]
    script = [str(fabric_run[-1]), str(config_file), f"run_dir={tmp_path / 'two'}"]
    with ThreadPoolExecutor() as machines:
        nodes = [*machines.map(lambda rank: started(*words, f"--node-rank={rank}", *script), (0, 1))]
    assert [node.returncode for node in nodes] == [0, 0], [node.stderr for node in nodes]
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")


@pytest.mark.long
def test_a_failure_in_one_process_ends_all_with_its_name(config_file, tmp_path, fabric_run):
    options = (config_file, "loss={_target_: tests.broken.NanAt, mean_above: 0.18}", "batch_size=8")
    done = started(*fabric_run, *options, PYTHONPATH=str(ROOT), FEDLIT_TRUSTED_PACKAGES="tests")
    assert done.returncode != 0
    assert "client 'a' failed in round 1: the loss is nan" in done.stderr


@pytest.mark.long
def test_a_strategy_that_does_not_fit_is_refused(config_file, fabric_run):
    words = [*fabric_run[:-2], "--devices=1", "--strategy=fsdp", fabric_run[-1]]
    done = started(*words, config_file)
    assert done.returncode != 0 and "fabric run --strategy=fsdp" in done.stderr and "leave the flag out" in done.stderr


@pytest.mark.long
def test_the_wheel_carries_what_a_run_needs(tmp_path):
    """Built, unpacked elsewhere, and run from there: the shipped configs and templates come along."""
    pytest.importorskip("build")
    built = started(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "site"
    install = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, wheel)
    assert started(*install).returncode == 0
    tiny = ("num_rounds=1", "data.size=32", "data.scale=0.05", "network.base_channels=4", f"run_dir={tmp_path / 'run'}")
    done = started(sys.executable, "-m", "fedlit", "run", "quickstart", *tiny, cwd=tmp_path, PYTHONPATH=str(place))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    where = started(sys.executable, "-c", "import fedlit; print(fedlit.__file__)", cwd=tmp_path, PYTHONPATH=str(place))
    assert where.stdout.strip().startswith(str(place))
