"""Jobs on a real SLURM: the same bits on two nodes and across a requeue, and no requeue that helps nobody."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import pytest

from tests.conftest import CONFIG, fedlit
from tests.slurm.conftest import Cluster, wait_for

ROUNDS = 60  # some seconds: enough to be stopped on the way


def summary(run_dir: Path) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


def log(folder: Path, job: str) -> str:
    (file,) = folder.glob(f"fedlit-*-{job}.log")
    return file.read_text()


def newest(run_dir: Path) -> int:
    return max((int(path.stem[6:]) for path in (run_dir / "checkpoint").glob("round-*.json")), default=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, disc_data) -> Path:
    """Where the jobs are submitted, with the experiment `discs.yaml`."""
    folder = tmp_path_factory.mktemp("jobs")
    settings = (
        f"{CONFIG}data.root: {disc_data}\nunseen_sites: [u]\neval_every: 20\nreport.pictures: false\nloggers: {{}}\n"
    )
    (folder / "discs.yaml").write_text(settings)
    return folder


@pytest.fixture(scope="module")
def plain(folder) -> dict:
    """The summary of one process that nothing interrupts."""
    assert fedlit("run", folder / "discs.yaml", f"num_rounds={ROUNDS}", f"run_dir={folder / 'plain'}") == 0
    return summary(folder / "plain")


@pytest.mark.long
def test_two_nodes_equal_one_process_and_a_requeued_job_an_uninterrupted_one(cluster: Cluster, folder, plain):
    """USR1 on the way, as before the time limit: the job stops, goes back, goes on, and ends with the same bits."""
    run_dir = folder / "two"
    job = cluster.submit(folder, "discs.yaml", f"num_rounds={ROUNDS}", f"run_dir={run_dir}", "overwrite=true")
    wait_for(lambda: newest(run_dir) >= 3, "three rounds are complete")
    cluster.call("scancel", "--signal=USR1", job)
    cluster.resume_now(job)
    done_before = newest(run_dir)
    assert 3 <= done_before < ROUNDS
    facts = cluster.wait(job)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("COMPLETED", "0:0", "1"), log(folder, job)
    assert summary(run_dir)["weights_sha256"] == plain["weights_sha256"]
    assert summary(run_dir)["sites"] == plain["sites"]
    told = log(folder, job)
    put_back, gone_on = told.index(f"job {job} goes back into the queue"), told.index(f"after round {done_before}")
    assert put_back < gone_on < told.index("report: ")


@pytest.mark.long
def test_a_job_that_completed_no_round_is_not_put_back(cluster: Cluster, folder):
    run_dir = folder / "slow"
    job = cluster.submit(folder, "discs.yaml", "local_steps=1000000", f"run_dir={run_dir}")
    wait_for((run_dir / "provenance.json").is_file, "the run has begun")
    cluster.call("scancel", "--signal=USR1", job)
    facts = cluster.wait(job)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "75:0", "0")
    assert "no round was completed in this start; give the job more time: --time" in log(folder, job)


def test_a_crash_is_not_put_back(cluster: Cluster, folder):
    run_dir = folder / "crash"
    broken = ("loss={_target_: tests.broken.NanAt, mean_above: 0.18}", "batch_size=8")
    job = cluster.submit(folder, "discs.yaml", *broken, f"run_dir={run_dir}", "--nodes", 1, "--tasks", 2)
    facts = cluster.wait(job)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "1:0", "0")
    assert "client 'a' failed in round 1: the loss is nan" in log(folder, job)


def test_a_cancelled_job_stays_cancelled_and_keeps_its_rounds(cluster: Cluster, folder):
    """scancel sends SIGTERM to every task, as a preemption does; but who cancels a job does not want it back."""
    run_dir = folder / "cancelled"
    job = cluster.submit(folder, "discs.yaml", "num_rounds=5000", f"run_dir={run_dir}", "--nodes", 1, "--tasks", 1)
    wait_for(lambda: newest(run_dir) >= 2, "two rounds are complete")
    cluster.call("scancel", job)
    facts = cluster.wait(job)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0"), log(folder, job)
    assert newest(run_dir) >= 2 and "does not go back into the queue: it was cancelled" in log(folder, job)


@pytest.mark.long
def test_a_grid_is_an_array_whose_tasks_are_put_back_alone_and_collected(cluster: Cluster, folder, plain, capsys):
    words = (f"num_rounds={ROUNDS}", "run_dir=grid", "--sweep", "seed=0,1")
    job = cluster.submit(folder, "discs.yaml", *words, "--nodes", 1, "--tasks", 1)
    runs = [folder / "grid" / f"seed={seed}" for seed in (0, 1)]
    wait_for(lambda: newest(runs[1]) >= 3, "three rounds of the second are complete")
    cluster.call("scancel", "--signal=USR1", f"{job}_1")
    cluster.resume_now(f"{job}_1")
    for task, restarts in (("0", "0"), ("1", "1")):
        facts = cluster.wait(f"{job}_{task}")
        assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", restarts), log(folder, f"{job}_{task}")
    assert summary(runs[0])["weights_sha256"] == plain["weights_sha256"] != summary(runs[1])["weights_sha256"]
    assert fedlit("collect", folder / "grid", "--out", folder / "table.csv") == 0
    (row,) = csv.DictReader((folder / "table.csv").read_text().splitlines())
    worst = [summary(run)["worst_dice"] for run in runs]
    assert row["seeds"] == "2" and float(row["worst_site_mean"]) == statistics.fmean(worst)
    assert float(row["worst_site_std"]) == statistics.stdev(worst)
