"""Whatever breaks: every process ends within a minute, says why, and the next run comes to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import fedlit

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def config(tmp_path_factory, disc_data) -> Path:
    """Four short rounds of three clients; those of the second process are b and c."""
    from tests.conftest import CONFIG

    path = tmp_path_factory.mktemp("faults") / "discs.yaml"
    path.write_text(f"{CONFIG}data.root: {disc_data}\nunseen_sites: [u]\nname: faults\n")
    return path


def run(config, run_dir, *overrides, fault=None, devices=2, **environment):
    """`fedlit run` in processes of its own, perhaps with a fault; (exit code, what it said, seconds)."""
    words = ["tests/faulty.py", *fault, "run"] if fault else ["-m", "fedlit", "run"]
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, *words, str(config), f"devices={devices}", f"run_dir={run_dir}", *overrides],
        cwd=ROOT, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr, time.monotonic() - begin


def finish(config, run_dir, *overrides, devices=1):
    """A run that nothing disturbs; one process is this one, which need not start and import anew."""
    if devices == 1:
        assert fedlit("run", config, f"run_dir={run_dir}", *overrides) == 0
        return
    code, said, _ = run(config, run_dir, *overrides, devices=devices)
    assert code == 0, said


def log(run_dir: Path) -> str:
    return (run_dir / "log.txt").read_text()


def processes_of(run_dir: Path) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"run_dir={run_dir}" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


def wait_for_the_end(run_dir: Path, seconds: float) -> None:
    """Of every process of a run; they may take a minute after the fault."""
    deadline = time.monotonic() + seconds
    while processes_of(run_dir) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not processes_of(run_dir)


def sha256(run_dir: Path) -> str:
    return json.loads((run_dir / "summary.json").read_text())["weights_sha256"]


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """(keys) -> the hash of the run that nothing disturbed; a team rounds otherwise than one process."""

    @cache
    def of(*overrides: str) -> str:
        run_dir = tmp_path_factory.mktemp("whole") / "run"
        finish(config, run_dir, *overrides, devices=2 if overrides else 1)
        return sha256(run_dir)

    return of


def goes_on_to(expected, config, run_dir, *overrides, devices=1):
    """Run again, undisturbed, by default in this process: all that a fault leaves is on disk. What was said."""
    before = len(log(run_dir))
    finish(config, run_dir, *overrides, devices=devices)
    assert sha256(run_dir) == expected
    return log(run_dir)[before:]


LOST = "process 1 ("
FAULTS = [
    # where, what, process, further keys, exit code, words
    ("training", "kill", 1, (), 1, (LOST, "has ended", "it was at: client '")),
    ("sharing", "kill", 1, (), 1, (LOST, "sharing the updates of round 2")),
    ("scoring", "kill", 1, (), 1, (LOST, "it was at: scoring site '")),
    ("saving", "kill", 0, (), -signal.SIGKILL, ("process 0", "has ended")),
    ("training", "raise", 1, (), 1, ("failed in round 2: disk on fire",)),
    ("forward", "raise", 1, ("processes_per_client=2",), 1, ("in one process of its team alone: disk on fire",)),
    ("training", "slow", 1, ("client_timeout=10",), 1, ("failed in round 2: it has taken", "client_timeout=10")),
    ("training", "hang", 1, ("client_timeout=10", "on_client_error=drop"), 1, ("hangs: process 1 (",)),
    ("training", "hang", 0, ("client_timeout=10", "processes_per_client=2"), 1, ("client 'a' hangs: process 0 (",)),
    ("training", "term", 1, (), 75, ("asked to stop by SIGTERM", "which not every process was")),
    ("training", "usr1", 1, (), 75, ("asked to stop by SIGUSR1",)),
]  # fmt: skip
SHORT = {("training", "kill", 1), ("saving", "kill", 0)}


@pytest.mark.parametrize(
    "where, what, place, overrides, code, words",
    [
        pytest.param(*fault, marks=[] if fault[:3] in SHORT else pytest.mark.long, id="-".join(map(str, fault[:4])))
        for fault in FAULTS
    ],
)
def test_a_fault_ends_all_processes_and_loses_no_round(
    whole, config, tmp_path, where, what, place, overrides, code, words
):
    run_dir = tmp_path / "run"
    found, said, seconds = run(config, run_dir, *overrides, fault=(where, what, "2", str(place)))
    assert found == code, said
    assert all(word in said for word in words), said
    wait_for_the_end(run_dir, 60 - min(seconds, 59))
    assert (run_dir / "checkpoint" / "round-00001.json").is_file() and not (run_dir / "summary.json").exists()
    overrides = [each for each in overrides if not each.startswith("client_timeout")]
    team = [each for each in overrides if each.startswith("processes")]
    devices = 2 if team or (where, what) == ("training", "kill") else 1
    again = goes_on_to(whole(*team), config, run_dir, *overrides, devices=devices)
    assert "continuing after round 1" in again


@pytest.mark.long
def test_a_slow_client_is_dropped_and_counted(config, tmp_path):
    run_dir = tmp_path / "run"
    code, said, _ = run(
        config, run_dir, "client_timeout=10", "on_client_error=drop", fault=("training", "slow", "2", "1")
    )
    assert code == 0, said
    (dropped,) = json.loads((run_dir / "summary.json").read_text())["dropped"]
    assert dropped.startswith("round 2: ") and "longer than client_timeout=10" in dropped


@pytest.mark.long
def test_sigterm_to_every_process_is_heeded_at_once(whole, config, tmp_path):
    """As a scheduler sends it: saved, exit 75, and no suspicion that one of them crashed."""
    run_dir = tmp_path / "run"
    words = [sys.executable, "tests/faulty.py", "training", "slow", "2", "0", "run", str(config), "devices=2"]
    with subprocess.Popen(
        [*words, f"run_dir={run_dir}"], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ) as job:  # fmt: skip
        while job.poll() is None and not (run_dir / "checkpoint" / "round-00001.json").exists():
            time.sleep(0.05)
        time.sleep(1)  # process 0 is in its slow step of round 2, process 1 waits for it
        for process in processes_of(run_dir):
            os.kill(process, signal.SIGTERM)
        said = job.communicate(timeout=600)[0]
    assert job.returncode == 75, said
    assert "asked to stop by SIGTERM" in said and "which not every process was" not in said
    goes_on_to(whole(), config, run_dir)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 4 MB, on which root cannot ignore what is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "fedlit-test", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.long
def test_a_full_disk_is_named_and_nothing_is_lost(whole, config, tmp_path, tiny_disk):
    filled = tiny_disk / "ballast"
    run_dir = tiny_disk / "run"
    finish(config, run_dir, "num_rounds=1")
    with suppress(OSError), open(filled, "wb") as ballast:
        while True:
            ballast.write(bytes(4096))
            ballast.flush()
    code, said, _ = run(config, run_dir)
    assert code == 1 and "No space left on device" in said, said
    filled.unlink()
    goes_on_to(whole(), config, run_dir)


@pytest.mark.long
def test_a_disk_that_became_read_only_is_named(whole, config, tmp_path, tiny_disk):
    run_dir = tiny_disk / "run"
    finish(config, run_dir, "num_rounds=1")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    code, said, _ = run(config, run_dir)
    assert code == 2 and "cannot be written: Read-only file system" in said, said
    subprocess.run(["mount", "-o", "remount,rw", str(tiny_disk)], check=True)
    goes_on_to(whole(), config, run_dir)


@pytest.mark.long
def test_a_truncated_checkpoint_is_said_and_the_one_before_taken(whole, config, tmp_path):
    run_dir = tmp_path / "run"
    finish(config, run_dir, "num_rounds=2")
    newest = run_dir / "checkpoint" / "round-00002.json"
    newest.write_bytes(newest.read_bytes()[:100])
    said = goes_on_to(whole(), config, run_dir, devices=2)
    assert "round-00002.json is damaged" in said and "going back to the checkpoint before" in said
    assert "continuing after round 1" in said


def test_a_port_that_is_taken_is_named(config, tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said, _ = run(config, tmp_path / "run", MASTER_PORT=str(port), MASTER_ADDR="127.0.0.1")
    assert code == 2, said
    assert f"127.0.0.1:{port}" in said and "set MASTER_PORT to a free one" in said
    wait_for_the_end(tmp_path / "run", 60)


@pytest.mark.long
def test_a_second_run_on_a_directory_is_refused_while_the_first_is_at_work(whole, config, tmp_path, capsys):
    run_dir = tmp_path / "run"
    words = [sys.executable, "tests/faulty.py", "training", "hang", "2", "0", "run", str(config), "devices=2"]
    with subprocess.Popen(
        [*words, f"run_dir={run_dir}"], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL
    ) as first:
        while first.poll() is None and not (run_dir / "checkpoint" / "round-00001.json").exists():
            time.sleep(0.05)
        assert fedlit("run", config, f"run_dir={run_dir}") == 2
        assert "another run is at work there" in capsys.readouterr().err
        assert first.poll() is None
        first.kill()
    wait_for_the_end(run_dir, 60)
    goes_on_to(whole(), config, run_dir)
