"""NIfTI volumes with their masks, as [D, H, W] with the spacing and the place that their headers state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedlit.data.reading import Picture, read_image, read_mask
from fedlit.errors import BadInput

SAMPLE = 1 << 16  # values of a volume that say above which its 99 % quantile lies


@dataclass(frozen=True, eq=False)
class Volume:
    """`image` [D, H, W], `mask` whole numbers [D, H, W], spacing (slice, row, column) in mm, `affine` of NIfTI."""

    image: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, ...]
    affine: np.ndarray


def read_volume(image: Path, mask: Path, *, same_place: bool = False) -> Volume:
    """An image and a mask on one grid.

    Args:
        same_place: the origins must agree too, within a voxel; headers of published masks are often wrong in that.

    Raises:
        BadInput: four dimensions, other sizes, other axes, other spacing, or what `fedlit.data.reading` finds.
    """
    picture, labels = read_image(image), read_mask(mask)
    _check_grids(image, picture, mask, labels)
    assert picture.spacing and picture.affine is not None and labels.affine is not None, "both are of NIfTI files"
    if same_place:
        step = float(np.linalg.norm(picture.affine[:3, 3] - labels.affine[:3, 3]))
        if step > min(picture.spacing):
            raise BadInput(f"{mask.name} is on another grid than its image: it begins {step:.1f} mm away")
    return Volume(picture.array[..., 0], labels.array, picture.spacing, picture.affine)


def _check_grids(image: Path, picture: Picture, mask: Path, labels: Picture) -> None:
    for path, read in ((image, picture), (mask, labels)):
        if read.affine is None:
            raise BadInput(f"{path.name} is no NIfTI volume, which is expected")
    if picture.array.shape[:3] != labels.array.shape:
        sizes = " and ".join("x".join(map(str, shape)) for shape in (picture.array.shape[:3], labels.array.shape))
        raise BadInput(f"{mask.name} is on another grid than its image, {sizes} (slices, rows, columns)")
    if picture.orientation != labels.orientation:
        found = f"its axes point to {labels.orientation}, those of the image to {picture.orientation}"
        raise BadInput(f"{mask.name} is on another grid than its image: {found}")
    own, other = np.array(picture.spacing), np.array(labels.spacing)
    if (abs(own - other) > 0.01 * own).any():
        sizes = " and ".join(" x ".join(f"{size:.3g}" for size in each) for each in (own, other))
        raise BadInput(f"{mask.name} is on another grid than its image: voxels of {sizes} mm")


def neighbours(volume: np.ndarray) -> np.ndarray:
    """[D, H, W] to [D, H, W, 3]: the slice before, itself, the slice after; at the ends the slice itself again."""
    return np.stack([volume[[0, *range(len(volume) - 1)]], volume, volume[[*range(1, len(volume)), -1]]], axis=-1)


def clipped_to_bytes(volume: np.ndarray, quantile: float = 0.99) -> np.ndarray:
    """uint8: the least value of the volume becomes 0, its `quantile` and what is above 255."""
    low, high = float(volume.min()), float(volume.max())
    if volume.dtype.kind in "ui" and high - low < 1 << 16:  # by a table of all values: four times as fast (measured)
        places = (volume - volume.min()).astype(np.uint16) if low else volume.astype(np.uint16)
        counts = np.bincount(places.ravel(), minlength=int(high - low) + 1)
        table = _scaled(np.arange(len(counts)) + low, low, _quantile(counts, quantile) + low, high)
        return table.take(places)  # faster than table[places], as measured
    cut, out = _high_quantile(volume, quantile), np.empty(volume.shape, np.uint8)
    for plane, scaled in zip(volume, out, strict=True):  # a slice stays in the processor's cache: half the time
        scaled[...] = _scaled(plane, low, cut, high)
    return out


def _high_quantile(volume: np.ndarray, quantile: float) -> float:
    """`np.quantile` to the last bit, of a quantile near 1: sorts only what lies above a bound that a sample gives."""
    values = volume.ravel()
    at = quantile * (len(values) - 1)
    sample = values[:: max(1, len(values) // SAMPLE) | 1]  # an odd step: no sample of single columns
    place = max(0, int((2 * quantile - 1) * (len(sample) - 1)))  # twice as many above as there have to be
    above = values[values >= np.partition(sample, place)[place]]
    first = int(at) - (len(values) - len(above))
    if first < 0:
        return float(np.quantile(volume, quantile))
    places = [first, min(first + 1, len(above) - 1)]
    return float(np.quantile(np.partition(above, places)[places], at - int(at)))


def _quantile(counts: np.ndarray, quantile: float) -> float:
    """As `np.quantile` of values 0, 1, ... that come so often: between two of them it goes in a straight line."""
    at = quantile * (int(counts.sum()) - 1)
    below, above = np.searchsorted(counts.cumsum(), [int(at), min(int(at) + 1, int(counts.sum()) - 1)], side="right")
    return float(below + (at - int(at)) * (above - below))


def _scaled(values: np.ndarray, low: float, cut: float, high: float) -> np.ndarray:
    top = cut if cut > low else high  # else fewer than 1 % of the voxels differ
    return np.rint(np.clip((values.astype(np.float64) - low) / (top - low), 0, 1) * 255).astype(np.uint8)
