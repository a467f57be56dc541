"""Reads the DICOM files of one case: pixels, place and spacing, and which identifying fields stay behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedlit.errors import BadInput

IDENTIFYING = (
    "AccessionNumber", "AcquisitionDate", "AcquisitionTime", "AdditionalPatientHistory", "BranchOfService",
    "ContentDate", "ContentTime", "CountryOfResidence", "DeviceSerialNumber", "EthnicGroup", "FrameOfReferenceUID",
    "ImageComments", "InstanceCreationDate", "InstanceCreationTime", "InstitutionAddress", "InstitutionName",
    "InstitutionalDepartmentName", "IssuerOfPatientID", "MilitaryRank", "NameOfPhysiciansReadingStudy", "Occupation",
    "OperatorsName", "OtherPatientIDs", "OtherPatientNames", "PatientAddress", "PatientAge", "PatientBirthDate",
    "PatientBirthName", "PatientBirthTime", "PatientComments", "PatientID", "PatientMotherBirthName", "PatientName",
    "PatientReligiousPreference", "PatientSex", "PatientSize", "PatientTelephoneNumbers", "PatientWeight",
    "PerformedProcedureStepDescription", "PerformedProcedureStepStartDate", "PerformingPhysicianName", "ProtocolName",
    "ReferringPhysicianName", "RegionOfResidence", "RequestedProcedureDescription", "RequestingPhysician",
    "SOPInstanceUID", "SeriesDate", "SeriesDescription", "SeriesInstanceUID", "SeriesTime", "StationName", "StudyDate",
    "StudyDescription", "StudyID", "StudyInstanceUID", "StudyTime",
)  # fmt: skip
"""Fields that name a person, a place or a time, after the confidentiality profile of DICOM PS3.15 E. None of them is
read but to say so; of the header only the pixels' size and place are used at all."""


@dataclass(frozen=True, eq=False)
class Series:
    """`image` [D, H, W], or [H, W] and [H, W, 3] of a single picture. Spacing in mm; `affine` as NIfTI has it."""

    image: np.ndarray
    spacing: tuple[float, ...] | None
    affine: np.ndarray | None
    dropped: tuple[str, ...]
    warnings: tuple[str, ...]


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
    """One picture, or the slices of a volume in the order of their places.

    Raises:
        BadInput: no pixel data, a compressed syntax that cannot be decoded here, several series, slices of different
            sizes, twice the same place, or unequal steps.
    """
    datasets = [_read(path) for path in files]
    if len({str(each.get("SeriesInstanceUID", "")) for each in datasets}) > 1:
        raise BadInput("the files are of several series; keep the one that was drawn on")
    arrays = [_pixels(path, dataset) for path, dataset in zip(files, datasets, strict=True)]
    dropped = tuple(sorted({name for each in datasets for name in IDENTIFYING if each.get(name) not in (None, "")}))
    dropped += ("private fields",) if any(tag.is_private for each in datasets for tag in each) else ()
    burned = any(str(each.get("BurnedInAnnotation", "")).upper() == "YES" for each in datasets)
    warnings = ("dicom: some files say that text is burned into their pixels: look at them",) if burned else ()
    if len(datasets) == 1:
        return Series(arrays[0], _plane_spacing(datasets[0]), None, dropped, warnings)
    image, spacing, affine = _stacked(datasets, arrays)
    return Series(image, spacing, affine, dropped, warnings)


def _read(path: Path) -> Any:
    package = pydicom()
    try:
        return package.dcmread(path)
    except package.errors.InvalidDicomError as error:
        raise BadInput(f"{path.name}: no DICOM file") from error
    except Exception as error:  # a damaged file makes pydicom raise anything
        raise BadInput(f"{path.name}: unreadable or truncated ({error})") from error


def _pixels(path: Path, dataset: Any) -> np.ndarray:
    """[H, W] or [H, W, 3] in the numbers that the header's slope and intercept make of them; dense is bright."""
    if "PixelData" not in dataset:
        raise BadInput(f"{path.name}: has no pixel data ({dataset.get('Modality', 'unknown')}); leave it out")
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        raise BadInput(f"{path.name}: has {dataset.NumberOfFrames} frames; store one slice a file, or NIfTI")
    try:
        array = dataset.pixel_array
    except Exception as error:  # what decoders raise differs from one to the other
        syntax = getattr(dataset.file_meta.get("TransferSyntaxUID", ""), "name", "unknown")
        raise BadInput(f"{path.name}: the pixels cannot be decoded ({syntax}); store it uncompressed, or install the"
                       " decoder that pydicom names for it") from error  # fmt: skip
    if array.ndim == 3 and array.shape[-1] == 3:
        if str(dataset.get("PhotometricInterpretation", "RGB")) != "RGB":
            from pydicom.pixels import convert_color_space

            array = convert_color_space(array, dataset.PhotometricInterpretation, "RGB")
        return np.asarray(array)
    slope, intercept = float(dataset.get("RescaleSlope", 1) or 1), float(dataset.get("RescaleIntercept", 0) or 0)
    if str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        array = array.max() - array
    if (slope, intercept) == (1.0, 0.0):
        return np.asarray(array)
    scaled = array.astype(np.float64) * slope + intercept
    is_whole = slope == int(slope) and intercept == int(intercept)
    return scaled.astype(np.int32 if is_whole else np.float32)


def _plane_spacing(dataset: Any) -> tuple[float, float] | None:
    values = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    return (float(values[0]), float(values[1])) if values else None


def _stacked(datasets: Sequence[Any], arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[float, ...], np.ndarray]:
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 2:
        sizes = sorted({"x".join(map(str, array.shape)) for array in arrays})
        raise BadInput(f"slices of {', '.join(sizes)}; a volume has grey slices of one size")
    try:
        across, down = np.array(datasets[0].ImageOrientationPatient, float).reshape(2, 3)
        places = np.array([each.ImagePositionPatient for each in datasets], float)
    except (AttributeError, TypeError, ValueError):
        raise BadInput("ImageOrientationPatient or ImagePositionPatient is missing: slices cannot be ordered") from None
    plane = _plane_spacing(datasets[0])
    if plane is None:
        raise BadInput("PixelSpacing is missing; a volume needs it")
    if any(not np.allclose(each.ImageOrientationPatient, datasets[0].ImageOrientationPatient, atol=1e-3)
           for each in datasets):  # fmt: skip
        raise BadInput("slices of different directions; keep one volume a folder")
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
    return np.stack([arrays[place] for place in order]), spacing, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
