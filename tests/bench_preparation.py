"""How long preparing takes beside decoding and encoding the same files alone, both in this run: the bound is 1.3.

`python tests/bench_preparation.py [NUM] [WORKERS]` draws NUM colour photographs of 800 x 800 pixels with their masks.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))


def photograph(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth colours with a little noise, as a camera gives them; a disc and a cup as REFUGE codes them."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (10, 10, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (800, 800), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    mask = np.full((800, 800), 255, np.uint8)
    cv2.circle(mask, (400, 400), 200, (128,), -1)
    cv2.circle(mask, (400, 400), 90, (0,), -1)
    return (image + random.integers(-6, 7, image.shape)).clip(0, 255).astype(np.uint8), mask


def draw(root: Path, num: int) -> None:
    for number in range(num):
        part = "train" if number % 5 else "test"
        for kind, array in zip(("image", "mask"), photograph(number), strict=True):
            path = root / "Domain3" / part / "ROIs" / kind / f"g{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


def recode(pair: tuple[Path, Path, Path]) -> None:
    """The same libraries and settings, and nothing else."""
    from fedlit.preparation.writing import PNG_LEVEL

    image, mask, out = pair
    for path in (image, mask):
        with Image.open(path) as opened:
            array = np.asarray(opened)
        ordered = np.ascontiguousarray(array[..., ::-1]) if array.ndim == 3 else array
        _, content = cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
        (out / f"{path.parent.name}_{path.name}").write_bytes(content.tobytes())


def main(num: int, workers: int) -> None:
    from fedlit.preparation.fundus import Fundus
    from fedlit.preparation.prepare import prepare

    def prepared(out: Path) -> None:
        prepare("fundus", Fundus(), root / "source", out, workers=workers, console=Console(quiet=True))

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw(root / "source", num)
        images = sorted((root / "source").rglob("image/*.png"))
        for turn in range(3):
            plain, out = root / f"plain{turn}", root / f"out{turn}"
            plain.mkdir()
            work = [(path, path.parent.parent / "mask" / path.name, plain) for path in images]
            alone, making, again = (timed(step) for step in (partial(alike, work, workers), partial(prepared, out),
                                                             partial(prepared, out)))  # fmt: skip
            here, elsewhere = (resource.getrusage(who).ru_maxrss / 1024
                               for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))  # fmt: skip
            told = f"decode and encode {alone[0]:.2f} s | prepare {making[0]:.2f} s | again {again[0]:.2f} s"
            ratios = f"ratio {making[0] / alone[0]:.2f}, of CPU seconds here {making[1] / alone[1]:.2f}"
            print(f"{num} pictures, {workers} processes | {told} | {ratios}", end=" | ")
            print(f"{here:.0f} MB here, {elsewhere:.0f} MB elsewhere")


def alike(work: list[tuple[Path, Path, Path]], workers: int) -> None:
    if workers == 1:
        for item in work:
            recode(item)
        return
    context = get_context("forkserver")
    context.set_forkserver_preload(["cv2", "PIL.Image", "fedlit.preparation.prepare"])
    with ProcessPoolExecutor(workers, context) as pool:
        list(pool.map(recode, work, chunksize=4))


def timed(step: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock, and of this process's CPU: with one process they say more where the machine is busy."""
    begun, worked = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - begun, time.process_time() - worked


if __name__ == "__main__":
    main(*(int(word) for word in [*sys.argv[1:], "120", "2"][:2]))
