"""The ways to compute a SAM block's attention, one beside the other, for `tests.bench`.

`python -m tests.bench_sam_ways measured LAYER`: the figures of one of them as JSON, in a process of its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import nn

from fedlit.networks.relative_attention import WAYS, RelativeAttention
from tests.bench_sam_cases import alone, finish, measure_one, memory


@dataclass(frozen=True)
class Layer:
    """The attention of a block [num, side, side, width], a whole picture's or that of its windows."""

    way: str
    num: int
    side: int
    width: int = 768
    num_heads: int = 12
    precision: str = "fp32"
    device: str = "cpu"
    num_rounds: int = 5


def bench_sam_ways(folder: Path, *, side: int = 64, window: int = 14, width: int = 768, num_heads: int = 12) -> None:
    """Each way in a process of its own: forward, forward and backward to the tokens, and the memory of both."""
    print(f"sam_ways: width {width}, {num_heads} heads; milliseconds forward, with backward; MB at most")
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for precision in ("fp32", "bf16"):
            num = 4 if device == "cuda" else 1
            for shape in ((num, side), (num * (-(-side // window)) ** 2, window)):
                print(f"{device}, {precision}, " + "{0} x {1} x {1} tokens".format(*shape))
                for way in ("stock", *WAYS):
                    layer = Layer(way, *shape, width=width, num_heads=num_heads, precision=precision, device=device)
                    found = alone(measured, layer)
                    print("  {:<8}{forward:>10}{both:>10}{peak:>10}".format(way, **found), flush=True)


def measured(layer: Layer) -> dict[str, str]:
    """Median milliseconds forward, and with backward, or why there are none; and MB at most above those before."""
    attend, found = work(layer), {}
    is_cpu = layer.device == "cpu"
    before = 1e9 * memory("VmRSS") if is_cpu else torch.cuda.memory_allocated()
    for name, with_gradient in (("forward", False), ("both", True)):
        try:
            seconds = [attend(with_gradient) for _ in range(layer.num_rounds + 1)][1:]
            found[name] = f"{1000 * statistics.median(seconds):.1f}"
        except NotImplementedError:
            found[name] = "none"
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            found[name] = "too large"
    most = 1e9 * memory("VmHWM") if is_cpu else torch.cuda.max_memory_allocated()
    return {**found, "peak": f"{(most - before) / 1e6:.0f}"}


def work(layer: Layer) -> Callable[[bool], float]:
    """Seconds of one pass, without or with the gradient of the tokens."""
    torch.manual_seed(0)
    attention: nn.Module = Attention(
        layer.width, layer.num_heads, use_rel_pos=True, input_size=(layer.side, layer.side)
    )
    if layer.way != "stock":
        attention = RelativeAttention(attention, layer.way)
    attention.requires_grad_(False).to(layer.device)
    x = torch.randn(layer.num, layer.side, layer.side, layer.width, device=layer.device, requires_grad=True)

    def attend(with_gradient: bool) -> float:
        begin = time.perf_counter()
        with (
            torch.set_grad_enabled(with_gradient),
            torch.autocast(layer.device, torch.bfloat16, enabled=layer.precision == "bf16"),
        ):
            total = attention(x).sum()
        if with_gradient:
            total.backward()
            x.grad = None
        finish(layer.device)
        return time.perf_counter() - begin

    return attend


if __name__ == "__main__":
    measure_one(Layer, measured=measured)
