"""The pictures of the page: the worst, the median and the best case of every site, outlined."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedlit.gallery import RANKS, UNREADABLE, open_picture
from fedlit.report.reading import Run
from fedlit.report.tables import format_number


def read_pictures(folder: Path, run: Run) -> tuple[list[dict[str, Any]], list[str]]:
    """([{site, pictures of its worst, median and best case}], files that cannot be read), the worst site first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    unreadable = []
    for path in sorted(folder.glob("*.npz")):
        try:
            drawn = _picture(open_picture(path))
        except UNREADABLE as error:
            unreadable.append(f"Warning: {path.name} cannot be read and is left out: {error}")
            continue
        if drawn["model"] == (run.model_at(drawn["site"]) or drawn["model"]):
            found[drawn["site"], drawn["rank"]] = drawn
    order = [site for site in run.sites if any((site, rank) in found for rank in RANKS)]
    order += sorted({site for site, _ in found} - set(order))
    rows = [[found[site, rank] for rank in RANKS if (site, rank) in found] for site in order]
    return [{"site": site, "pictures": row} for site, row in zip(order, rows, strict=True)], unreadable


def _picture(saved: Mapping[str, np.ndarray], longest: int = 384) -> dict[str, Any]:
    """A saved picture as the template wants it: a JPEG of at most `longest` pixels a side and outlines as SVG paths."""
    jpeg, size = as_jpeg(saved["image"], longest)
    return {
        **{name: str(saved[name]) for name in ("site", "case", "rank", "model")},
        "dice": format_number(float(saved["dice"]), "dice"),
        "width": size[0],
        "height": size[1],
        "jpeg": jpeg,
        "reference": "".join(outline(plane, size) for plane in saved["target"]),
        "prediction": "".join(outline(plane, size) for plane in saved["prediction"]),
    }


def as_jpeg(image: np.ndarray, longest: int) -> tuple[str, tuple[int, int]]:
    """An image uint8 [H, W] or [H, W, 3] as a JPEG in base64, and its (width, height) of at most `longest` a side."""
    from PIL import Image

    picture = Image.fromarray(image)
    scale = min(1.0, longest / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    data = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(data, "JPEG", quality=85)
    return base64.b64encode(data.getvalue()).decode(), size


def outline(plane: np.ndarray, size: tuple[int, int]) -> str:
    """The border of a mask as an SVG path in pixels of a picture of `size` (width, height)."""
    import contourpy
    from PIL import Image

    mask = Image.fromarray(plane.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    padded = np.pad(np.asarray(mask, dtype=np.float64), 1)  # so that outlines close at the border of the picture
    path = ""
    for line in contourpy.contour_generator(z=padded).lines(127.5):
        points = " ".join(f"{x - 0.5:.4g} {y - 0.5:.4g}" for x, y in np.asarray(line)[:-1])
        path += f"M{points}Z"
    return path
