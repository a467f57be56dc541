"""What is handed to SLURM, and when a job goes back into its queue; commands of SLURM are played by scripts."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fedlit import slurm
from fedlit.errors import BadInput, ClientFailed, Stopped
from fedlit.sweep import grid
from tests.conftest import fedlit

ROOT = Path(__file__).parents[1]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Makes a command of SLURM that notes its words and its input in files, says something and ends with a code."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, says: str = "", code: int = 0) -> Path:
        noted = folder / f"{name}.words"
        text = f'#!/bin/bash\necho "$@" >> {noted}\n[ {name} = sbatch ] && cat > {folder}/script\n{says}\nexit {code}\n'
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
        return noted

    return make


@pytest.fixture
def job(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "12")


def executed(script: str, folder: Path, **environment: str) -> list[list[str]]:
    """The words of each program that a filled script starts; srun only says what it was given."""
    play = folder / "play"
    play.mkdir(exist_ok=True)
    (play / "srun").write_text('#!/bin/bash\nprintf \'%s\\0\' "$@" > "$OUT"\nexit 75\n')
    (play / "srun").chmod(0o755)
    out = folder / "out"
    variables = {"PATH": f"{play}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(folder), "OUT": str(out), "HOME": "/nowhere"}
    done = subprocess.run(["bash"], input=script, text=True, env=variables | environment, capture_output=True)
    assert done.returncode == 75, done.stderr  # the exit code of the tasks is that of the job
    return out.read_text().split("\0")[:-1]


def test_the_script_runs_the_words_it_is_given(tmp_path):
    script = slurm.shipped_script()
    assert script == (ROOT / "launch" / "slurm.sbatch").read_text()
    words = executed(f"set -- my.yaml 'a b=[1, 2]'\n{script}", tmp_path)
    assert words == ["--kill-on-bad-exit=0", "fedlit", "run", "my.yaml", "a b=[1, 2]"]
    again = executed(f"set -- my.yaml overwrite=true\n{script}", tmp_path, SLURM_RESTART_COUNT="1")
    assert again[2:] == ["run", "my.yaml", "overwrite=true", "overwrite=false", "resume=auto"]


def test_no_job_is_named_so_that_its_processes_do_not_find_each_other():
    names = [line.partition("=")[2] for line in slurm.shipped_script().splitlines() if "SBATCH --job-name" in line]
    assert names == ["fedlit"]
    with pytest.raises(BadInput, match="choose another"):
        slurm.Resources(further=("--job-name=bash",))


@pytest.mark.parametrize("task", [0, 1])
def test_words_arrive_as_they_were_written(config_file, tmp_path, task):
    """Blanks, braces, quotes, dollars: nothing in a filled script is read again by the shell."""
    words = ("data.labels={disc: [1, 255]}", "name=it.is", 'keep_local=["a\'b $HOME `id` \\\\\\\\"]')
    found = grid(str(config_file), words, ("seed=0,1",))
    script = slurm.filled(found, slurm.Resources())
    assert tuple(executed(script, tmp_path, SLURM_ARRAY_TASK_ID=str(task))[3:]) == found.runs[task].words
    single = grid(str(config_file), words, ())
    assert tuple(executed(slurm.filled(single, slurm.Resources()), tmp_path)[3:]) == single.runs[0].words


def test_resources_stand_at_the_head_once(config_file):
    found = grid(str(config_file), (), ("seed=0,1,2",))
    resources = slurm.Resources(
        nodes=2, gpus=4, cpus=8, time="1-12", partition="a100", further=("--account=X", "--signal=USR1@300", "--mem 3G")
    )
    lines = slurm.filled(found, resources).splitlines()
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    wanted = """--job-name=fedlit-discs --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 --cpus-per-task=8 --time=1-12
        --partition=a100 --signal=USR1@300 --requeue --open-mode=append --output=%x-%A_%a.log --array=0-2 --account=X"""
    assert sorted(options) == sorted([*wanted.split(), "--mem 3G"])
    cpu = slurm.filled(found, slurm.Resources(tasks=3))
    assert "--ntasks-per-node=3" in cpu and "#SBATCH --gpus" not in cpu
    none = slurm.filled(found, slurm.Resources(gpus=0))
    assert "--ntasks-per-node=1" in none and "#SBATCH --gpus" not in none


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"gpus": 2, "tasks": 3}, "every GPU has one process"),
        ({"time": "1:00\n#SBATCH --uid=0"}, "--time="),
        ({"further": ("account=X",)}, "needs an option of sbatch"),
        ({"further": ("--account=X\nrm -rf",)}, "needs an option of sbatch"),
    ],
)
def test_resources_that_cannot_be_are_refused(words, message):
    with pytest.raises(BadInput, match=message):
        slurm.Resources(**words)


def test_submit_hands_the_script_over_and_notes_the_grid(config_file, tmp_path, commands, capsys):
    noted = commands("sbatch", says="echo '77;cluster'")
    assert fedlit("submit", config_file, "--sweep", "seed=0,1", "--gpus", 0) == 0
    said = capsys.readouterr().out
    assert said.splitlines() == ["job 77 with 2 runs:", *(f"  {tmp_path}/run/seed={seed}" for seed in (0, 1))]
    assert noted.read_text() == "--parsable\n"
    assert (tmp_path / "bin" / "script").read_text().startswith("#!/usr/bin/env bash\n")
    assert json.loads((tmp_path / "run" / ".grid.json").read_text()) == ["seed=0", "seed=1"]
    assert fedlit("submit", config_file, "--sweep", "seed=1,2") == 0
    assert json.loads((tmp_path / "run" / ".grid.json").read_text()) == ["seed=0", "seed=1", "seed=2"]


def test_a_dry_run_shows_all_and_touches_nothing(config_file, tmp_path, commands, capsys):
    noted = commands("sbatch")
    before = sorted(tmp_path.rglob("*"))
    assert fedlit("submit", config_file, "--sweep", "lr=0.1,0.2", "--nodes", 3, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "#SBATCH --nodes=3\n" in said and "#SBATCH --array=0-1\n" in said
    assert said.splitlines()[-1] == f"fedlit run {config_file} lr=0.2 run_dir={tmp_path}/run/lr=0.2"
    assert not noted.exists() and sorted(tmp_path.rglob("*")) == before


def test_submit_checks_first_and_says_what_sbatch_says(config_file, tmp_path, commands, monkeypatch, capsys):
    noted = commands("sbatch", says="echo 'sbatch: error: invalid partition specified: x' >&2", code=1)
    assert fedlit("submit", config_file, "lrr=1") == 2
    assert "did you mean lr?" in capsys.readouterr().err and not noted.exists()
    assert fedlit("submit", config_file, "--partition", "x", "--sweep", "seed=0,1") == 2
    assert "sbatch refuses the job: invalid partition specified: x" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fedlit("submit", config_file) == 2
    error = capsys.readouterr().err
    assert "sbatch is not in PATH" in error and "--dry-run" in error


def stopped(folder: Path, *, rounds: int, error: BaseException, is_first: bool = True) -> None:
    """A run that completes rounds and ends with an error, in a directory where two rounds were complete before."""
    folder.mkdir()
    (folder / "round-00002.json").touch()
    with pytest.raises(type(error)), slurm.back_to_the_queue(folder.parent, is_first=is_first):
        for number in range(rounds):
            (folder / f"round-{number + 3:05d}.json").touch()
        raise error


ASKED = Stopped("asked to stop by SIGUSR1", may_requeue=True)


@pytest.mark.parametrize(
    ("array", "name"), [({}, "12"), ({"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"}, "9_3")]
)
def test_a_job_with_a_round_goes_back_alone(tmp_path, commands, job, monkeypatch, capsys, array, name):
    noted = commands("scontrol", says="echo JobState=RUNNING Reason=None")
    for variable, value in array.items():
        monkeypatch.setenv(variable, value)
    stopped(tmp_path / "checkpoint", rounds=1, error=ASKED)
    assert noted.read_text().splitlines() == [f"show job {name}", f"requeue {name}"]
    assert f"job {name} goes back into the queue" in capsys.readouterr().err


def test_a_pass_of_the_start_counts_as_a_round(tmp_path, commands, job):
    noted = commands("scontrol", says="echo JobState=RUNNING Reason=None")
    stopped(tmp_path / "start", rounds=1, error=ASKED)
    assert "requeue 12" in noted.read_text()


def test_a_run_that_was_begun_anew_counts_its_own_rounds(tmp_path, commands, job):
    """overwrite=true: the third round of before is gone, the first of now is a new one."""
    noted = commands("scontrol", says="echo JobState=RUNNING")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "round-00003.json").touch()
    with pytest.raises(Stopped), slurm.back_to_the_queue(tmp_path, is_first=True):
        (tmp_path / "checkpoint" / "round-00003.json").unlink()
        (tmp_path / "checkpoint" / "round-00001.json").touch()
        raise ASKED
    assert "requeue 12" in noted.read_text()


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ({"rounds": 0, "error": ASKED}, "no round was completed in this start; give the job more time: --time"),
        ({"rounds": 2, "error": Stopped("asked to stop by SIGTERM")}, ""),
        ({"rounds": 2, "error": ClientFailed("client 'a' failed")}, ""),
        ({"rounds": 2, "error": KeyboardInterrupt()}, ""),
        ({"rounds": 2, "error": ASKED, "is_first": False}, ""),
    ],
)
def test_other_ends_never_go_back(tmp_path, commands, job, capsys, end, message):
    noted = commands("scontrol", says="echo JobState=RUNNING")
    stopped(tmp_path / "checkpoint", **end)
    said = capsys.readouterr().err
    assert not noted.exists() and (message in said if message else said == "")


def test_outside_of_a_job_nothing_goes_back(tmp_path, commands, job, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    noted = commands("scontrol")
    stopped(tmp_path / "checkpoint", rounds=1, error=ASKED)
    assert not noted.exists()


def test_a_cancelled_job_stays_cancelled(tmp_path, commands, job, capsys):
    noted = commands("scontrol", says="echo JobState=COMPLETING Reason=None")
    stopped(tmp_path / "checkpoint", rounds=1, error=ASKED)
    assert noted.read_text() == "show job 12\n"
    assert "job 12 does not go back into the queue: it was cancelled" in capsys.readouterr().err


def test_a_scheduler_that_refuses_is_quoted(tmp_path, commands, job, capsys):
    commands("scontrol", says="echo JobState=RUNNING; [ $1 = show ] && exit 0; echo Access denied >&2", code=1)
    stopped(tmp_path / "checkpoint", rounds=1, error=ASKED)
    assert "scontrol requeue 12 failed: Access denied; the rounds are saved, submit" in capsys.readouterr().err
