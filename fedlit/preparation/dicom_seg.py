"""DICOM SEG: the segments of a file, and its frames on the slices of the image that was drawn on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedlit.errors import BadInput
from fedlit.preparation.dicom_frames import Frame, group, place
from fedlit.preparation.dicom_series import Series, header

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


def is_segmentation(path: Path) -> bool:
    """Whether a mask is a DICOM SEG; files of other formats are told by their endings."""
    if path.suffix.lower() not in ("", ".dcm", ".ima"):
        return False
    fields = header(path)
    return fields is not None and str(fields.get("SOPClassUID", "")) in (SEGMENTATION, LABEL_MAP)


def segments(path: Path) -> dict[int, str]:
    """Number -> label, of letters, digits and _, so that it can name a class.

    Raises:
        BadInput: no binary segmentation, or a segment without a label.
    """
    fields = header(path)
    if fields is None:
        raise BadInput(f"{path.name}: no DICOM file")
    kind = str(fields.get("SegmentationType", "none"))
    if kind != "BINARY":
        raise BadInput(f"{path.name}: a segmentation of the type {kind}; store it as BINARY, or as NIfTI")
    found = {}
    for item in fields.get("SegmentSequence") or ():
        label = re.sub(r"\W+", "_", str(item.get("SegmentLabel") or "")).strip("_")
        if not label:
            raise BadInput(f"{path.name}: segment {item.get('SegmentNumber')} has no SegmentLabel to name its class by")
        found[int(item.SegmentNumber)] = label
    if not found:
        raise BadInput(f"{path.name}: names no segment")
    return found


def classes_of(labels: Mapping[Path, Mapping[int, str]]) -> dict[str, tuple[int, ...]]:
    """The classes of all files in order of their labels; the values are 1, 2, ..., whatever the numbers in a file."""
    names = sorted({label for own in labels.values() for label in own.values()})
    return {name: (value,) for value, name in enumerate(names, 1)}


def check_numbers(labels: Mapping[Path, Mapping[int, str]], wanted: Sequence[int]) -> None:
    """Raises `BadInput` where a number that --foreground names is not the same segment in all files."""
    for number in wanted:
        names = sorted({own[number] for own in labels.values() if number in own})
        if len(names) != 1:
            known = f"is {' and '.join(names)}" if names else "is in none of them"
            raise BadInput(
                f"--foreground names segment {number}, which {known}; leave it out: labels then name classes"
            )


def drawn_on(path: Path, dataset: Any, series: Series, codes: Mapping[int, int]) -> np.ndarray:
    """uint8 [D, H, W]: the code of each segment's number on the slices of an image, 0 elsewhere; `dataset` is the file.

    Raises:
        BadInput: the pixels cannot be decoded, a frame lies on no slice or on another grid, or segments of two codes
            overlap.
    """
    shape = series.frames[0].array.shape[:2]
    if (int(dataset.Rows), int(dataset.Columns)) != shape:
        sizes = f"{'x'.join(map(str, shape))} and {dataset.Rows}x{dataset.Columns}"
        raise BadInput(f"{path.name} is on another grid than its image, {sizes}")
    try:
        planes = np.asarray(dataset.pixel_array).reshape(-1, *shape)
    except Exception as error:  # what decoders raise differs from one to the other
        raise BadInput(f"{path.name}: the pixels cannot be decoded ({error}); store it uncompressed") from error
    mask = np.zeros((len(series.frames), *shape), np.uint8)
    for number, plane in enumerate(planes):
        code = codes.get(_segment(path, dataset, number))
        if code is None or not plane.any():
            continue
        target, here = mask[_slice(path, dataset, number, series)], plane > 0
        if (here & (target != 0) & (target != code)).any():
            raise BadInput(f"{path.name}: segments overlap, and a mask holds one value a pixel; give those of one class"
                           " by --foreground NAME=NUMBER,NUMBER")  # fmt: skip
        target[here] = code
    return mask


def _segment(path: Path, dataset: Any, number: int) -> int:
    item = group(dataset, number, "SegmentIdentificationSequence")
    if item is None:
        raise BadInput(f"{path.name}: frame {number + 1} does not say which segment it is")
    return int(item.ReferencedSegmentNumber)


def _slice(path: Path, dataset: Any, number: int, series: Series) -> int:
    """The slice that a frame lies on: the one that it names, else the one at its place; both must agree."""
    position, directions, spacing = place(dataset, number)
    referenced = _referenced(dataset, number, series.frames)
    if position is None and referenced is None:
        raise BadInput(f"{path.name}: frame {number + 1} names no slice of its image and does not say where it lies")
    if position is None or any(frame.position is None or frame.spacing is None for frame in series.frames):
        if referenced is None:
            raise BadInput(f"{path.name}: frame {number + 1} names no slice, and those do not say where they lie")
        return referenced
    places = np.array([frame.position for frame in series.frames])
    nearest = int(np.linalg.norm(places - position, axis=1).argmin())
    if not _fits(series.frames[nearest], position, directions, spacing, series.spacing):
        raise BadInput(f"{path.name} is on another grid than its image: frame {number + 1} lies where no slice is")
    if referenced not in (None, nearest):
        raise BadInput(f"{path.name}: frame {number + 1} names a slice that lies elsewhere")
    return nearest


def _referenced(dataset: Any, number: int, frames: Sequence[Frame]) -> int | None:
    """The only slice that a frame was derived from, where it is one of the image's."""
    derived = group(dataset, number, "DerivationImageSequence")
    sources: Sequence[Any] = (derived.get("SourceImageSequence") or ()) if derived is not None else ()
    if len(sources) != 1:
        return None
    uid, named = str(sources[0].get("ReferencedSOPInstanceUID", "")), sources[0].get("ReferencedFrameNumber")
    found = [index for index, frame in enumerate(frames)
             if frame.uid == uid and (named is None or frame.number == int(named))]  # fmt: skip
    return found[0] if len(found) == 1 else None


def _fits(
    frame: Frame,
    position: np.ndarray,
    directions: np.ndarray | None,
    spacing: tuple[float, float] | None,
    voxel: tuple[float, ...] | None,
) -> bool:
    """Within half a pixel, and half a step between slices, with the same directions and pixels."""
    assert frame.position is not None and frame.spacing is not None
    if (
        directions is not None
        and frame.directions is not None
        and not np.allclose(directions, frame.directions, atol=1e-3)
    ):
        return False
    if spacing is not None and not np.allclose(spacing, frame.spacing, rtol=0.01):
        return False
    across, down = frame.directions if frame.directions is not None else np.eye(3)[:2]
    away = position - frame.position
    step = voxel[0] if voxel and len(voxel) == 3 else min(frame.spacing)
    limits = (frame.spacing[1], frame.spacing[0], step)
    return all(abs(float(away @ axis)) <= 0.5 * limit
               for axis, limit in zip((across, down, np.cross(across, down)), limits, strict=True))  # fmt: skip
