"""Optic disc and cup as their owners draw them, one function a convention; all give 0 background, 128 rim, 255 cup."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fedlit.errors import BadInput
from fedlit.preparation.cases import Decoded
from fedlit.preparation.decoding import bright, filled, mask_values, picture, same_grid

RIM, CUP = 128, 255  # as written; the disc is both
LARGEST_OUTLINES = 64_000_000  # bytes: outlines may come with the picture itself inside
READ = {
    "decode_inverted": "0 is cup, 128 disc rim, 255 background",
    "decode_levels": "0 is background, 1 disc rim, 2 cup",
    "decode_matrix": "0 is background, 1 disc rim, 2 cup, from `mask` of the .mat files",
    "decode_outlines": "the polygons disc and cup of the .json files, filled",
    "decode_pair": "one mask of the disc and one of the cup",
    "decode_softmaps": "where half of the experts agree or more",
    "decode_stereo": "of expert 1, the left half of the stereo pair",
}
"""How masks are read, by the name of the function, as dataset.json says it."""


def decode_inverted(image: Path, mask: Path) -> Decoded:
    """0 is cup, 128 disc rim, 255 background, as REFUGE hands them out and the ROIs of all four sources."""
    return _from_values(image, mask_values(mask), mask, {255: 0, 128: RIM, 0: CUP})


def decode_levels(image: Path, mask: Path) -> Decoded:
    """0 is background, 1 disc rim, 2 cup."""
    return _from_values(image, mask_values(mask), mask, {0: 0, 1: RIM, 2: CUP})


def decode_matrix(image: Path, mask: Path) -> Decoded:
    """The same values in the variable `mask` of a MATLAB file."""
    from scipy.io import loadmat

    try:
        values = np.asarray(loadmat(mask, variable_names=["mask"])["mask"])
    except Exception as error:  # a damaged file makes loadmat raise anything
        reason = "has no variable `mask`" if isinstance(error, KeyError) else f"unreadable or truncated ({error})"
        raise BadInput(f"{mask.name}: {reason}") from error
    return _from_values(image, values, mask, {0: 0, 1: RIM, 2: CUP})


def decode_outlines(image: Path, outlines: Path) -> Decoded:
    """The polygons `disc` and `cup` (which some pictures have not) of a LabelMe file; its other shapes are not used."""
    array = picture(image)
    found: dict[str, list[np.ndarray]] = {"disc": [], "cup": []}
    try:
        if outlines.stat().st_size > LARGEST_OUTLINES:
            raise ValueError("too large for a list of outlines")
        for shape in json.loads(outlines.read_text(encoding="utf-8"))["shapes"]:
            points = np.array(shape["points"], float)
            if str(shape["label"]).lower() in found and len(points) >= 3:
                found[str(shape["label"]).lower()].append(points.reshape(-1, 2))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{outlines.name}: no list of outlines (shapes with label and points; {error})") from error
    if not found["disc"]:
        raise BadInput(f"{outlines.name}: holds no polygon `disc`")
    disc, cup = (filled(found[name], array.shape[:2], outlines) > 0 for name in ("disc", "cup"))
    return Decoded(array, _joined(disc, cup))


def decode_pair(image: Path, disc: Path, cup: Path) -> Decoded:
    """Two masks that are white where disc and cup are; the disc includes the cup."""
    array, is_disc, is_cup = picture(image), bright(disc), bright(cup)
    same_grid(array, is_disc, disc)
    same_grid(array, is_cup, cup)
    return Decoded(array, _joined(is_disc, is_cup))


def decode_softmaps(image: Path, disc: Path, cup: Path) -> Decoded:
    """Two maps of how many of the experts agree: at least half of them do."""
    return decode_pair(image, disc, cup)


def decode_stereo(image: Path, disc: Path, cup: Path) -> Decoded:
    """The left half of a stereo pair, which is the half that was drawn on."""
    array, is_disc, is_cup = picture(image), bright(disc), bright(cup)
    width = array.shape[1] // 2
    left = np.ascontiguousarray(array[:, :width])
    is_disc, is_cup = is_disc[:, :width], is_cup[:, :width]
    same_grid(left, is_disc, disc)
    same_grid(left, is_cup, cup)
    return Decoded(left, _joined(is_disc, is_cup))


def _from_values(image: Path, values: np.ndarray, mask: Path, written: dict[int, int]) -> Decoded:
    array = picture(image)
    same_grid(array, values, mask)
    if unknown := sorted(set(np.unique(values).tolist()) - set(written)):
        raise BadInput(f"{mask.name}: values {unknown[:8]}; known are {', '.join(map(str, written))}")
    out = np.zeros(values.shape, np.uint8)
    for value, code in written.items():
        out[values == value] = code
    return Decoded(array, out)


def _joined(is_disc: np.ndarray, is_cup: np.ndarray) -> np.ndarray:
    return np.where(is_cup, CUP, np.where(is_disc, RIM, 0)).astype(np.uint8)
