"""Published pictures and masks as arrays: the formats of `fedlit.data.reading`, and GIF, PPM and gzip."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedlit.data.reading import SUFFIXES, read_image, read_mask
from fedlit.errors import BadInput
from fedlit.preparation.cases import Decoded


def picture(path: Path, *, drop_alpha: bool = False) -> np.ndarray:
    """[H, W] or [H, W, 3]; `drop_alpha` forgets a channel of transparency that means nothing. Raises `BadInput`."""
    if drop_alpha or not path.name.lower().endswith(SUFFIXES):
        array = _opened(path)
        if (array == array[:1, :1]).all():
            raise BadInput(f"{path.name}: every pixel is {array[0, 0].tolist()}, nothing can be seen")
        return array
    found = read_image(path)
    if found.is_volume:
        raise BadInput(f"{path.name}: is a volume of {len(found.array)} slices, and a picture is expected")
    return found.array[0, ..., 0] if found.array.shape[-1] == 1 else found.array[0]


def mask_values(path: Path) -> np.ndarray:
    """Whole numbers [H, W]. Raises `BadInput`."""
    if not path.name.lower().endswith(SUFFIXES):
        array = _opened(path)
        if array.ndim == 3:
            if (array != array[..., :1]).any():
                raise BadInput(f"{path.name}: the mask is in colour")
            array = array[..., 0]
        return array
    found = read_mask(path)
    if found.is_volume:
        raise BadInput(f"{path.name}: is a volume of {len(found.array)} slices, and a picture is expected")
    return found.array[0]


def bright(path: Path) -> np.ndarray:
    """bool [H, W]: where a mask of two values has the greater one; grey in between (JPEG, smoothed edges) is halved."""
    values = mask_values(path)
    return values > (127 if values.max() > 1 else 0)


def drawn(image: Path, *masks: Path) -> Decoded:
    """A picture with one class, 255: the union of masks that are white where it is."""
    array = picture(image)
    foreground = np.zeros(array.shape[:2], bool)
    for mask in masks:
        part = bright(mask)
        same_grid(array, part, mask)
        foreground |= part
    return Decoded(array, np.where(foreground, 255, 0).astype(np.uint8))


def filled(polygons: Sequence[np.ndarray], shape: tuple[int, ...], path: Path) -> np.ndarray:
    """uint8 [H, W], 255 inside of the polygons."""
    import cv2

    mask = np.zeros(shape, np.uint8)
    points = [np.rint(polygon).astype(np.int64) for polygon in polygons]
    limit = 4 * max(shape)
    if any((abs(each) > limit).any() for each in points):
        raise BadInput(f"{path.name}: outlines far outside of the picture of {shape[1]} x {shape[0]} pixels")
    for each in points:  # one by one: where two overlap, filling them together would leave a hole
        cv2.fillPoly(mask, [each.astype(np.int32)], (255,))
    return mask


def same_grid(image: np.ndarray, mask: np.ndarray, path: Path) -> None:
    """Raises `BadInput` unless every pixel of the image has one of the mask."""
    if image.shape[: mask.ndim] != mask.shape:
        sizes = " and ".join("x".join(map(str, shape)) for shape in (image.shape[: mask.ndim], mask.shape))
        raise BadInput(f"{path.name}: the mask is on another grid than its image, {sizes}")


def _opened(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        with Image.open(io.BytesIO(data)) as opened:
            wanted = "RGB" if opened.mode in ("RGB", "RGBA", "CMYK", "YCbCr") else "L"
            return np.asarray(opened.convert(wanted))
    except Exception as error:  # decoders raise anything on a damaged file
        raise BadInput(f"{path.name}: unreadable or truncated ({error})") from error
