"""Checkpoint files of SAM under the names of package segment-anything, read as tensors only and checked one by one."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedlit import weights
from fedlit.errors import BadInput
from fedlit.networks.sam_architecture import SIZES
from fedlit.units import megabytes

EMBEDDED = Path(__file__).parents[1] / "micro_sam" / "micro_sam.safetensors"
"""The micro SAM that ships with the package, learnt from drawn pictures alone; see `fedlit.micro_sam`."""

ZIP = b"PK\x03\x04"  # torch.save since 1.6; it can be mapped into memory
OLD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before: a pickled magic number comes first
PICKLE = b"\x80"

WAY_OUT = "`fedlit weights` lists files that fit and fetches them"


def read_checkpoint(path: str | Path, like: Mapping[str, Tensor], *, size: str) -> dict[str, Tensor]:
    """The tensors of a SAM checkpoint under the official names (`image_encoder.blocks.0.attn.qkv.weight`).

    A file of `torch.save` (read with weights_only, so nothing in it can run) or of safetensors. It holds a flat
    mapping of names to tensors, as `sam_vit_b_01ec64.pth` and `medsam_vit_b.pth` do, or is a training checkpoint with
    one such mapping under a key (`model`, `state_dict`). A prefix that all names share (`module.`, `sam.`,
    `module.sam.`) is taken off where they are official names without it.

    Args:
        path: the file.
        like: the official names and tensors of the wanted shapes, perhaps on the meta device.
        size: network.size, for the messages.

    Returns:
        float32 tensors in the order of `like`; they may be views of the file, so copy before changing them.

    Raises:
        BadInput: the file is missing, truncated or no checkpoint, holds other objects, or its names, shapes or values
            do not fit.
    """
    path = Path(path)
    state = _without_prefix(_tensors(path, _content(path)), like)
    for problem in _problems(state, like, size):
        raise BadInput(f"{path}: {problem}; {WAY_OUT}")
    return {name: state[name].detach().to(torch.float32).contiguous() for name in like}


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        BadInput: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def describe(path: str | Path) -> str:
    """`sam_vit_b_01ec64.pth: 375.0 MB, sha256 ...`; megabytes are decimal.

    Raises:
        BadInput: the file cannot be read.
    """
    digest = file_sha256(path)
    return f"{Path(path).name}: {megabytes(Path(path).stat().st_size)}, sha256 {digest}"


def _content(path: Path) -> Any:
    """What the file holds: tensors, plain values, and dicts and lists of them."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise _unreadable(path, error) from None
    if path.suffix == ".safetensors":
        try:
            return weights.load(path)[0]
        except BadInput as error:
            raise BadInput(f"{error}; {WAY_OUT}") from None
    if not head.startswith((ZIP, OLD)):
        raise BadInput(f"{path}: {_what_else(head)}; {WAY_OUT}")
    try:
        return torch.load(str(path), weights_only=True, map_location="cpu", mmap=head.startswith(ZIP))
    except Exception as error:  # bytes that are no checkpoint end in nearly any of them
        raise BadInput(f"{path}: {_why(error)}; {WAY_OUT}") from None


def _what_else(head: bytes) -> str:
    if not head.strip():
        return "the file is empty"
    if head.startswith(PICKLE):
        return _refusal("a pickle")
    words = head.decode("latin-1").split()
    if head.isascii() and "".join(words).isprintable():
        return f"text that begins with {words[0][:20]!r}, and no checkpoint: perhaps a page of the web"
    return "neither a file of torch.save nor .safetensors"


def _why(error: Exception) -> str:
    text = str(error)
    if "TorchScript" in text:
        return _refusal("a TorchScript program")
    if isinstance(error, pickle.UnpicklingError):
        return _refusal(_examples(dict.fromkeys(re.findall(r"GLOBAL ([\w.]+)", text))) or "unknown ones")
    return f"truncated, damaged or no checkpoint of torch.save ({text.partition('. ')[0] or type(error).__name__})"


def _refusal(found: str) -> str:
    return (
        f"holds other objects than tensors ({found}), which may run code when they are read, so it is refused; where "
        "you trust it, load it elsewhere and save its state dict alone"
    )


def _unreadable(path: str | Path, error: OSError) -> BadInput:
    what = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
    return BadInput(f"{path}: {what}; {WAY_OUT}")


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """The one mapping of names to tensors, at the top or under one key."""
    if _is_state(content):
        return content
    found = {key: value for key, value in content.items() if _is_state(value)} if isinstance(content, dict) else {}
    if len(found) == 1:
        return next(iter(found.values()))
    there = f"holds {len(found)} ({_examples(map(str, found))})" if found else "holds none"
    raise BadInput(
        f"{path}: a checkpoint is one mapping of names to tensors, flat or under a key such as model or state_dict; "
        f"this file {there}; save the state dict alone, or take another file: {WAY_OUT}"
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(item, Tensor) for name, item in value.items())
    )


def _without_prefix(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not state.keys().isdisjoint(wanted):
        return state
    first = next(iter(state))
    for dot in re.finditer(r"\.", first):
        prefix = first[: dot.end()]
        short = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if len(short) == len(state) and not short.keys().isdisjoint(wanted):
            return short
    return state


def _problems(state: Mapping[str, Tensor], like: Mapping[str, Tensor], size: str) -> Iterator[str]:
    """What keeps the tensors from fitting, the plainest first; what follows a problem may rest on its absence."""
    width = "image_encoder.patch_embed.proj.bias"  # [embed dim]
    widths = {architecture.width: name for name, architecture in SIZES.items()}
    found = widths.get(state[width].numel()) if width in state and width in like else None
    if found and state[width].shape != like[width].shape:
        yield f"this file is {found}, not {size}; set network.size={found}, or give a file of {size}"
    missing = [name for name in like if name not in state]
    unknown = [name for name in state if name not in like]
    if missing or unknown:
        wrong = [f"{len(missing)} of {len(like)} tensors are missing ({_examples(missing)})"] if missing else []
        wrong += [f"{len(unknown)} are unknown ({_examples(unknown)})"] if unknown else []
        yield f"{' and '.join(wrong)}; allowed are exactly the names of package segment-anything{_hint(unknown)}"
    shapes = [
        f"{name} is {list(state[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in like.items()
        if state[name].shape != tensor.shape
    ]
    if shapes:
        yield (
            f"{len(shapes)} of {len(like)} tensors have another shape than {size} has: {_examples(shapes, '; ')}; give "
            f"a file of {size} at the image size it was published for"
        )
    others = [name for name in like if not state[name].is_floating_point() or not _is_plain(state[name])]
    if others:
        yield f"{len(others)} of {len(like)} tensors are not of floating-point numbers ({_examples(others)})"
    broken = [name for name in like if not state[name].isfinite().all()]
    if broken:
        yield f"{len(broken)} of {len(like)} tensors hold NaN or Inf ({_examples(broken)}); give a file that is sound"


def _hint(unknown: Iterable[str]) -> str:
    is_transformers = any(name.startswith("vision_encoder.") for name in unknown)
    return " (these are names of Hugging Face transformers: take the original file)" if is_transformers else ""


def _is_plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_meta


def _examples(names: Iterable[str], separator: str = ", ") -> str:
    """Up to three of them."""
    names = list(names)
    return separator.join(names[:3]) + (f"{separator}..." if len(names) > 3 else "")
