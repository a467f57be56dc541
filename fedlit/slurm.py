"""SLURM: hands runs to its queue, and puts a job that was asked to stop back into it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fedlit.errors import BadInput, Stopped
from fedlit.files import write_json
from fedlit.sweep import GRID, Grid, noted

RUNS = re.compile(r"^# RUNS: .*\n(.+\n)*", flags=re.MULTILINE)
"""The paragraph of launch/slurm.sbatch that says what is run."""


@dataclass(frozen=True)
class Resources:
    """What a job asks for; None leaves what stands at the head of launch/slurm.sbatch.

    Args:
        gpus: of a node, one process each; 0 for none.
        tasks: processes of a node without GPUs.
        cpus: of a process.
        further: options of sbatch as it takes them, such as `--account=X`.
    """

    nodes: int | None = None
    gpus: int | None = None
    tasks: int | None = None
    cpus: int | None = None
    time: str | None = None
    partition: str | None = None
    further: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        if self.gpus and self.tasks not in (None, self.gpus):
            problems.append(f"--tasks={self.tasks} --gpus={self.gpus}: every GPU has one process; leave --tasks out")
        for name, value in (("time", self.time), ("partition", self.partition)):
            if value is not None and not re.fullmatch(r"[\w:.,@+-]+", value):
                problems.append(f"--{name}={value!r}: allowed are letters, digits and : . , @ + -")
        for word in self.further:
            if not re.fullmatch(r"--?[A-Za-z].*", word):
                problems.append(f"--sbatch={word!r}: needs an option of sbatch, such as --sbatch=--account=X")
            elif (named := re.fullmatch(r"(?:--job-name[= ]|-J ?)(.*)", word)) and is_unseen(named[1]):
                problems.append(
                    f"--sbatch={word!r}: in jobs of this name processes do not find each other; choose another"
                )
        if problems:
            raise BadInput("\n  ".join(problems))

    def options(self) -> dict[str, str | None]:
        """Options of sbatch by name with their values; None takes one away."""
        gpus = 0 if self.gpus is None and self.tasks else self.gpus
        found: dict[str, str | int | None] = {
            "--nodes": self.nodes,
            "--gpus-per-node": gpus,
            "--ntasks-per-node": self.tasks or (gpus or 1 if gpus is not None else None),
            "--cpus-per-task": self.cpus,
            "--time": self.time,
            "--partition": self.partition,
        }
        chosen: dict[str, str | None] = {key: str(value) for key, value in found.items() if value is not None}
        return chosen | ({"--gpus-per-node": None} if gpus == 0 else {})


def is_unseen(name: str) -> bool:
    """In a job of this name processes of srun do not find each other."""
    from fedlit.fleet.starting import UNSEEN_NAMES  # late: torch comes with it

    return name in UNSEEN_NAMES


def submit(grid: Grid, resources: Resources) -> str:
    """Hand the runs to the queue; returns the number of their job.

    What a grid consists of is noted above its runs, so that `collect` can name those that never began.

    Raises:
        BadInput: there is no sbatch here, or it refuses the job.
    """
    number = hand_over(filled(grid, resources))
    if grid.is_swept:
        for parent in {Path(run.run_dir).parent for run in grid.runs}:
            names = {Path(run.run_dir).name for run in grid.runs if Path(run.run_dir).parent == parent}
            parent.mkdir(parents=True, exist_ok=True)
            write_json(parent / GRID, sorted(names.union(noted(parent))))
    return number


def shipped_script() -> str:
    """launch/slurm.sbatch, in a wheel or in a checkout."""
    inside = Path(__file__).parent / "launch" / "slurm.sbatch"
    return (inside if inside.is_file() else inside.parents[2] / "launch" / "slurm.sbatch").read_text(encoding="utf-8")


def filled(grid: Grid, resources: Resources) -> str:
    """launch/slurm.sbatch with these resources at its head and these runs: one job, or one array task for each."""
    options = {"--job-name": f"fedlit-{grid.name}"} | resources.options()
    last = len(grid.runs) - 1
    if grid.is_swept:
        options |= {"--array": f"0-{last}", "--output": "%x-%A_%a.log"}
    script = shipped_script()
    for option, value in options.items():
        script = _with_option(script, option, f"{option}={value}" if value is not None else None)
    for word in resources.further:
        script = _with_option(script, re.split("[= ]", word)[0], word)
    lines = [f"program=({shlex.join(_program())})"]
    if grid.is_swept:
        lines.append('case "${SLURM_ARRAY_TASK_ID:-}" in')
        lines += [f"  {number}) set -- {shlex.join(run.words)} ;;" for number, run in enumerate(grid.runs)]
        lines += [f'  *) echo "the array tasks of this grid are 0 to {last}" >&2; exit 2 ;;', "esac"]
    else:
        lines.append(f"set -- {shlex.join(grid.runs[0].words)}")
    return RUNS.sub(lambda _: "\n".join(lines) + "\n", script, count=1)


def _with_option(script: str, option: str, text: str | None) -> str:
    """The script with this option once: in the place where it was, also commented out, or after the others."""
    there = re.compile(rf"^##?SBATCH {re.escape(option)}(=.*)?\n", flags=re.MULTILINE)
    line = "" if text is None else f"#SBATCH {text}\n"
    if there.search(script):
        return there.sub(lambda _: line, script, count=1)
    last = list(re.finditer(r"^#SBATCH .*\n", script, flags=re.MULTILINE))[-1].end()
    return script[:last] + line + script[last:]


def _program() -> list[str]:
    """The program that is running now: the job takes the same."""
    beside = Path(sys.executable).parent / "fedlit"
    return [str(beside)] if os.access(beside, os.X_OK) else [sys.executable, "-m", "fedlit"]


def hand_over(script: str) -> str:
    """The number of the job that sbatch makes of a script.

    Raises:
        BadInput: there is no sbatch here, or it refuses the script.
    """
    if not shutil.which("sbatch"):
        raise BadInput(
            "sbatch is not in PATH: submit from a login node of the cluster, or see the script with --dry-run"
        )
    done = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True)
    if done.returncode:
        reason = " ".join(line.removeprefix("sbatch: error: ") for line in done.stderr.splitlines())
        raise BadInput(f"sbatch refuses the job: {reason}; see the script with --dry-run")
    return done.stdout.strip().partition(";")[0]  # JOB or JOB;CLUSTER


@contextmanager
def back_to_the_queue(run_dir: Path, *, is_first: bool) -> Iterator[None]:
    """Around a whole run: where the scheduler asked it to stop and it completed a round, its job goes back.

    That ends the job's processes at once, so by then all must be saved and the run directory free. A crash never goes
    back.
    """
    before = _saved(run_dir) if is_first else set()
    try:
        yield
    except Stopped as stop:
        if is_first and stop.may_requeue and "SLURM_JOB_ID" in os.environ:
            if _saved(run_dir) - before:
                _requeue(stop)
            else:
                why = "no round was completed in this start; give the job more time: --time"
                _tell(f"the job does not go back into the queue: {why}")
        raise


def _saved(run_dir: Path) -> set[tuple[str, int]]:
    """The rounds that are saved, and the passes of the start, each with when."""
    found = set()
    for path in run_dir.glob("*/round-*.json"):
        with suppress(FileNotFoundError):  # another job may be at work here: this one is refused in a moment
            found.add((str(path), path.stat().st_mtime_ns))
    return found


def job() -> str:
    """This job as scontrol names it; the number of an array alone would mean all its tasks."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _requeue(stop: Stopped) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a second one must not keep the job from going back
    state = re.search(r"JobState=(\w+)", _scontrol("show", "job", job()))
    if state and state[1] != "RUNNING":  # scancel sends SIGTERM to all as well, and must not be undone
        return _tell(f"{stop}; job {job()} does not go back into the queue: it was cancelled or its time is over")
    _tell(f"{stop}; all complete rounds are saved, job {job()} goes back into the queue")
    _scontrol("requeue", job())


def _scontrol(*words: str) -> str:
    """What scontrol prints; a failure is said, and ends nothing."""
    try:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=60)
        reason = done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        _tell(f"scontrol {' '.join(words)} failed: {reason}; the rounds are saved, submit the job again")
        return ""
    return done.stdout


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
