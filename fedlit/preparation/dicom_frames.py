"""The frames of a DICOM file: one of most files, all slices of an enhanced or a secondary capture image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedlit.errors import BadInput


@dataclass(frozen=True, eq=False)
class Frame:
    """`array` [H, W] or [H, W, 3] in the header's numbers; dense is bright.

    `uid` and `number` (from 1) are how a segmentation names it. `position` [3] is the centre of the first pixel and
    `directions` [2, 3] those of a row and of a column, in mm from right, front and feet; None where the file says
    nothing. `spacing` (row, column) in mm.
    """

    array: np.ndarray
    uid: str
    number: int
    position: np.ndarray | None
    directions: np.ndarray | None
    spacing: tuple[float, float] | None


def frames(path: Path, dataset: Any) -> list[Frame]:
    """All frames of a file, in its order. Raises `BadInput` without pixels that can be decoded here."""
    raw = _decoded(path, dataset)
    uid = str(dataset.get("SOPInstanceUID", ""))
    found = []
    for number, array in enumerate(raw):
        position, directions, spacing = place(dataset, number)
        found.append(Frame(_scaled(array, dataset, number), uid, number + 1, position, directions, spacing))
    return found


def group(dataset: Any, number: int, name: str) -> Any | None:
    """The item `name` of a frame's functional groups, its own before those that all frames share."""
    for sequence, index in (("PerFrameFunctionalGroupsSequence", number), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(sequence) or ()
        if index < len(items) and items[index].get(name):
            return items[index][name][0]
    return None


def place(
    dataset: Any, number: int
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[float, float] | None]:  # fmt: skip
    """Position, directions and spacing of a frame (from 0): of its functional groups, else of the file."""
    where = group(dataset, number, "PlanePositionSequence") or dataset
    directed = group(dataset, number, "PlaneOrientationSequence") or dataset
    measured = group(dataset, number, "PixelMeasuresSequence") or dataset
    values = measured.get("PixelSpacing") or measured.get("ImagerPixelSpacing")
    values = values or measured.get("NominalScannedPixelSpacing")
    spacing = (float(values[0]), float(values[1])) if values and len(values) == 2 else None
    return _numbers(where.get("ImagePositionPatient"), 3), _directions(directed), spacing


def _directions(item: Any) -> np.ndarray | None:
    values = _numbers(item.get("ImageOrientationPatient"), 6)
    return None if values is None else values.reshape(2, 3)


def _numbers(values: Sequence[Any] | None, number: int) -> np.ndarray | None:
    try:
        found = np.array(values, float) if values is not None else np.empty(0)
    except (TypeError, ValueError):
        return None
    return found if found.shape == (number,) else None


def _decoded(path: Path, dataset: Any) -> np.ndarray:
    """[N, H, W] or [N, H, W, 3]."""
    if "PixelData" not in dataset:
        raise BadInput(f"{path.name}: has no pixel data ({dataset.get('Modality', 'unknown')}); leave it out")
    try:
        array = np.asarray(dataset.pixel_array)
    except Exception as error:  # what decoders raise differs from one to the other
        syntax = getattr(dataset.file_meta.get("TransferSyntaxUID", ""), "name", "unknown")
        raise BadInput(f"{path.name}: the pixels cannot be decoded ({syntax}); store it uncompressed, or install the"
                       " decoder that pydicom names for it") from error  # fmt: skip
    if int(dataset.get("NumberOfFrames", 1) or 1) == 1:
        array = array[None]
    if int(dataset.get("SamplesPerPixel", 1) or 1) == 3:
        if str(dataset.get("PhotometricInterpretation", "RGB")) != "RGB":
            from pydicom.pixels import convert_color_space

            array = convert_color_space(array, dataset.PhotometricInterpretation, "RGB")
        return np.asarray(array)
    return array.max() - array if str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1" else array


def _scaled(array: np.ndarray, dataset: Any, number: int) -> np.ndarray:
    """What the header's slope and intercept make of stored numbers."""
    if array.ndim == 3:
        return array
    item = group(dataset, number, "PixelValueTransformationSequence") or dataset
    slope, intercept = float(item.get("RescaleSlope", 1) or 1), float(item.get("RescaleIntercept", 0) or 0)
    if (slope, intercept) == (1.0, 0.0):
        return array
    scaled = array.astype(np.float64) * slope + intercept
    is_whole = slope == int(slope) and intercept == int(intercept)
    return scaled.astype(np.int32 if is_whole else np.float32)
