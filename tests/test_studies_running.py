"""A run of a study as a process of its own: what it says where it fails, and the signals that are passed on to it."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedlit.studies import running
from fedlit.studies.running import Ended, in_a_process


@pytest.fixture
def program(tmp_path, monkeypatch):
    """In the place of Python: a script, which is given the words of a run."""

    def make(text: str) -> None:
        monkeypatch.chdir(tmp_path)
        path = tmp_path / "program"
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setattr(sys, "executable", str(path))

    return make


RUN = running.Run(("x.yaml", "a=b c"), "out")


def test_a_process_says_why_it_failed(program):
    program('echo "round 1"; echo "error: client failed"; echo "$*"; exit 1')
    assert in_a_process(RUN) == Ended(1, "error: client failed\n-m fedlit run x.yaml a=b c")
    program("exit 0")
    assert in_a_process(RUN) == Ended(0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_is_passed_on_and_ends_the_study_when_the_run_has_ended(program, monkeypatch, number, code):
    """Ctrl-C that came to this process alone reaches the run later; it ends as it ends a run."""
    monkeypatch.setattr(running, "PATIENCE", 0.1)
    program(f"trap 'exit {code}' INT TERM; kill -{number.name[3:]} $PPID; for i in $(seq 200); do sleep 0.05; done")
    before = signal.getsignal(number)
    assert in_a_process(RUN) == Ended(code, "", code)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_that_comes_while_a_run_is_begun_is_its_signal_too(program, monkeypatch, number, code):
    monkeypatch.setattr(running, "PATIENCE", 0.1)
    program(f"trap 'exit {code}' INT TERM; touch ready; for i in $(seq 200); do sleep 0.05; done")
    begin = subprocess.Popen

    def begun_late(words, **options):
        process = begin(words, **options)
        while not Path("ready").exists():
            time.sleep(0.01)
        signal.raise_signal(number)
        return process

    monkeypatch.setattr(subprocess, "Popen", begun_late)
    assert in_a_process(RUN) == Ended(code, "", code)
