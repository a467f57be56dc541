"""Brings a decoded image and mask to the channels, range and size that a network trains on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedlit.data.reading import Picture, read_image, read_mask
from fedlit.errors import BadInput

INTENSITIES = ("auto", "range", "percentile", "minmax")


@dataclass(frozen=True)
class Preparation:
    """What is done once, before the cache.

    `values` are the mask values that may occur, the background first; a pixel is stored as its value's place in them.
    `size` is (H, W) or None for the size as decoded: both sides are resized, so the aspect ratio may change, and the
    spacing with it. `intensity` says what becomes 0 and 1: `range` the ends of the stored type (floats must lie in
    [0, 1] already), `minmax` the least and greatest value of the file (a volume, or one of its slices where these are
    files), `percentile` its 0.5 and 99.5 percentiles, `auto` range for 8-bit files and percentile for all others. 8-bit
    images taken by range stay 8-bit, others become 16-bit fixed point.
    """

    values: tuple[int, ...]
    channels: int = 1
    size: tuple[int, int] | None = None
    intensity: str = "auto"

    def case(self, image: Path, mask: Path) -> tuple[np.ndarray, np.ndarray, Picture]:
        """The image and the codes of two files, and the image as decoded. Raises `BadInput` when they do not fit."""
        picture, labels = read_case(image, mask)
        try:
            codes = self.codes(labels)
        except BadInput as error:
            hint = "; JPEG changes values, use PNG" if mask.suffix.lower() in (".jpg", ".jpeg") else ""
            raise BadInput(f"{mask}: {error}{hint}") from error
        try:
            return self.image(picture), codes, picture
        except BadInput as error:
            raise BadInput(f"{image}: {error}") from error

    def turns_grey(self, picture: Picture) -> bool:
        """Whether a picture in colour, and not just of three equal channels, loses it."""
        array = picture.array
        return self.channels == 1 and array.shape[-1] == 3 and bool((array[..., 1:] != array[..., :1]).any())

    def image(self, picture: Picture) -> np.ndarray:
        """[D, H, W, C], uint8 or uint16, whose whole range means [0, 1]."""
        array = _with_channels(picture.array, self.channels)
        if array.dtype != np.uint8 or self.intensity not in ("auto", "range"):
            array = self._unit_range(array)
        if self.size and array.shape[1:3] != self.size:
            array = np.stack([resize(one, self.size) for one in array]).reshape(len(array), *self.size, self.channels)
        if array.dtype == np.uint8:
            return np.ascontiguousarray(array)
        return np.rint(np.clip(array, 0, 1) * 65535).astype(np.uint16)

    def codes(self, picture: Picture) -> np.ndarray:
        """uint8 [D, H, W]: the place of each pixel's value in `values`. When resized, the value that covers most of
        the new pixel wins (of equals the earlier one). Raises `BadInput` on values outside of `values`."""
        codes = np.full(picture.array.shape, 255, np.uint8)
        for code, value in enumerate(self.values):
            codes[picture.array == value] = code
        if (codes == 255).any():
            unknown = np.unique(picture.array[codes == 255]).tolist()
            shown = ", ".join(map(str, unknown[:8])) + (f" and {len(unknown) - 8} more" if len(unknown) > 8 else "")
            known = f"data.background and data.labels have {', '.join(map(str, self.values))}"
            raise BadInput(f"mask values {shown} are outside of the label map; {known}")
        if self.size and codes.shape[1:] != self.size:
            codes = np.stack([resize_codes(one, self.size) for one in codes])
        return codes

    def spacing(
        self, spacing: tuple[float, ...] | None, *, decoded_size: tuple[int, int], is_volume: bool
    ) -> tuple[float, ...] | None:
        """The spacing after resizing from `decoded_size` (H, W); one number stands for all axes."""
        if spacing is None:
            return None
        num_axes = 3 if is_volume else 2
        spacing = spacing * num_axes if len(spacing) == 1 else spacing
        if len(spacing) != num_axes:
            allowed = "a volume has 1 or 3 (slice row column)" if is_volume else "a picture has 1 or 2 (row column)"
            raise BadInput(f"spacing has {len(spacing)} numbers; {allowed}")
        rows, columns = self.size or decoded_size
        return (*spacing[:-2], spacing[-2] * decoded_size[0] / rows, spacing[-1] * decoded_size[1] / columns)

    def _unit_range(self, array: np.ndarray) -> np.ndarray:
        if self.intensity == "range":
            low, high = 0, 1
            if array.dtype.kind in "ui":
                low, high = 0, np.iinfo(array.dtype).max
            if array.min() < low or array.max() > high:
                raise BadInput(
                    f"values from {array.min()} to {array.max()} exceed {low} to {high}, the range of {array.dtype};"
                    " use data.intensity=percentile"
                )
        else:
            low, high = array.min(), array.max()
            if self.intensity != "minmax":
                cut_low, cut_high = np.percentile(array, (0.5, 99.5))
                if cut_low < cut_high:  # else fewer than 1 % of the pixels differ, and these must not be cut away
                    low, high = cut_low, cut_high
        scaled = (array.astype(np.float64) - float(low)) / (float(high) - float(low))
        return np.clip(scaled, 0, 1).astype(np.float32)


def read_case(image: Path, mask: Path) -> tuple[Picture, Picture]:
    """An image and its mask as decoded. Raises `BadInput` when a file cannot be read or they do not fit."""
    picture, labels = read_image(image), read_mask(mask)
    if picture.array.shape[:3] != labels.array.shape:
        sizes = [shape[shape[0] == 1 :] for shape in (picture.array.shape[:3], labels.array.shape)]
        found = " and ".join("x".join(map(str, size)) for size in sizes)
        raise BadInput(f"image {image} and mask {mask} differ in size, {found}; they must match pixel by pixel")
    if picture.orientation and labels.orientation and picture.orientation != labels.orientation:
        raise BadInput(
            f"the axes of {image} point to {picture.orientation}, those of {mask} to {labels.orientation};"
            " store the mask on the image's grid, with its header"
        )
    return picture, labels


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image [H, W] or [H, W, C] at another (H, W): averaged over areas where it shrinks, linear where it grows."""
    import cv2

    shrunk = (min(image.shape[0], size[0]), min(image.shape[1], size[1]))
    for (height, width), method in ((shrunk, cv2.INTER_AREA), (size, cv2.INTER_LINEAR)):
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height), interpolation=method)
    return image


def resize_codes(codes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Label codes [H, W] at another (H, W): each pixel takes the code that covers most of it."""
    present = np.unique(codes)
    if len(present) == 1:
        return np.full(size, present[0], np.uint8)
    shares = np.stack([resize((codes == code).astype(np.float32), size) for code in present])
    return present[shares.argmax(axis=0)]


def _with_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """Colour becomes luminance (ITU-R BT.601), grey is repeated."""
    if array.shape[-1] == channels:
        return array
    if channels == 3:
        return np.repeat(array, 3, axis=-1)
    red, green, blue = (array[..., channel].astype(np.float64) for channel in range(3))
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    is_integer = array.dtype.kind in "ui"
    return (np.rint(grey) if is_integer else grey).astype(array.dtype)[..., None]
