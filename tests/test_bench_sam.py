"""The benches of SAM compare like with like, and print their rows; how long anything took decides nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedlit.networks.tuning import DecoderOnly
from tests import bench, bench_sam, bench_sam_ways
from tests.bench_sam_cases import Case, alone, differences, peak, training
from tests.bench_sam_ways import Layer, measured

MICRO = Case(size="micro", pixels=64)


def test_the_stock_side_computes_what_segment_anything_does():
    found = differences(replace(MICRO, pixels=96))  # its position tables are for 128
    assert found["logit"] > 0.05
    assert found["stock"] < 1e-5 and found["auto"] < 1e-5


@pytest.mark.parametrize("change", [{"attention": "stock"}, {"recompute": True}])
def test_both_sides_take_the_same_steps(change):
    ours, other = training(MICRO, num_steps=2), training(replace(MICRO, **change), num_steps=2)
    losses = [[epoch() for _ in range(3)] for epoch in (ours, other)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_steps_from_the_cache_are_the_steps_without_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIT_CACHE", str(tmp_path))
    plain, kept = (training(replace(MICRO, cache=cache), DecoderOnly(), num_steps=2) for cache in (None, "fp32"))
    assert [plain() for _ in range(2)] == pytest.approx([kept() for _ in range(2)], abs=1e-6)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


@pytest.mark.long
def test_the_peak_of_a_process_shows_a_matrix_of_tokens_by_tokens():
    case = replace(MICRO, pixels=256, attention="folded")  # 3 heads x 1024 x 1024 scores in each of 4 blocks
    ours, stock = (alone(peak, one) for one in (case, replace(case, attention="stock")))
    assert stock["steps"] - ours["steps"] > 4 * 3 * 1024**2 * 4 / 1e9
    assert ours["whole"] > ours["steps"] > 0


def test_a_process_that_fails_tells_why():
    with pytest.raises(RuntimeError, match="size='huge' is not allowed"):
        alone(peak, replace(MICRO, size="huge"))


def test_sam_prints_a_row_for_each_figure(tmp_path, capsys, monkeypatch):
    gigabytes = {"stock": {"whole": 9.9, "steps": 8.0}, "auto": {"whole": 5.5, "steps": 4.0}}
    monkeypatch.setattr(bench_sam, "alone", lambda measure, case: gigabytes[case.attention])
    bench_sam.bench_sam(tmp_path, size="micro", pixels=(64, 32), num_rounds=1)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 70 for line in lines if not line.startswith("logits"))
    rows = {line[:32].strip(): line[32:].split() for line in lines[3 : len(lines) // 2]}
    assert set(rows) >= {"forward, fp32", "forward, bf16 / fp32", "step, bf16 recomputed", "peak of a step, fp32"}
    assert rows["peak of a step, fp32"] == ["5.50", "GB", "9.90", "GB", "0.56", "1.00"]
    aims = {name: words[-1] for name, words in rows.items() if len(words) == 6}
    assert aims == {"forward, bf16 / fp32": "0.33", "step, fp32": "1.00", "peak of a step, fp32": "1.00"}


def test_sam_cache_prints_how_much_faster_an_epoch_is(tmp_path, capsys):
    bench_sam.bench_sam_cache(tmp_path, size="micro", pixels=64, num_pictures=2, num_rounds=1)
    assert capsys.readouterr().out.count("x (target 20)") == 4
    assert len(list(tmp_path.rglob("*.safetensors"))) == 8  # two pictures, two precisions, kept in two


def test_sam_gpu_without_a_gpu_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench.BENCHES["sam_gpu"](tmp_path)
    assert capsys.readouterr().out == "sam_gpu: skipped, there is no GPU\n"


def test_sam_gpu_prints_its_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_sam, "can_train", lambda case: case.batch <= (5 if case.attention == "stock" else 13))
    bench_sam.bench_sam_gpu(tmp_path, size="micro", pixels=32, batch=2, num_rounds=1, device="cpu")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "x (target 2)" in lines[0]
    assert lines[2] == "sam_gpu: the largest batch that can be trained: 13, stock 5"


@pytest.mark.parametrize("most", [0, 1, 2, 7, 64, 1000])
def test_the_largest_batch_is_found(monkeypatch, most):
    monkeypatch.setattr(bench_sam, "can_train", lambda case: case.batch <= most)
    assert bench_sam.largest_batch(MICRO, limit=64) == min(most, 64)


def test_a_batch_that_does_not_fit_is_no_error(monkeypatch):
    def training(case):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    assert bench_sam.can_train(MICRO)
    monkeypatch.setattr(bench_sam, "training", training)
    assert not bench_sam.can_train(MICRO)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_sam_ways_prints_all_of_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_sam_ways, "alone", lambda measure, layer: measure(layer))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench_sam_ways.bench_sam_ways(tmp_path, side=6, window=4, width=24, num_heads=3)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[2:6]] == ["stock", "headwise", "folded", "biased"]
    assert {"cpu, fp32, 1 x 6 x 6 tokens", "cpu, bf16, 4 x 4 x 4 tokens"} <= {" ".join(line) for line in lines}
    assert all((line[2] == "none") == (line[0] == "flexed") for line in lines if len(line) == 4)


def test_a_way_without_room_is_told_and_other_errors_are_raised(monkeypatch):
    def work(message):
        def attend(with_gradient):
            raise RuntimeError(message)

        return lambda layer: attend

    layer = Layer("folded", 1, 4, 24, 3)
    monkeypatch.setattr(bench_sam_ways, "work", work("not enough memory: you tried to allocate 206158430208 bytes"))
    assert measured(layer)["both"] == "too large"
    monkeypatch.setattr(bench_sam_ways, "work", work("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        measured(layer)
