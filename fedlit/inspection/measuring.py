"""What is kept of a case after one look: sizes, intensities, labels and a fingerprint that survives rescaling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlit.data.manifest import Row
from fedlit.data.preparing import Preparation, read_case, resize
from fedlit.data.reading import Picture

NUM_BINS = 64  # of an intensity histogram over [0, 1]
MOST_VALUES = 32  # of a mask that are kept
SIDE = 64  # pixels a side of the small picture for structure and fingerprint
FREQUENCIES = 16  # rows and columns of the fingerprint's cosine transform
CUTS = (0.05, 0.25, 0.5, 0.75, 0.95)
FEATURES = (
    "brightness",
    "contrast",
    *(f"{round(100 * cut)} % quantile" for cut in CUTS),
    "coarse structure",
    "fine structure",
    "redness",
    "blueness",
)


@dataclass(frozen=True)
class Look:
    """A case in a few kilobytes.

    Args:
        size: (H, W) in pixels as stored.
        dtype: of the stored numbers, which lie in [low, high].
        spacing: in mm, as the manifest says, else the file.
        features: of the image by the names in `FEATURES`, intensities in [0, 1].
        foreground: the share of pixels that are not background, in [0, 1].
        num_empty: pictures (slices of a volume) without foreground.
        values: of the mask, at most `MOST_VALUES`.
        fingerprint: 255 bits, see `fingerprint`.
        is_volume: the slices of a body, not pictures.
    """

    row: Row
    num_pictures: int
    size: tuple[int, int]
    channels: int
    dtype: str
    low: float
    high: float
    spacing: tuple[float, ...] | None
    features: np.ndarray
    foreground: float
    num_empty: int
    values: tuple[int, ...]
    fingerprint: bytes
    is_volume: bool = False

    @property
    def brightness(self) -> float:
        """The mean intensity, in [0, 1]."""
        return float(self.features[0])

    @property
    def is_empty(self) -> bool:
        return self.num_empty == self.num_pictures


def look(row: Row, *, background: int = 0, intensity: str = "auto") -> tuple[Look, np.ndarray]:
    """Decode one case; what is to be kept of it, and its histogram [NUM_BINS] of shares that sum to 1.

    Args:
        background: the mask value that is no class.
        intensity: what becomes 0 and 1, see `preparing.Preparation`; colour becomes luminance.

    Raises:
        BadInput: a file cannot be read, or image and mask do not fit.
    """
    picture, labels = read_case(row.image, row.mask)
    preparation = Preparation((background,), channels=1, intensity=intensity)
    grey = preparation.image(picture)[..., 0]
    is_foreground = labels.array != background
    values = np.unique(labels.array)
    counts = np.bincount(grey.reshape(-1), minlength=np.iinfo(grey.dtype).max + 1)
    found = Look(
        row,
        num_pictures=len(grey),
        size=grey.shape[1:],
        channels=picture.array.shape[-1],
        dtype=str(picture.array.dtype),
        low=float(picture.array.min()),
        high=float(picture.array.max()),
        spacing=row.spacing or picture.spacing,
        features=_features(grey, counts, picture),
        foreground=float(is_foreground.mean()),
        num_empty=int((~is_foreground.any(axis=(1, 2))).sum()),
        values=tuple(values[:MOST_VALUES].tolist()),
        fingerprint=fingerprint(grey.mean(axis=0, dtype=np.float32)),
        is_volume=picture.is_volume,
    )
    return found, counts.reshape(NUM_BINS, -1).sum(axis=1) / counts.sum()


def fingerprint(image: np.ndarray) -> bytes:
    """The signs of the lowest frequencies of an image [H, W] against their median: 255 bits in 32 bytes.

    A perceptual hash (Zauner, 2010): rescaling, compression, brightness and contrast change few bits, a crop by a few
    percent or a flip many.
    """
    from scipy.fft import dctn

    small = resize(image.astype(np.float32), (SIDE, SIDE))
    low = dctn(small, norm="ortho")[:FREQUENCIES, :FREQUENCIES].reshape(-1)[1:]  # the first is the mean
    return np.packbits(low > np.median(low)).tobytes()


def _features(grey: np.ndarray, counts: np.ndarray, picture: Picture) -> np.ndarray:
    """The numbers that `FEATURES` names, float32; of a volume over all slices."""
    levels = np.linspace(0, 1, len(counts))
    shares = counts / counts.sum()
    mean = float(shares @ levels)
    std = float(np.sqrt(shares @ (levels - mean) ** 2))
    quantiles = levels[np.searchsorted(shares.cumsum(), CUTS).clip(max=len(levels) - 1)]
    scale = len(counts) - 1
    coarse = np.mean([_roughness(resize(one, (SIDE, SIDE))) for one in grey]) / scale
    fine = np.mean([_roughness(one) for one in grey]) / scale
    red, blue = 1 / 3, 1 / 3
    if picture.array.shape[-1] == 3:
        means = picture.array.mean(axis=(0, 1, 2), dtype=np.float64)
        total = means.sum()
        red, blue = (means[0] / total, means[2] / total) if total > 0 else (red, blue)
    return np.array([mean, std, *quantiles, coarse, fine, red, blue], np.float32)


def _roughness(image: np.ndarray) -> float:
    """The mean difference of neighbours in a row."""
    return float(np.abs(np.diff(image.astype(np.int32), axis=1)).mean()) if image.shape[1] > 1 else 0.0
