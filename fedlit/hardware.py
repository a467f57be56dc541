"""What a machine gains from: precision and memory format by its device flags, never by timing."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h; the second may be 2^25 bytes at most


def resolve_accelerator(accelerator: str) -> str:
    """`auto` is cuda where there is a GPU, mps on Apple's, else cpu."""
    if accelerator != "auto":
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
"""Short names that `fabric run --precision` takes."""


TRUE = {"32-true": torch.float32, "64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}
"""In what a network is held; with any other precision in float32."""

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""In what autocast computes."""


def resolve_precision(precision: str, accelerator: str) -> str:
    """`auto` is bf16-mixed where the device has bfloat16 (GPUs from Ampere on, CPUs with AVX512-BF16), else 32-true."""
    if precision != "auto":
        return precision
    if accelerator == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = accelerator == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16-mixed" if fast else "32-true"


def resolve_channels_last(channels_last: str | bool, precision: str) -> bool:
    """`auto` is on with the reduced precisions, whose convolutions want it."""
    return precision in ("bf16-mixed", "16-mixed", "bf16-true") if channels_last == "auto" else bool(channels_last)


def differentiable(device: torch.device) -> AbstractContextManager:
    """Within autocast to float16: float32 where gradients are wanted, many of which would be 0 without a loss scale."""
    is_float16 = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16
    return torch.autocast(device.type, enabled=False) if is_float16 and torch.is_grad_enabled() else nullcontext()


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step: handing it back and faulting it in again took 7 % of a round."""
    if sys.platform == "linux":
        malloc_option = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: None)  # other C libraries have none
        for option, value in ((M_TRIM_THRESHOLD, 1 << 29), (M_MMAP_THRESHOLD, 1 << 25)):
            malloc_option(option, value)


def peak_bytes(device: torch.device) -> int | None:
    """The most memory that this process has held at once: of its GPU, else of the machine; None: cannot be known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")  # its ru_maxrss would begin with that of the process that started this one
    if status.is_file():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        return int(found[1]) * 1024 if found else None
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def share_cores(num_local_processes: int) -> None:
    """Divide the machine's cores among its processes; two with two threads each ran ten times slower on two cores."""
    if num_local_processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        torch.set_num_threads(max(1, num_cores // num_local_processes))
