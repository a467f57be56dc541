"""Runs with SAM from beginning to end: the checkpoint they start from, what they keep of it, and what they hand on."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from fedlit.networks import SAM, Adapters
from fedlit.networks.sam_architecture import SIZES, build_sam
from fedlit.weights import load
from tests.conftest import fedlit


@pytest.fixture
def checkpoint(tmp_path):
    """A file as segment_anything's are, of a small SAM."""
    torch.manual_seed(7)
    torch.save(build_sam(SIZES["micro"]).state_dict(), tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


@pytest.fixture
def experiment(tmp_path, disc_data, checkpoint):
    path = tmp_path / "msa.yaml"
    path.write_text(
        f"include: [base]\ndata: manifest\ndata.labels: {{disc: 255}}\ndata.root: {disc_data}\nunseen_sites: [u]\n"
        f"network: sam_adapters\nnetwork.size: micro\nnetwork.checkpoint: {checkpoint}\noptimizer_state: keep\n"
        f"num_rounds: 2\nbatch_size: 4\naccelerator: cpu\nprecision: 32-true\nrun_dir: {tmp_path / 'run'}\n"
    )
    return path


def summary(run_dir):
    return json.loads((run_dir / "summary.json").read_text())


def sha_of(run_dir):
    return summary(run_dir)["weights_sha256"]


def test_resumed_equals_uninterrupted_also_where_the_checkpoint_has_moved(experiment, tmp_path, checkpoint):
    assert fedlit("run", experiment) == 0
    whole = sha_of(tmp_path / "run")
    moved = shutil.copy(checkpoint, tmp_path / "elsewhere.pth")
    assert fedlit("run", experiment, f"run_dir={tmp_path / 'parts'}", "num_rounds=1") == 0
    assert fedlit("run", experiment, f"run_dir={tmp_path / 'parts'}", f"network.checkpoint={moved}") == 0
    assert sha_of(tmp_path / "parts") == whole


def test_only_what_is_trained_is_sent_and_saved(experiment, tmp_path):
    assert fedlit("run", experiment) == 0
    trained = [value for value in SAM(1, size="micro", tuning=Adapters()).parameters() if value.requires_grad]
    num_bytes = 4 * sum(value.numel() for value in trained)
    assert summary(tmp_path / "run")["bytes_up"] == summary(tmp_path / "run")["bytes_down"] == 2 * 3 * num_bytes
    files = [path for path in (tmp_path / "run" / "checkpoint").iterdir() if path.suffix == ".safetensors"]
    assert files and all(path.stat().st_size < 4 * num_bytes for path in files)


def test_the_log_names_the_file_and_its_hash(experiment, tmp_path, checkpoint):
    from fedlit.networks.sam_checkpoint import file_sha256

    assert fedlit("run", experiment, "num_rounds=1") == 0
    assert f"SAM micro from sam.pth: 3.8 MB, sha256 {file_sha256(checkpoint)}" in (tmp_path / "run/log.txt").read_text()


def test_another_checkpoint_under_the_same_name_is_refused(experiment, tmp_path, checkpoint, disc_data, capsys):
    run_dir = tmp_path / "run"
    assert fedlit("run", experiment, "num_rounds=1") == 0
    torch.save(build_sam(SIZES["micro"]).state_dict(), checkpoint)
    capsys.readouterr()
    for words in (
        ["run", experiment],
        ["evaluate", run_dir],
        ["predict", run_dir, disc_data / "a_00.png", "--out", tmp_path / "out"],
        ["export", run_dir, tmp_path / "out"],
    ):
        assert fedlit(*words) == 2, words
        assert "the network's first weights are not those" in capsys.readouterr().err, words


def test_what_is_exported_is_what_predicts(experiment, tmp_path, checkpoint, disc_data):
    run_dir = tmp_path / "run"
    assert fedlit("run", experiment) == 0
    assert fedlit("predict", run_dir, disc_data / "a_00.png", "--out", tmp_path / "masks") == 0
    assert (tmp_path / "masks" / "a_00.png").is_file()
    assert fedlit("export", run_dir, tmp_path / "whole") == 0
    assert fedlit("export", run_dir, tmp_path / "part", "--trained-only") == 0
    whole, part = (load(tmp_path / name / "model.safetensors")[0] for name in ("whole", "part"))
    assert part.keys() < whole.keys() and all(torch.equal(whole[name], value) for name, value in part.items())
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "part")}
    assert size["part"] < 0.5 * size["whole"]
    description = json.loads((tmp_path / "whole" / "model.json").read_text())
    assert description["network"]["target"] == "fedlit.networks.SAM"
    assert description["network"]["arguments"]["tuning"] == {"_target_": "fedlit.networks.Adapters"}
    begun = SAM(
        1,
        1,
        size="micro",
        tuning=Adapters(),
        checkpoint=str(checkpoint),
        trained=str(tmp_path / "part/model.safetensors"),
    )
    loaded = SAM(1, 1, size="micro", tuning=Adapters())
    loaded.load_state_dict(whole)
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(begun(image), loaded(image))


def test_a_run_begins_from_what_another_has_trained(experiment, tmp_path):
    assert fedlit("run", experiment, "num_rounds=1") == 0
    assert fedlit("export", tmp_path / "run", tmp_path / "part", "--trained-only") == 0
    trained = f"network.trained={tmp_path / 'part' / 'model.safetensors'}"
    assert fedlit("run", experiment, "num_rounds=1", trained, f"run_dir={tmp_path / 'next'}") == 0
    assert sha_of(tmp_path / "next") != sha_of(tmp_path / "run")
    assert fedlit("run", experiment, "num_rounds=1", trained, f"run_dir={tmp_path / 'other'}", "seed=1") == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("network.size=vit_b", "set network.size"),
        ("network.checkpoint=nothing.pth", "nothing.pth"),
        ("network.cache=bf16", "tune the decoder alone or the last blocks"),
        ("network.tuning.last=9", "use 1 to 4 blocks"),
        ("network.tuning.depth=2", "network.tuning"),
        ("data.channels=2", "channels"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(experiment, capsys, word, message):
    assert fedlit("run", experiment, word) == 2
    text = capsys.readouterr().err
    assert message in text and "Traceback" not in text


def test_an_exported_sam_is_built_again_by_its_description(experiment, tmp_path, disc_data):
    from fedlit.config import build

    assert fedlit("run", experiment, "num_rounds=1") == 0
    assert fedlit("export", tmp_path / "run", tmp_path / "whole") == 0
    described = json.loads((tmp_path / "whole" / "model.json").read_text())["network"]
    network = build({"_target_": described["target"], **described["arguments"]})
    network.load_state_dict(load(tmp_path / "whole" / "model.safetensors")[0])
    assert network(torch.rand(1, 1, 32, 32)).shape == (1, 1, 32, 32)
