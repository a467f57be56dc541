"""Where a run comes from, and what of it may be shown: secrets are masked, people left out."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedlit.errors import BadInput

_SECRET = r"[\w.\-]*(?:token|passw(?:or)?d|secret)[\w.\-]*|[\w.\-]*key"
PACKAGES = (
    "fedlit",
    "torch",
    "torchvision",
    "lightning",
    "numpy",
    "scipy",
    "albumentations",
    "opencv-python-headless",
    "torchmetrics",
    "monai",
    "safetensors",
    "omegaconf",
    "segment-anything",
)


def is_secret(key: str) -> bool:
    """Whether the value of a (dotted) key must not be shown: token, password, secret, or a name ending in key."""
    return re.fullmatch(_SECRET, key, re.IGNORECASE) is not None


def masked(text: str) -> str:
    """`api_key=abc` -> `api_key=***`, `--token abc` -> `--token ***`, `https://user:pass@host` -> `https://***@host`."""
    value = r"""("[^"]*"|'[^']*'|[^\s'"]+)"""
    text = re.sub(rf"(?i)(?<![\w.\-])((?:--?)?(?:{_SECRET})=){value}", r"\1***", text)
    text = re.sub(rf"(?i)(--?(?:{_SECRET})\s+)(?!-){value}", r"\1***", text)
    return re.sub(r"(\w://)[^/\s@]+@", r"\1***@", text)


def anonymous(text: str) -> str:
    """A path without the person: the home directory becomes `~`, and so do the ones under /home and /Users."""
    home = os.path.expanduser("~")
    if home not in ("/", "~"):
        text = re.sub(rf"(?<![\w.]){re.escape(home)}(?![\w.\-])", "~", text)
    return re.sub(r"(?<![\w.])/(?:home|Users)/[^/\s'\"]+", "~", text)


def printable(name: str) -> str:
    """A name fit for a terminal or a page: control characters, which could move the cursor, are replaced."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(name))


def provenance(command: str | Sequence[str], fingerprints: Mapping[str, str]) -> dict:
    """Where a run comes from: versions, code, data, hardware, time, command. No user or host name; secrets masked.

    Args:
        fingerprints: hashes by what they are of: `manifest` (the data), `network` (its first weights).
    """
    import platform

    line = masked(command) if isinstance(command, str) else _masked_arguments(command)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": anonymous(line),
        **fingerprints,
        "code": _code(),
        "versions": {"python": platform.python_version()} | _versions(),
        "hardware": _hardware(),
        "os": platform.platform(),
    }


def _masked_arguments(arguments: Sequence[str]) -> str:
    words: list[str] = []
    for word in arguments:
        if words and words[-1].startswith("-") and "=" not in words[-1] and is_secret(words[-1].lstrip("-")):
            word = "***"
        key, equals, _ = word.partition("=")
        words.append(f"{key}=***" if equals and is_secret(key.lstrip("-")) else masked(word))
    return " ".join(word if word.endswith("***") else shlex.quote(word) for word in words)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _run(*command: str) -> str | None:
    """The output of a small program, or None where it is missing or fails."""
    try:
        environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()


def _code() -> dict[str, str | bool | None]:
    git = ("git", "-C", str(Path(__file__).parent))
    # An installed copy may lie inside somebody else's checkout: only a tracked file makes that commit ours.
    if _run(*git, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"commit": None, "dirty": None}
    changes = _run(*git, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _run(*git, "rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _hardware() -> dict[str, Any]:
    import platform

    import torch

    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(errors="replace")) if cpuinfo.exists() else None
    model = found.group(1) if found else sys.platform == "darwin" and _run("sysctl", "-n", "machdep.cpu.brand_string")
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        memory = None
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "num_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": memory and round(memory, 1),
        "gpus": gpus or (["Apple GPU (MPS)"] if torch.backends.mps.is_available() else []),
    }


CHANGED = {
    "manifest": "the data have changed since {} was begun (manifest and files have another hash); bring them back",
    "network": "the network's first weights are not those that {} was begun with: network.checkpoint names another "
    "file, or another release of torch draws other numbers; bring them back",
}


def check_origin(run_dir: Path, fingerprints: Mapping[str, str]) -> None:
    """Raises BadInput where a fingerprint is not the one that the run in `run_dir` was begun with."""
    path = run_dir / "provenance.json"
    begun = json.loads(path.read_text()) if path.exists() else {}
    for name, value in fingerprints.items():
        if begun.get(name, value) != value:
            raise BadInput(f"{CHANGED[name].format(run_dir)}, choose another run_dir, or overwrite=true to start anew")
