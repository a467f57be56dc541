"""Reads the DICOM files of one case: pixels, place and spacing, and which identifying fields stay behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedlit.errors import BadInput
from fedlit.preparation.dicom_frames import Frame, frames, group
from fedlit.preparation.dicom_identity import identifying


@dataclass(frozen=True, eq=False)
class Series:
    """`image` [D, H, W] or [D, H, W, 3], or [H, W] and [H, W, 3] of a single picture. Spacing in mm; `affine` as NIfTI
    has it, None of frames that do not say where they lie. `frames` are what the slices were, in their order."""

    image: np.ndarray
    spacing: tuple[float, ...] | None
    affine: np.ndarray | None
    dropped: tuple[str, ...]
    warnings: tuple[str, ...]
    frames: tuple[Frame, ...]

    @property
    def is_volume(self) -> bool:
        return len(self.frames) > 1


def pydicom() -> Any:
    """The package. Raises `BadInput` where the extra is not installed."""
    try:
        import pydicom as package
    except ImportError:
        raise BadInput("reading DICOM needs the package pydicom: install fedlit with the extra `dicom`") from None
    return package


def header(path: Path) -> Any | None:
    """The fields of a file without its pixels, or None where it is no DICOM."""
    package = pydicom()
    try:
        return package.dcmread(path, stop_before_pixels=True)
    except (package.errors.InvalidDicomError, OSError, ValueError, KeyError, EOFError):
        return None


def read_series(files: Sequence[Path]) -> Series:
    """One picture, or the slices of a volume in the order of their places; frames of one file that do not say where
    they lie stay in its order.

    Raises:
        BadInput: no pixel data, a compressed syntax that cannot be decoded here, several series, slices of different
            sizes, twice the same place, or unequal steps.
    """
    datasets = [read_file(path) for path in files]
    if len({str(each.get("SeriesInstanceUID", "")) for each in datasets}) > 1:
        raise BadInput("the files are of several series; keep the one that was drawn on")
    dropped = tuple(sorted(set[str]().union(*map(identifying, datasets))))
    found = [frame for path, dataset in zip(files, datasets, strict=True) for frame in frames(path, dataset)]
    burned = any(str(each.get("BurnedInAnnotation", "")).upper() == "YES" for each in datasets)
    warnings: tuple[str, ...] = (
        ("dicom: some files say that text is burned into their pixels: look at them",) if burned else ()
    )
    if len(found) == 1:
        return Series(found[0].array, found[0].spacing, None, dropped, warnings, tuple(found))
    if len({frame.array.shape for frame in found}) > 1:
        sizes = sorted({"x".join(map(str, frame.array.shape)) for frame in found})
        raise BadInput(f"slices of {', '.join(sizes)}; a volume has slices of one size")
    if len(files) == 1 and all(frame.position is None for frame in found):
        warnings += ("dicom: frames that do not say where they lie are slices in the order of their file",)
        spacing = _spacing_of_frames(datasets[0], found[0])
        return Series(np.stack([frame.array for frame in found]), spacing, None, dropped, warnings, tuple(found))
    found, spacing, affine = _stacked(found)
    image = np.stack([frame.array for frame in found])
    return Series(image, spacing, affine, dropped, warnings, tuple(found))


def _spacing_of_frames(dataset: Any, first: Frame) -> tuple[float, ...] | None:
    """(slice, row, column), where the file says all of it."""
    step = (group(dataset, 0, "PixelMeasuresSequence") or dataset).get("SpacingBetweenSlices")
    return (float(step), *first.spacing) if step and first.spacing else None


def read_file(path: Path) -> Any:
    """All fields of a file. Raises `BadInput`."""
    package = pydicom()
    try:
        return package.dcmread(path)
    except package.errors.InvalidDicomError as error:
        raise BadInput(f"{path.name}: no DICOM file") from error
    except Exception as error:  # a damaged file makes pydicom raise anything
        raise BadInput(f"{path.name}: unreadable or truncated ({error})") from error


def _stacked(found: Sequence[Frame]) -> tuple[list[Frame], tuple[float, ...], np.ndarray]:
    """The frames in the order of their places, the spacing and the affine of NIfTI."""
    if found[0].array.ndim != 2:
        raise BadInput("slices in colour; a volume that says where its slices lie is grey")
    if any(frame.position is None or frame.directions is None for frame in found):
        raise BadInput("ImageOrientationPatient or ImagePositionPatient is missing: slices cannot be ordered")
    plane = found[0].spacing
    if plane is None:
        raise BadInput("PixelSpacing is missing; a volume needs it")
    directions = np.array([frame.directions for frame in found])
    if not np.allclose(directions, directions[0], atol=1e-3):
        raise BadInput("slices of different directions; keep one volume a folder")
    (across, down), places = directions[0], np.array([frame.position for frame in found])
    heights = places @ np.cross(across, down)
    order = np.argsort(heights, kind="stable")
    steps = np.diff(heights[order])
    if (steps < 1e-3).any():
        raise BadInput("two slices at the same place; keep one volume a folder")
    if (abs(steps - np.median(steps)) > 0.05 * np.median(steps)).any():
        raise BadInput(f"steps from {steps.min():.3g} to {steps.max():.3g} mm between slices; is one missing?")
    first = places[order[0]]
    step = (places[order[-1]] - first) / (len(order) - 1)
    affine = np.eye(4)  # of DICOM's axes: left, posterior, superior
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = across * plane[1], down * plane[0], step, first
    spacing = (float(np.linalg.norm(step)), *plane)
    return [found[place] for place in order], spacing, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
