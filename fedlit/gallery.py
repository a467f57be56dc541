"""The best, the median and the worst case of every site, as arrays on disk."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Collection
from hashlib import blake2b
from pathlib import Path

import numpy as np

from fedlit.files import replacing
from fedlit.record import Record
from fedlit.summary import case_means

RANKS = ("worst", "median", "best")
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What a damaged picture raises when it is opened or used."""


def chosen_cases(record: Record, round: int, model: str) -> dict[str, dict[str, tuple[str, float]]]:
    """site -> {best, median, worst: (case, Dice)} of the test split; a site without counted cases is left out."""
    chosen = {}
    for (number, site, name, split, metric), means in case_means(record.cases()).items():
        ranked = sorted((value, case) for case, value in means.items() if value is not None)
        if (number, name, split, metric) == (round, model, "test", "dice") and ranked:
            places = {"best": -1, "median": (len(ranked) - 1) // 2, "worst": 0}
            chosen[site] = {rank: (ranked[place][1], ranked[place][0]) for rank, place in places.items()}
    return chosen


def save_picture(
    run_dir: str | Path,
    *,
    site: str,
    case: str,
    rank: str,
    model: str,
    image: np.ndarray,
    target: np.ndarray,
    prediction: np.ndarray,
    dice: float,
) -> Path:
    """Keep one scored picture for the report: image uint8 [H, W] or [H, W, 3]; target, prediction bool [K, H, W].

    `rank` is best, median or worst. There is one picture per (model, site, rank): a later one replaces it. The file
    name is readable, and a hash makes it unique.
    """
    assert rank in RANKS, rank
    assert image.dtype == np.uint8 and image.shape[2:] in ((), (3,)), (image.dtype, image.shape)
    assert target.dtype == prediction.dtype == np.bool_, (target.dtype, prediction.dtype)
    assert target.shape == prediction.shape == (len(target), *image.shape[:2]), (target.shape, prediction.shape)
    digest = blake2b(json.dumps([model, site]).encode(), digest_size=6).hexdigest()
    readable = "-".join(re.sub(r"[^A-Za-z0-9_]+", "_", name)[:40] for name in (model, site))
    path = Path(run_dir) / "pictures" / f"{readable}-{digest}-{rank}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez_compressed(
            file,
            image=image,
            target=target,
            prediction=prediction,
            dice=np.float64(dice),
            site=np.str_(site),
            case=np.str_(case),
            rank=np.str_(rank),
            model=np.str_(model),
        )
    return path


def remove_pictures(run_dir: str | Path, sites: Collection[str] | None = None) -> None:
    """Remove what was kept of these sites, and what cannot be read; or the whole folder."""
    folder = Path(run_dir) / "pictures"
    if sites is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.glob("*.npz"):
        if _site_of(path) in {*sites, None}:
            path.unlink()


def _site_of(path: Path) -> str | None:
    try:
        return str(open_picture(path)["site"])
    except UNREADABLE:
        return None


def open_picture(path: Path) -> dict[str, np.ndarray]:
    """What `save_picture` kept, by the names of its arguments. Raises one of `UNREADABLE` where the file is damaged."""
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
