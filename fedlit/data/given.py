"""Given picture files, which no manifest names, as the pictures of one hospital."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedlit.data.pictures import Case, Unlabelled
from fedlit.data.reading import Picture, read_image
from fedlit.data.request import channels_first
from fedlit.data.source import Manifest


def as_pictures(source: Manifest, files: Sequence[Path]) -> Unlabelled:
    """Files as the pictures of one hospital; they are decoded when they are asked for, again each time."""
    shapes = [shape_of(path) for path in files]
    depths = [depth for depth, _, _ in shapes]
    ends = [sum(depths[: place + 1]) for place in range(len(files))]
    spans = [tuple(range(end - depth, end)) for end, depth in zip(ends, depths, strict=True)]
    cases = [Case(str(path), span, str(path), is_volume=len(span) > 1) for path, span in zip(files, spans, strict=True)]
    file_of = {
        index: (path, place) for path, span in zip(files, spans, strict=True) for place, index in enumerate(span)
    }

    def images(indices: Sequence[int] | np.ndarray) -> Tensor:
        found = [file_of[int(index)] for index in indices]
        decoded = {path: prepared_images(source, read_image(path)) for path, _ in found}
        return torch.stack([decoded[path][place] for path, place in found])

    return Unlabelled(
        cases,
        images,
        size=source.preparation().size or common_size(shapes),
        channels=source.channels,
        name="the given pictures",
    )


def prepared_images(source: Manifest, picture: Picture) -> Tensor:
    """A decoded file as a network wants it: float32 [D, C, H, W] in [0, 1]."""
    array = source.preparation().image(picture)
    return channels_first((array / np.iinfo(array.dtype).max).astype(np.float32))


def shape_of(path: Path) -> tuple[int, int, int]:
    """(D, H, W) of a file, which is decoded for it."""
    depth, height, width = read_image(path).array.shape[:3]
    return depth, height, width


def common_size(shapes: Iterable[tuple[int, int, int]]) -> tuple[int, int] | None:
    """(H, W) of all of these, None where they differ."""
    sizes = {shape[1:] for shape in shapes}
    return sizes.pop() if len(sizes) == 1 else None
