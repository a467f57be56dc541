"""The provenance says where a run comes from, and nothing about who ran it."""

from __future__ import annotations

import json
import subprocess

import pytest

from fedlit.provenance import provenance


def test_secrets_and_people_stay_out_of_the_provenance(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/mary")
    command = [
        "fedlit",
        "run",
        "c.yaml",
        "wandb.api_key=S1",
        "db_password=S2",
        "--token",
        "S3",
        "secret_name=S4",
        "name=my run",
        "uri=https://mary:S5@host/x",
        "data.root=/home/john/data",
        "out=/srv/people/mary/x",
        "--hf-token=S6",
    ]
    found = provenance(command, {"manifest": "abc"})
    text = json.dumps(found)
    assert not any(word in text for word in ("S1", "S2", "S3", "S4", "S5", "S6", "john", "mary"))
    assert (
        "'name=my run'" in found["command"]
        and "data.root=~/data" in found["command"]
        and "api_key=***" in found["command"]
    )
    assert found["manifest"] == "abc" and found["started"].endswith("+00:00")
    assert {"python", "torch", "lightning", "numpy", "albumentations"} <= set(found["versions"])
    assert found["hardware"]["num_cores"] >= 1 and found["hardware"]["cpu"]
    text = provenance("run password='a b' token=S1 monkey business", {})["command"]
    assert text == "run password=*** token=*** monkey business"


@pytest.mark.parametrize(
    "failure", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10), subprocess.CalledProcessError(1, "git")]
)
def test_provenance_needs_no_git(monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(subprocess, "run", fail)
    assert provenance("run", {})["code"] == {"commit": None, "dirty": None}
