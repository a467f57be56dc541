"""Laws of the pretraining: what the loss rewards, resumed == uninterrupted, and the command that runs it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from fedlit import weights
from fedlit.__main__ import cli
from fedlit.errors import BadInput, Stopped
from fedlit.micro_sam.batches import Batches
from fedlit.micro_sam.making import ORIGIN, WEIGHTS, make_teacher
from fedlit.micro_sam.objective import objective
from fedlit.micro_sam.pretraining import CHECKPOINT, Learner, Pretraining, pretrain
from fedlit.networks.prompting import Prompted
from fedlit.networks.sam import SAM
from fedlit.networks.sam_checkpoint import file_sha256
from fedlit.seeding import address
from fedlit.stopping import heeding_signals

TINY = Pretraining(steps=4, batch_size=2, num_prompts=2, warmup=2)


@pytest.fixture
def both():
    """Two prompts' masks [1, 2, 2, 32, 32] of two conventions each, and logits that are sure of them."""
    masks = torch.zeros(1, 2, 2, 32, 32, dtype=torch.bool)
    masks[:, 0, 0, 4:20, 4:20] = masks[:, 0, 1, 4:20, 4:14] = True
    masks[:, 1, 0, 10:30, 8:16] = masks[:, 1, 1, 12:30, 8:16] = True
    sure = torch.where(masks, 20.0, -20.0)
    logits = torch.stack([sure[:, :, 0], sure[:, :, 1], -sure[:, :, 0], sure[:, :, 0]], dim=2)
    overlap = (masks[:, :, 0] & masks[:, :, 1]).sum((-2, -1)) / (masks[:, :, 0] | masks[:, :, 1]).sum((-2, -1))
    quality = torch.stack([torch.ones(1, 2), overlap, torch.zeros(1, 2), torch.ones(1, 2)], dim=2)
    return masks, logits, quality


def test_nothing_is_lost_where_all_is_right(both):
    masks, logits, _ = both
    right = logits[:, :, [0, 0, 0, 0]]
    same = masks[:, :, [0, 0]]
    assert objective(Prompted(right, torch.ones(1, 2, 4)), same).item() == pytest.approx(0, abs=1e-3)


def test_both_conventions_must_be_among_the_three(both):
    masks, logits, quality = both
    offered = objective(Prompted(logits, quality), masks)
    hidden = objective(Prompted(logits[:, :, [0, 3, 2, 3]], quality), masks)
    assert hidden > offered + 0.1


def test_the_first_mask_answers_for_itself(both):
    masks, logits, quality = both
    assert (
        objective(Prompted(logits[:, :, [2, 1, 2, 3]], quality), masks)
        > objective(Prompted(logits, quality), masks) + 1
    )


def test_the_estimate_of_quality_is_learnt_from_the_truth(both):
    masks, logits, quality = both
    exact = objective(Prompted(logits, quality), masks)
    off = objective(Prompted(logits, quality + 0.3), masks)
    assert (off - exact).item() == pytest.approx(0.09, abs=1e-4)


def test_small_objects_count_as_large_ones():
    losses = []
    for side in (4, 16):
        one = torch.zeros(1, 1, 2, 64, 64, dtype=torch.bool)
        one[..., :side, :side] = True
        nothing = torch.full((1, 1, 4, 64, 64), -2.0)
        losses.append(objective(Prompted(nothing, torch.zeros(1, 1, 4)), one).item())
    assert losses[0] > 0.3 * losses[1]


@pytest.mark.long
def test_resumed_is_uninterrupted(tmp_path):
    whole = pretrain(made(tmp_path / "whole"), TINY, num_workers=0)

    class Killed(Exception):
        pass

    def kill(learner):
        if learner.step == 2:
            raise Killed

    folder = made(tmp_path / "parts")
    with pytest.raises(Killed):
        pretrain(folder, TINY, kill, num_workers=0, minutes=0)
    assert weights.load(folder / CHECKPOINT)[1]["step"] == 1  # killed before the second was saved
    resumed = pretrain(folder, TINY, num_workers=1)
    assert resumed.losses == whole.losses and len(whole.losses) == TINY.steps
    for first, second in ((resumed.average, whole.average), (resumed.sam.state_dict(), whole.sam.state_dict())):
        assert weights.sha256(first) == weights.sha256(second)
    again = pretrain(folder, TINY, num_workers=0)  # all is done
    assert weights.sha256(again.average) == weights.sha256(whole.average)


