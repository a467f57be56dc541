"""NIfTI volumes with their masks in a folder for each site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedlit.data.reading import read_mask
from fedlit.preparation.cases import Decoded, Found
from fedlit.preparation.folder import check_patterns, found_pairs
from fedlit.preparation.foreground import coded, labelled, parse_foreground
from fedlit.preparation.volumes import read_volume


@dataclass(frozen=True)
class Nifti:
    """`images`, `masks`, `foreground` and `site` as for `folder`; `slices` writes every slice as a picture."""

    images: str = "{site}/images/{case}.nii*"
    masks: str = "{site}/masks/{case}.nii*"
    foreground: tuple[str, ...] = ()
    site: str | None = None
    slices: bool = False

    def __post_init__(self) -> None:
        check_patterns(self.images, self.masks, self.site)
        parse_foreground(self.foreground)

    def find(self, source: Path) -> Found:
        pairs, skipped = found_pairs(self.images, self.masks, self.site, source, decode_volume)
        cases = [replace(case, as_slices=self.slices) for case in pairs]
        return labelled(cases, skipped, mask_of, self.foreground, "NIfTI volumes")


def mask_of(path: Path) -> np.ndarray:
    """Whole numbers [D, H, W]. Raises `BadInput`."""
    return read_mask(path).array


def decode_volume(image: Path, mask: Path, codes: Sequence[tuple[int, int]]) -> Decoded:
    """The numbers of the image stay as they are; its mask must lie on its grid, place included."""
    volume = read_volume(image, mask, same_place=True)
    return Decoded(volume.image, coded(volume.mask, codes), volume.spacing, volume.affine)
