"""Decodes one file: PNG, JPEG, TIFF, BMP, NPY or NIfTI to an array and its spacing."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedlit.errors import BadInput

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
VOLUMES = (".nii", ".nii.gz")
SUFFIXES = (*PICTURES, ".npy", *VOLUMES)


@dataclass(frozen=True)
class Picture:
    """A decoded file. `array` is [D, H, W, C] for an image and [D, H, W] for a mask; a picture has D = 1.

    Spacing in mm: (row, column) of a picture, (slice, row, column) of a volume, None where the file does not say.
    `affine`, of a NIfTI file, is 4 x 4: voxel (column, row, slice) to mm.
    """

    array: np.ndarray
    spacing: tuple[float, ...] | None = None
    is_volume: bool = False
    affine: np.ndarray | None = None

    @property
    def orientation(self) -> str:
        """Where the voxel axes of a NIfTI file point, such as LPS; empty for other files."""
        if self.affine is None:
            return ""
        import nibabel

        return "".join(code or "?" for code in nibabel.aff2axcodes(self.affine))


def read_image(path: str | Path) -> Picture:
    """The image of a file, [D, H, W, C] in the numbers it was stored in, C = 1 or 3.

    NPY holds [H, W], [H, W, 3] (RGB), [D, H, W] or [D, H, W, 3]. The slices of a NIfTI volume lie along its third voxel
    axis: the array is transposed to [D, H, W], as SimpleITK does, H being the second voxel axis and W the first. Pixel
    sizes written in PNG, JPEG or TIFF are of prints and screens and are ignored. A JPEG is turned as its EXIF tag says.

    Raises `BadInput`: unknown format, unreadable or truncated file, NaN or infinite values, the same value everywhere.
    """
    picture = _decode(Path(path), keep_palette=False)
    array = picture.array
    if array.dtype.kind not in "uif":
        raise BadInput(f"{path}: values of type {array.dtype}; an image holds integers or floats")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        num_bad = int((~np.isfinite(array)).sum())
        raise BadInput(f"{path}: {num_bad} values are NaN or infinite; repair the image or leave it out")
    if (array == array[:1, :1, :1]).all():
        value = array[0, 0, 0].tolist()
        raise BadInput(f"{path}: every pixel is {value}, nothing can be seen; repair the image or leave it out")
    return picture


def read_mask(path: str | Path) -> Picture:
    """The label values of a file, integers [D, H, W]; a colour file whose channels are equal counts as grey,
    a palette file gives its indices.

    Raises `BadInput`: as `read_image`, but one value everywhere is legal; colours; values that are no whole numbers.
    """
    picture = _decode(Path(path), keep_palette=True)
    array = picture.array
    if array.dtype.kind not in "uifb":
        raise BadInput(f"{path}: values of type {array.dtype}; a mask holds whole numbers")
    if (array != array[..., :1]).any():
        raise BadInput(f"{path}: the mask is in colour; store one whole number per pixel instead, such as 0 and 255")
    array = array[..., 0]
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and (array == np.rint(array)).all()):
            raise BadInput(f"{path}: the mask holds values that are no whole numbers; store label values")
        array = array.astype(np.int64)
    return replace(picture, array=array)


def num_slices(path: str | Path) -> int:
    """How many pictures `read_image` would find in a file: 1, or the slices of a volume by its header.

    Raises `BadInput`: unreadable header.
    """
    path = Path(path)
    name = path.name.lower()
    if not name.endswith((".npy", *VOLUMES)):
        return 1
    try:
        if name.endswith(".npy"):
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
            return shape[0] if len(shape) == 4 or (len(shape) == 3 and shape[-1] not in (1, 3)) else 1
        import nibabel

        image: Any = nibabel.load(path)
        shape = image.shape
    except Exception as error:  # as in _decode
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{path}: unreadable or truncated ({reason}); replace the file") from error
    return shape[2] if len(shape) > 2 else 1


def _decode(path: Path, *, keep_palette: bool) -> Picture:
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise BadInput(f"{path}: unknown format; known are {' '.join(SUFFIXES)}")
    try:
        if name.endswith(VOLUMES):
            picture = _nifti(path)
        elif name.endswith(".npy"):
            picture = _npy(path)
        else:
            picture = _raster(path, keep_palette)
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # decoders raise anything from struct.error to zlib.error on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{path}: unreadable or truncated ({reason}); replace the file") from error
    if picture.array.size == 0:
        raise BadInput(f"{path}: holds no pixels, its shape is {picture.array.shape}; replace the file")
    return picture


def _raster(path: Path, keep_palette: bool) -> Picture:
    from PIL import Image, ImageOps

    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        opened.verify()  # checksums
        if opened.format == "PNG" and b"IEND\xaeB`\x82" not in data:  # Pillow forgives a missing end
            raise ValueError("its end is missing")
    with Image.open(io.BytesIO(data)) as opened:
        if (pages := getattr(opened, "n_frames", 1)) > 1:
            raise BadInput(f"{path}: has {pages} pages; store one picture per file, or a volume as NIfTI or NPY")
        is_wide_colour = opened.mode in ("RGB", "RGBA") and any(";16" in str(tile[3]) for tile in opened.tile)
        opened.load()
        image: Image.Image = opened
        if image.mode == "P" and keep_palette:
            return Picture(np.asarray(image)[None, ..., None])
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise BadInput(f"{path}: is partly transparent; store it without an alpha channel")
        if is_wide_colour:  # Pillow keeps only 8 bits of 16-bit colour
            import cv2

            wide = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
            return Picture(wide[None, ..., 2::-1])  # OpenCV's order is blue, green, red, alpha
        if image.mode not in ("1", "L", "I", "F", "RGB", "I;16", "I;16B", "I;16L"):
            image = image.convert("L" if image.mode == "LA" else "RGB")
        array = np.asarray(ImageOps.exif_transpose(image))
    if array.dtype == np.int32 and path.suffix.lower() == ".png":
        array = array.astype(np.uint16)  # 16-bit grey, as older Pillow gives it
    return Picture(array[None, ..., None] if array.ndim == 2 else array[None])


def _npy(path: Path) -> Picture:
    array = np.load(path, allow_pickle=False)
    if array.ndim not in (2, 3, 4) or (array.ndim == 4 and array.shape[-1] not in (1, 3)):
        raise BadInput(f"{path}: shape {array.shape}; allowed are [H, W], [H, W, 3], [D, H, W] and [D, H, W, 3]")
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.ndim == 2:
        return Picture(array[None, ..., None])
    if array.ndim == 3 and array.shape[-1] in (1, 3):
        return Picture(array[None])
    return Picture(array if array.ndim == 4 else array[..., None], is_volume=True)


def _nifti(path: Path) -> Picture:
    import nibabel

    image: Any = nibabel.load(path)
    array = np.asanyarray(image.dataobj)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.dtype.kind not in "uif":
        raise BadInput(f"{path}: shape {array.shape} of {array.dtype}; a volume has three axes of numbers")
    unit = {"micron": 1e-3, "meter": 1e3}.get(image.header.get_xyzt_units()[0], 1.0)  # unknown counts as mm
    sizes = [float(size) * unit for size in image.header.get_zooms()[:3]] + [1.0]
    spacing = tuple(sizes[2::-1])
    if not all(np.isfinite(size) and size > 0 for size in spacing):
        raise BadInput(f"{path}: voxel size {spacing} mm in the header; correct the header")
    affine = np.diag([unit, unit, unit, 1.0]) @ image.affine
    return Picture(array.transpose(2, 1, 0)[..., None], spacing, is_volume=True, affine=affine)