def made(folder):
    folder.mkdir()
    return folder


@pytest.mark.long
def test_a_signal_stops_it_with_all_saved(tmp_path):
    def ask(learner):
        if learner.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    folder = made(tmp_path / "parts")
    with heeding_signals(), pytest.raises(Stopped, match="after step 2 of 4"):
        pretrain(folder, TINY, ask, num_workers=1)
    assert multiprocessing.active_children() == []
    assert weights.load(folder / CHECKPOINT)[1]["step"] == 2
    resumed, whole = (pretrain(each, TINY, num_workers=0) for each in (folder, made(tmp_path / "whole")))
    assert weights.sha256(resumed.average) == weights.sha256(whole.average)


def test_other_settings_do_not_go_on_with_a_checkpoint(tmp_path):
    pretrain(tmp_path, replace(TINY, steps=1), num_workers=0)
    with pytest.raises(BadInput, match=r"made with steps=1, not steps=4; give that again to go on, or another OUT"):
        pretrain(tmp_path, TINY, num_workers=0)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"torn")
    with pytest.raises(BadInput, match=r"checkpoint.safetensors: damaged .*; remove it to start anew"):
        pretrain(tmp_path, TINY, num_workers=0)


def test_every_tensor_but_the_frequencies_is_trained_or_never_asked():
    learner = Learner.fresh(TINY)
    before = {name: value.clone() for name, value in learner.sam.state_dict().items()}
    batches = Batches(0, 1, 2)
    ways = [batches[step] for step in range(30)]
    for way in (next(b for b in ways if b.boxes is None), next(b for b in ways if b.points is None)):
        learner.learn(way, TINY)
    after = learner.sam.state_dict()
    same = {name.rpartition(".")[0] for name in before if torch.equal(before[name], after[name])}
    never = {"prompt_encoder.pe_layer", "prompt_encoder.mask_downscaling"}  # no mask is ever given as a prompt
    assert {name for name in same if not name.startswith(tuple(never))} == set()


def test_the_rate_rises_then_falls_to_nothing():
    settings = Pretraining(steps=100, warmup=10, lr=1.0)
    assert settings.rate(0) == pytest.approx(0.1) and settings.rate(9) == settings.rate(10) == 1
    assert settings.rate(55) == pytest.approx(0.5) and settings.rate(99) < 1e-3
    assert settings.kept(0) == pytest.approx(0.1) and settings.kept(10**6) == settings.memory


def test_the_first_weights_leave_the_global_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = Learner.fresh(TINY)
    assert torch.equal(torch.rand(1), expected)
    assert weights.sha256(first.average) == weights.sha256(Learner.fresh(TINY).average)
    assert weights.sha256(first.average) != weights.sha256(Learner.fresh(replace(TINY, seed=1)).average)
    assert address(0, "first weights") != address(1, "first weights")


def test_the_command_writes_a_checkpoint_of_sam_and_its_origin(tmp_path):
    out = tmp_path / "teacher"
    done = CliRunner().invoke(cli, ["pretrain-teacher", str(out), "--steps", "1", "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert "step 1 of 1 | loss " in done.output and file_sha256(out / WEIGHTS) in done.output
    SAM(1, 1, size="micro", checkpoint=str(out / WEIGHTS))
    origin = json.loads((out / ORIGIN).read_text())
    assert origin["sha256"] == file_sha256(out / WEIGHTS) and origin["bytes"] == (out / WEIGHTS).stat().st_size
    assert origin["command"] == "fedlit pretrain-teacher OUT --steps 1 --seed 3"
    assert origin["settings"] == {**vars(Pretraining()), "steps": 1, "seed": 3}
    assert len(origin["loss_of_each_50_steps"]) == 1


def test_steps_must_be_one_or_more(tmp_path):
    done = CliRunner().invoke(cli, ["pretrain-teacher", str(tmp_path / "out"), "--steps", "0"])
    assert done.exit_code == 2 and "--steps" in done.output and not (tmp_path / "out").exists()


def test_lines_say_where_the_training_stands(tmp_path, capsys):
    make_teacher(tmp_path, replace(TINY, steps=1), Console(width=70))
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("step 1 of 1 | loss ") and first.endswith(" left") and len(first) < 70
