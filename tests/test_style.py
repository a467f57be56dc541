"""ruff and mypy find nothing to say."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def check(tool: str, *words: str) -> None:
    """Fails with what a tool prints where it is not content with the repository."""
    if find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed; the extra `test` brings it")
    done = subprocess.run([sys.executable, "-m", tool, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing():
    check("ruff", "check", ".")
    check("ruff", "format", "--check", ".")


def test_mypy_finds_nothing():
    check("mypy", "fedlit")
