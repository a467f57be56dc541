"""A real SLURM on this machine: a controller and two nodes on loopback, started and stopped by the tests."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo")

CONF = """\
ClusterName=fedlit
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
ReturnToService=2
PreemptType=preempt/none
KillWait=10
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def why_not() -> str:
    """What a real SLURM lacks here; empty where it can be started."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "starting SLURM needs root on Linux"
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    lacking = [name for name in NEEDED if not shutil.which(name, path=path)]
    return f"SLURM is not installed ({', '.join(lacking)}): Debian's packages are slurm-wlm and munge" * bool(lacking)


def wait_for(holds: Callable[[], object], what: str, seconds: float = 240) -> None:
    """Until it holds; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)


@dataclass(frozen=True)
class Cluster:
    """A running SLURM; `environment` is what its commands and jobs see."""

    environment: dict[str, str]

    def call(self, *command: object, cwd: Path | None = None, check: bool = True) -> str:
        """What a command prints."""
        words = [str(word) for word in command]
        done = subprocess.run(words, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def submit(self, folder: Path, *words: object) -> str:
        """The number of the job that `fedlit submit` makes, two tasks on two nodes unless `words` say otherwise."""
        small = () if "--nodes" in words else ("--nodes", 2, "--tasks", 1)
        program = (sys.executable, "-m", "fedlit", "submit")
        told = self.call(*program, *words, *small, "--gpus", 0, "--cpus", 1, "--time", 5, cwd=folder)
        return re.search(r"^job (\d+) with", told, flags=re.MULTILINE)[1]

    def facts(self, job: str) -> dict[str, str]:
        """What scontrol knows of a job or of a task of an array."""
        return dict(word.partition("=")[::2] for word in self.call("scontrol", "show", "job", job).split())

    def wait(self, job: str, *states: str) -> dict[str, str]:
        """The facts of a job in one of these states, else in one of the last ones."""
        states = states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        wait_for(lambda: self.facts(job)["JobState"] in states, f"job {job} is {' or '.join(states)}")
        return self.facts(job)

    def resume_now(self, job: str) -> None:
        """Start a job that was put back at once; SLURM would let it wait two minutes."""
        assert self.wait(job, "PENDING")["Restarts"] == "1"
        time.sleep(2)  # a node refuses a job in the very second in which it ended it: "Job credential revoked"
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now")
        wait_for(lambda: self.facts(job)["JobState"] != "PENDING", f"job {job} starts again")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="session")
def cluster(request) -> Iterator[Cluster]:
    """Starts SLURM, hands it out, and stops exactly what it started. Its logs stay where a test has failed."""
    if reason := why_not():
        pytest.skip(reason)
    folder = Path(
        tempfile.mkdtemp(prefix="slurm-", dir="/tmp")
    )  # a short path: that of a socket may have 107 characters
    folder.chmod(0o755)
    (folder / "state").mkdir()
    for name in ("spool-n1", "spool-n2"):
        (folder / name).mkdir()
    shutil.chown(folder, "munge")
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, host=socket.gethostname(), ports=_free_ports(3)))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))},
        "PATH": os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")),
        "SLURM_CONF": str(folder / "slurm.conf"),
        "MASTER_ADDR": "127.0.0.1",  # n1 and n2 are names that no resolver knows
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "FEDLIT_TRUSTED_PACKAGES": "tests",
    }
    munge = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in ("pid-file", "log-file", "seed-file")]
    munged = ["munged", "--foreground", f"--socket={folder}/munge.socket", *munge]
    commands = [["runuser", "-u", "munge", "--", *munged], ["slurmctld", "-D"]]
    commands += [["slurmd", "-D", "-N", name, "-f", str(folder / "slurm.conf")] for name in ("n1", "n2")]
    daemons: list[subprocess.Popen] = []
    running = Cluster(environment)
    try:
        for command in commands:
            with open(folder / f"{len(daemons)}.out", "wb") as out:
                daemons.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=out,
                        start_new_session=True,
                    )
                )
            if len(daemons) == 1:
                wait_for((folder / "munge.socket").is_socket, "munged is up", 20)
        idle = ("sinfo", "--noheader", "--states=idle", "--format=%D")
        wait_for(lambda: running.call(*idle, check=False).strip() == "2", f"two nodes are idle, see {folder}", 40)
        yield running
        running.call("scancel", "--user=root", check=False)
        wait_for(lambda: not running.call("squeue", "--noheader", check=False).strip(), "all jobs have ended", 30)
    finally:
        for daemon in reversed(daemons):
            _stop(daemon)
    if not request.session.testsfailed:
        shutil.rmtree(folder, ignore_errors=True)


def _stop(daemon: subprocess.Popen) -> None:
    """End a daemon that was started in a session of its own, with its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(daemon.pid, number)
            daemon.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
