"""DICOM: a folder for each site, in it a folder for each case with its slices, or a file for a picture or a volume."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from fedlit.data.reading import read_mask
from fedlit.errors import BadInput
from fedlit.preparation.cases import Case, Decoded, Found, Skipped
from fedlit.preparation.dicom_identity import identifying
from fedlit.preparation.dicom_seg import check_numbers, classes_of, drawn_on, is_segmentation, segments
from fedlit.preparation.dicom_series import Series, header, pydicom, read_file, read_series
from fedlit.preparation.foreground import coded, codes_of, described, labelled, lost_classes, parse_foreground
from fedlit.preparation.nifti import mask_of
from fedlit.preparation.patterns import Pattern, Tree, not_as_published, tree

BURNED_IN = (
    "dicom: text burned into the pixels is neither looked for nor removed: look at the pictures before they are shared"
)
FOLDERS = "dicom: names of folders and files become names of cases: see that they name no patient"


@dataclass(frozen=True)
class Dicom:
    """`masks` is where a case's mask lies, with {site} and {case}: a binary DICOM SEG, NIfTI for a volume, any picture
    for a picture.

    A case is the folder SITE/CASE/ with the slices of one series, or the file SITE/CASE.dcm; of a file with several
    frames each is a slice. The classes of DICOM SEG are its labels; with `foreground` they are segments by number, else
    as for `folder`. `slices` writes every slice as a picture. Cases with one PatientID are one patient.
    """

    masks: str = "{site}/{case}_mask.*"
    foreground: tuple[str, ...] = ()
    slices: bool = False

    def __post_init__(self) -> None:
        if set(Pattern(self.masks).names) != {"site", "case"}:
            raise ValueError(f"--masks {self.masks!r}: needs {{site}} and {{case}}, and nothing else in braces")
        parse_foreground(self.foreground)

    def find(self, source: Path) -> Found:
        pydicom()
        found = tree(source)
        masks, series = _masks(found, self.masks), _series(found, self.masks)
        cases: list[Case] = []
        skipped: list[Skipped] = []
        patients: dict[tuple[str, str], str] = {}
        for (site, name), files in sorted(series.items()):
            mask = masks.pop((site.lower(), name.lower()), None)
            if mask is None:
                skipped.append(Skipped(f"{site}/{name}", f"no mask as {Pattern(self.masks)}"))
                continue
            fields = header(files[0])
            if fields is None:
                skipped.append(Skipped(f"{site}/{name}", f"{files[0].name} is no DICOM file"))
                continue
            patient = str(fields.get("PatientID") or "")
            group = patients.setdefault((site, patient), name) if patient else name
            cases.append(Case(site, name, group, partial(decode_series, tuple(files), mask), (*files, mask)))
        skipped += [Skipped(str(path.relative_to(source)), "a mask without DICOM files") for path in masks.values()]
        if not cases:
            expected = ["{site}/{case}/*.dcm or {site}/{case}.dcm", f"with the mask {self.masks}"]
            raise not_as_published("DICOM in folders of sites and cases", found, expected, skipped)
        cases = [replace(case, as_slices=self.slices) for case in cases]
        segmented = [is_segmentation(case.sources[-1]) for case in cases]
        if all(segmented):
            return self._segmented(cases, skipped)
        if any(segmented):
            raise BadInput("some masks are DICOM SEG and some are not: prepare them apart, by --masks")
        return labelled(cases, skipped, mask_of, self.foreground, "DICOM", [BURNED_IN, FOLDERS])

    def _segmented(self, cases: Sequence[Case], skipped: list[Skipped]) -> Found:
        """The cases whose masks are DICOM SEG; a number in a file is a class by its label."""
        labels: dict[Path, dict[int, str]] = {}
        for case in cases:
            try:
                labels[case.sources[-1]] = segments(case.sources[-1])
            except BadInput as error:
                skipped.append(Skipped(f"{case.site} {case.name}", str(error)))
        if not labels:
            raise BadInput(
                "\n  ".join(["no mask can be used:", *(f"{each.what}: {each.reason}" for each in skipped[:20])])
            )
        classes = parse_foreground(self.foreground)
        if classes:
            check_numbers(labels, [number for own in classes.values() for number in own])
        named = classes or classes_of(labels)
        codes = codes_of(named)
        made = []
        for case in cases:
            if own := labels.get(case.sources[-1]):
                pairs = [(number, codes[number]) for number in own if number in codes] if classes else [
                    (number, codes[named[label][0]]) for number, label in own.items()]  # fmt: skip
                files, mask = case.sources[:-1], case.sources[-1]
                made.append(replace(case, decode=partial(decode_segmented, files, mask, codes=pairs)))
        about = described("DICOM", named, codes)
        read = "masks: DICOM SEG; classes are " + ("segments by number" if classes else "the labels of segments")
        lost = partial(lost_classes, about.labels, named, None)
        return Found(made, skipped, replace(about, conventions=(read,)), [BURNED_IN, FOLDERS], lost=lost)


def decode_series(files: Sequence[Path], mask: Path, codes: Sequence[tuple[int, int]]) -> Decoded:
    """Pixels and a mask on their grid. A NIfTI mask may list its voxels in another direction; it is turned."""
    series, labels = read_series(files), read_mask(mask)
    values = labels.array
    if series.affine is not None and labels.affine is not None:
        values = _turned(values, labels.affine, series.affine, mask)
    elif not series.is_volume:
        values = values[0]
    shape = series.image.shape[: 3 if series.is_volume else 2]
    if values.shape != shape:
        sizes = " and ".join("x".join(map(str, each)) for each in (shape, values.shape))
        raise BadInput(f"{mask.name} is on another grid than its image, {sizes}")
    return _decoded(series, coded(values, codes))


def decode_segmented(files: Sequence[Path], mask: Path, codes: Sequence[tuple[int, int]]) -> Decoded:
    """Pixels and the segments of a DICOM SEG on their slices; `codes` are pairs of a number and what is written."""
    series, segmentation = read_series(files), read_file(mask)
    drawn = drawn_on(mask, segmentation, series, dict(codes))
    dropped = tuple(sorted({*series.dropped, *identifying(segmentation)}))
    return _decoded(replace(series, dropped=dropped), drawn if series.is_volume else drawn[0])


def _decoded(series: Series, mask: np.ndarray) -> Decoded:
    image = series.image
    if image.ndim == 2 and image.dtype.kind in "iu" and image.dtype.itemsize > 1:
        image = _sixteen_bits(image)
    return Decoded(image, mask, series.spacing, series.affine, series.dropped, series.warnings)


def _sixteen_bits(image: np.ndarray) -> np.ndarray:
    """A single picture for PNG: whole numbers, moved up where some are negative; wider ones stay as they are."""
    low, high = int(image.min()), int(image.max())
    if high - min(low, 0) > 65535:
        return image
    return (image.astype(np.int64) - min(low, 0)).astype(np.uint16)


def _turned(values: np.ndarray, own: np.ndarray, wanted: np.ndarray, mask: Path) -> np.ndarray:
    """[D, H, W] of a mask in the directions of an image. Raises `BadInput` where the places differ by half a voxel."""
    import nibabel

    start, end = (nibabel.orientations.io_orientation(affine) for affine in (own, wanted))
    transform = nibabel.orientations.ornt_transform(start, end)
    turned = nibabel.orientations.apply_orientation(values.transpose(2, 1, 0), transform)
    affine = own @ nibabel.orientations.inv_ornt_aff(transform, values.transpose(2, 1, 0).shape)
    sizes = np.linalg.norm(wanted[:3, :3], axis=0)
    corners = np.array([[0, 0, 0, 1], [*(np.array(turned.shape) - 1), 1]], float).T
    if (abs((affine - wanted) @ corners)[:3].max(axis=1) > 0.5 * sizes.max()).any():
        raise BadInput(f"{mask.name} is on another grid than its image: its voxels lie elsewhere")
    return np.asarray(turned).transpose(2, 1, 0)


def _masks(found: Tree, pattern: str) -> dict[tuple[str, str], Path]:
    return {
        (names["site"].lower(), names["case"].lower()): found.path(file)
        for file, names in found.matching(Pattern(pattern))
    }


def _series(found: Tree, masks: str) -> dict[tuple[str, str], list[Path]]:
    """The files of each case, sorted: those with the ending .dcm or without any."""
    mask, series = Pattern(masks), defaultdict(list)
    for file in found.files:
        parts = file.split("/")
        last = parts[-1]
        if mask.match(file) or not (last.lower().endswith((".dcm", ".ima")) or "." not in last):
            continue
        if len(parts) == 2:
            series[parts[0], last.rsplit(".", 1)[0]].append(found.path(file))
        elif len(parts) > 2 and last.upper() != "DICOMDIR":
            series[parts[0], parts[1]].append(found.path(file))
    return series
