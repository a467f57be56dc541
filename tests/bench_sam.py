"""What SAM costs, as ratios against segment_anything's own attention in the same run, for `tests.bench`."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

from fedlit.networks.tuning import DecoderOnly
from tests.bench_sam_cases import Case, alone, differences, forward, peak, training

Seconds = dict[Case, list[float]]


def bench_sam(folder: Path, *, size: str = "vit_b", pixels: tuple[int, ...] = (1024, 256), num_rounds: int = 3) -> None:
    """One picture on the CPU: a forward pass, a training step of adapters in all blocks and decoder, and its memory."""
    for side in pixels:
        case = Case(size=size, pixels=side)
        print(f"sam: {size}, {side} px, batch 1, ours against stock: less than 1 is better")
        found = differences(case)
        print(
            f"logits up to {found['logit']:.2g} differ from segment_anything's own by {found['stock']:.1g} (stock),"
            f" {found['auto']:.1g} (ours)"
        )
        row("", "ours", "stock", "ratio", "target")
        in_seconds("forward", forward, case, num_rounds, {"bf16 / fp32": "0.33"})
        in_seconds("step", training, case, num_rounds, {"fp32": "1.00"})
        in_bytes(case, "0.60" if side >= 1024 else "1.00")


def pairs(case: Case) -> dict[str, tuple[Case, Case]]:
    """What is compared with what, under a short name."""
    bf16, stock = replace(case, precision="bf16"), replace(case, attention="stock")
    stock16 = replace(bf16, attention="stock")
    return {
        "fp32": (case, stock),
        "bf16": (bf16, stock16),
        "bf16 / fp32": (bf16, stock),
        "fp32 recomputed": (replace(case, recompute=True), stock),
        "bf16 recomputed": (replace(bf16, recompute=True), stock16),
    }


def in_seconds(
    name: str, work: Callable[[Case], Callable], case: Case, num_rounds: int, targets: Mapping[str, str]
) -> None:
    compared = pairs(case)
    if work is forward:
        compared = {key: pair for key, pair in compared.items() if not pair[0].recompute}
    seconds = in_turn({one: work(one) for pair in compared.values() for one in pair}, num_rounds)
    for key, (ours, stock) in compared.items():
        mine, theirs = (f"{statistics.median(seconds[one]):.2f} s" for one in (ours, stock))
        row(f"{name}, {key}", mine, theirs, ratio(seconds, ours, stock), targets.get(key, ""))


def in_bytes(case: Case, target: str) -> None:
    """The peak of a training step: of the whole process, and without what is there before it."""
    compared = pairs(case)
    figures = {one: alone(peak, one) for one in dict.fromkeys(one for pair in compared.values() for one in pair)}
    for key, (ours, stock) in compared.items():
        for name, kind in ((f"peak of a step, {key}", "whole"), ("  above the memory before it", "steps")):
            mine, theirs = figures[ours][kind], figures[stock][kind]
            is_aim = key == "fp32" and kind == "whole"
            row(name, f"{mine:.2f} GB", f"{theirs:.2f} GB", mine / theirs, target if is_aim else "")


def row(name: str, mine: str, stock: str, ratio: float | str, target: str = "") -> None:
    """At most 70 columns."""
    ratio = ratio if isinstance(ratio, str) else f"{ratio:.2f}"
    print(f"{name:<32}{mine:>10}{stock:>10}{ratio:>8}{target:>8}".rstrip(), flush=True)


def in_turn(works: Mapping[Case, Callable[[], object]], num_rounds: int) -> Seconds:
    """Seconds of each in alternating rounds, after one to warm up."""
    seconds: Seconds = {case: [] for case in works}
    for number in range(num_rounds + 1):
        for case, work in works.items():
            begin = time.perf_counter()
            work()
            if number:
                seconds[case].append(time.perf_counter() - begin)
    return seconds


def ratio(seconds: Seconds, ours: Case, stock: Case) -> float:
    """The median over rounds."""
    return statistics.median(mine / theirs for mine, theirs in zip(seconds[ours], seconds[stock], strict=True))


def bench_sam_cache(
    folder: Path, *, size: str = "vit_b", pixels: int = 1024, num_pictures: int = 4, num_rounds: int = 3
) -> None:
    """An epoch of the decoder alone, the frozen encoder's features kept or not."""
    with mock.patch.dict(os.environ, FEDLIT_CACHE=str(folder)):
        for precision in ("fp32", "bf16"):
            plain = Case(size=size, pixels=pixels, precision=precision)
            cached = [replace(plain, cache=dtype) for dtype in ("fp32", "bf16")]
            works = {case: training(case, DecoderOnly(), num_steps=num_pictures) for case in (plain, *cached)}
            seconds = in_turn(works, num_rounds)  # the round to warm up fills the cache
            for case in cached:
                before, after = (statistics.median(seconds[one]) / num_pictures for one in (plain, case))
                print(
                    f"sam_cache: {size}, {pixels} px, {precision}, decoder alone: {before:.2f} s a step, kept as"
                    f" {case.cache} {after:.3f} s, {1 / ratio(seconds, case, plain):.1f} x (target 20)",
                    flush=True,
                )


def bench_sam_gpu(
    folder: Path, *, size: str = "vit_b", pixels: int = 1024, batch: int = 4, num_rounds: int = 20, device: str = "cuda"
) -> None:
    """Pictures a second of a forward pass and of a training step in bf16, and the largest batch that can be trained."""
    if device == "cuda" and not torch.cuda.is_available():
        print("sam_gpu: skipped, there is no GPU")
        return
    ours = Case(precision="bf16", size=size, pixels=pixels, batch=batch, device=device)
    stock = replace(ours, attention="stock")
    for name, work in (("forward", forward), ("training step", training)):
        seconds = in_turn({case: work(case) for case in (ours, stock)}, num_rounds)
        mine, theirs = (batch / statistics.median(seconds[case]) for case in (ours, stock))
        print(
            f"sam_gpu: {name}, {size}, {pixels} px, bf16, batch {batch}: {mine:.1f} pictures a second, stock"
            f" {theirs:.1f}, {1 / ratio(seconds, ours, stock):.2f} x (target 2)"
        )
    most = [largest_batch(case) for case in (ours, stock)]
    print("sam_gpu: the largest batch that can be trained: {}, stock {}".format(*most))


def largest_batch(case: Case, limit: int = 1024) -> int:
    """By doubling and halving; 0 where not even one picture fits."""
    fits, too_large = 0, limit + 1
    while too_large - fits > 1:
        batch = min(max(1, 2 * fits), (fits + too_large) // 2)
        if can_train(replace(case, batch=batch)):
            fits = batch
        else:
            too_large = batch
    return fits


def can_train(case: Case) -> bool:
    """Two steps: the second finds the optimizer's state beside the activations."""
    try:
        epoch = training(case)
        epoch(), epoch()
        return True
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
