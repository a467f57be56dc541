"""What preparing costs beside only decoding the same files and encoding the same output with the same libraries."""

from __future__ import annotations

import gzip
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import nibabel
import numpy as np
from PIL import Image
from rich.console import Console

from fedlit.preparation.cases import Reader
from fedlit.preparation.fundus import Fundus
from fedlit.preparation.nifti import Nifti
from fedlit.preparation.prepare import prepare
from fedlit.preparation.prostate import Prostate
from fedlit.preparation.writing import GZIP_LEVEL, PNG_LEVEL

NUM_PICTURES, SIDE = 24, 800
NUM_VOLUMES, SHAPE = 6, (24, 320, 320)
NUM_ROUNDS = 9
TARGET = 1.3


def photograph(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth colours with a little noise, as a camera gives them; a disc and a cup as REFUGE codes them."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (10, 10, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    cv2.circle(mask, (SIDE // 2, SIDE // 2), SIDE // 4, (128,), -1)
    cv2.circle(mask, (SIDE // 2, SIDE // 2), SIDE // 9, (0,), -1)
    return (image + random.integers(-6, 7, image.shape)).clip(0, 255).astype(np.uint8), mask


def scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth tissue in air with noise, float32 [D, H, W], as MRI gives it; an organ in the middle."""
    random = np.random.default_rng(seed)
    slices, height, width = SHAPE
    body, organ = np.zeros((2, height, width), np.uint8)
    for drawn, part in ((body, 2.3), (organ, 10)):
        cv2.ellipse(drawn, (width // 2, height // 2), (int(width / part), int(height / part)), 0, 0, 360, (1,), -1)
    tissue = random.gamma(4, 100, (slices, 12, 12)).astype(np.float32)
    smooth = np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC) for plane in tissue])
    noise = np.abs(random.normal(0, 15, SHAPE)).astype(np.float32)
    return (smooth * body).clip(0) + noise, np.repeat(organ[None], slices, axis=0)


def draw_pictures(root: Path) -> None:
    for number in range(NUM_PICTURES):
        part = "train" if number % 5 else "test"
        for kind, array in zip(("image", "mask"), photograph(number), strict=True):
            path = root / "Domain3" / part / "ROIs" / kind / f"g{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


def draw_volumes(root: Path, kind: type) -> None:
    """As the prostate set is published."""
    for number in range(NUM_VOLUMES):
        for ending, array in zip(("", "_segmentation"), scan(number), strict=True):
            store(root / "UCL" / f"Case{number:02d}{ending}.nii.gz", array.astype(np.uint8 if ending else kind))


def draw_folders(root: Path, kind: type) -> None:
    """As `nifti` finds them."""
    for number in range(NUM_VOLUMES):
        for folder, array in zip(("images", "masks"), scan(number), strict=True):
            stored = array.astype(np.uint8 if folder == "masks" else kind)
            store(root / "site" / folder / f"case{number:02d}.nii.gz", stored)


def store(path: Path, volume: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.diag([-0.5, -0.5, 3, 1])).to_filename(path)


def decode(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        with Image.open(path) as opened:
            return np.asarray(opened)
    if path.suffix == ".npy":
        return np.load(path)
    image = nibabel.load(path)
    return np.asanyarray(image.dataobj)


def encode(path: Path, array: np.ndarray) -> None:
    """Pictures by OpenCV or NumPy, volumes by nibabel and gzip, at the levels of `fedlit prepare`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
        return
    if path.suffix == ".png":
        ordered = np.ascontiguousarray(array[..., ::-1]) if array.ndim == 3 else array
        content = cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1].tobytes()
    else:
        content = gzip.compress(nibabel.Nifti1Image(array, np.eye(4)).to_bytes(), GZIP_LEVEL, mtime=0)
    path.write_bytes(content)


def alone(sources: list[Path], contents: dict[Path, np.ndarray], out: Path) -> None:
    """Every file decoded, and all that a preparation writes encoded from memory."""
    for path in sources:
        decode(path)
    for path, array in contents.items():
        encode(out / path, array)


def timed(step: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock, and of this process's CPU, which say more where the machine is busy."""
    begun, worked = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - begun, time.process_time() - worked


def compare(what: str, name: str, reader: Reader, folder: Path) -> None:
    """Print medians of alternating rounds in one process, after one that warms up and says what is to be encoded."""
    source = folder / "source"

    def prepared(out: Path) -> None:
        prepare(name, reader, source, out, workers=1, console=Console(quiet=True))

    prepared(folder / "first")
    written = [
        path for path in sorted((folder / "first").rglob("*")) if path.name.endswith((".png", ".npy", ".nii.gz"))
    ]
    contents = {path.relative_to(folder / "first"): decode(path) for path in written}
    sources = sorted(path for path in source.rglob("*") if path.is_file())
    alone(sources, contents, folder / "warm")
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "ours": [], "again": []}
    for number in range(NUM_ROUNDS):
        out = folder / f"ours{number}"
        found["plain"].append(timed(partial(alone, sources, contents, folder / f"plain{number}")))
        found["ours"].append(timed(partial(prepared, out)))
        found["again"].append(timed(partial(prepared, out)))
    clock, cpu = ({way: statistics.median(one[place] for one in rounds) for way, rounds in found.items()}
                  for place in (0, 1))  # fmt: skip
    ratios = [statistics.median(ours[place] / plain[place]
                                for ours, plain in zip(found["ours"], found["plain"], strict=True))
              for place in (0, 1)]  # fmt: skip
    print(
        f"preparation: {what}: {cpu['ours']:.2f} s of CPU, decoding and encoding alone {cpu['plain']:.2f} s, ratio"
        f" {ratios[1]:.2f} (on the clock {ratios[0]:.2f}, target {TARGET}); again {clock['again']:.2f} s"
    )


def bench_preparation(folder: Path) -> None:
    """Photographs, then volumes of whole numbers and of floats, as slices and as volumes; one thread."""
    cv2.setNumThreads(1)
    draw_pictures(folder / "fundus" / "source")
    compare(f"{NUM_PICTURES} colour PNG of {SIDE} px", "fundus", Fundus(), folder / "fundus")
    size = f"{NUM_VOLUMES} NIfTI volumes of {' x '.join(map(str, SHAPE))}"
    for kind in (np.int16, np.float32):
        for whole in (False, True):
            place = folder / f"{kind.__name__}_{whole}"
            draw_volumes(place / "source", kind)
            what = f"{size}, {kind.__name__}, to {'volumes' if whole else 'slices'}"
            compare(what, "prostate", Prostate(volumes=whole), place)
        place = folder / f"{kind.__name__}_kept"
        for foreground in ((), ("1",)):  # where it is not named, up to 50 masks are looked at first
            told = f"to slices as they are, foreground {'named' if foreground else 'looked for'}"
            where = place / told.split()[-1]
            draw_folders(where / "source", kind)
            compare(f"{size}, {kind.__name__}, {told}", "nifti", Nifti(slices=True, foreground=foreground), where)
