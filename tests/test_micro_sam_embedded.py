"""Laws of the teacher that ships: small, what its origin says, found in the wheel's files, better than its prompt."""

from __future__ import annotations

import json

import pytest
import torch

from fedlit.micro_sam import embedded_teacher
from fedlit.micro_sam.pretraining import Pretraining
from fedlit.networks.prompting import prompted
from fedlit.networks.sam import SAM
from fedlit.networks.sam_checkpoint import file_sha256
from tests import bench_teacher
from tests.bench_teacher import Cases, dice, ellipse, in_boxes


@pytest.fixture(scope="module")
def teacher() -> SAM:
    return SAM(1, 1, size="micro", checkpoint=str(embedded_teacher())).eval()


@pytest.fixture(scope="module")
def cases() -> Cases:
    """60 chests that no training sees."""
    return Cases.drawn(60)


@pytest.fixture(scope="module")
def scores(teacher, cases) -> dict[str, float]:
    """The mean Dice of a lung."""
    return {name: found.mean().item() for name, found in bench_teacher.rows(teacher, cases).items()}


def test_it_is_small_and_is_the_file_of_its_origin():
    origin = json.loads(embedded_teacher().with_suffix(".json").read_text())
    assert embedded_teacher().stat().st_size == origin["bytes"] <= 4_000_000
    assert file_sha256(embedded_teacher()) == origin["sha256"]
    assert origin["settings"] == vars(Pretraining())  # the command makes it as it was made
    assert origin["command"].startswith("fedlit pretrain-teacher OUT ")
    losses = origin["loss_of_each_50_steps"]
    assert len(losses) == origin["settings"]["steps"] // 50 and losses[-1] < 0.3 * losses[0]


def test_it_says_where_it_comes_from(teacher):
    assert teacher.origin.startswith("SAM micro from micro_sam.safetensors: 3.8 MB, sha256 ")


def test_it_beats_what_the_prompt_alone_gives_away(scores):
    found = scores["teacher, a box for each lung"]
    assert found > scores["control: ellipse in the box"] + 0.15
    assert found > scores["control: mean drawn lung in the box"] + 0.1
    assert found > scores["control: another patient's picture"] + 0.15
    assert found > scores["control: a blank picture"] + 0.1


def test_both_conventions_of_a_lung_are_among_its_masks(teacher, cases):
    both = cases.conventions[:, :, None]  # [N, 2, 1, 2, H, W]
    masks, _ = bench_teacher.four_masks(teacher, cases.images, cases.boxes)
    whole, seen = dice(masks[:, :, 1:, None], both).amax(2).mean((0, 1))
    chosen = dice(bench_teacher.chosen(teacher, cases.images, cases.boxes)[:, :, None], both[:, :, 0]).mean((0, 1))
    assert min(whole, seen) > 0.9
    assert whole > chosen[0] + 0.02 and seen > chosen[1] + 0.02  # so they are different masks


def test_a_point_is_enough_for_a_blob(teacher):
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    blob = ((x - 80) ** 2 / 30**2 + (y - 50) ** 2 / 20**2) < 1
    image = torch.where(blob, 0.8, 0.3)[None, None]
    with torch.inference_mode():
        found = prompted(teacher, image, points=torch.tensor([[[[80.0, 50.0]]]]), labels=torch.ones(1, 1, 1))
    best = 1 + found.quality[0, 0, 1:].argmax()
    assert dice(found.logits[0, 0, best] > 0, blob) > 0.85


def test_shapes_lie_in_their_boxes():
    boxes = torch.tensor([[[10.0, 20.0, 29.0, 59.0], [64.0, 64.0, 64.0, 64.0]]])
    found = in_boxes(boxes, ellipse)
    assert found[0, 0].sum() == pytest.approx(torch.pi * 10 * 20, rel=0.03)
    assert found[0, 1].sum() == 1
    rows, columns = torch.nonzero(found[0, 0], as_tuple=True)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (10, 29, 20, 59)


def test_the_bench_skips_without_the_pictures(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench_teacher, "DATA", tmp_path / "cxr_lungs")
    bench_teacher.main([])
    assert capsys.readouterr().out.startswith("skipped: ")


def test_the_bench_prints_a_line_for_each_row(monkeypatch, capsys):
    monkeypatch.setattr(bench_teacher, "mean_lung", lambda: ellipse)
    bench_teacher.main(["--drawn", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and lines[1].startswith("teacher, a box for each lung")
