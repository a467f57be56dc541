"""Small files in the layouts, names and headers in which data sets are published, for the tests of preparation."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import fedlit


def prepare(*words: object) -> int:
    """The exit code of `fedlit prepare`."""
    return fedlit("prepare", *words)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "sites.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def description(out: Path) -> dict:
    return json.loads((out / "dataset.json").read_text())


def check_and_plan(out: Path, capsys, *words: str, unseen: tuple[str, ...] = ()) -> str:
    """What `fedlit plan` says of a run on a prepared folder, after `fedlit check` found no problem and the pictures
    loaded with the labels that dataset.json names."""
    from fedlit.data import Manifest

    labels = description(out)["labels"]
    Manifest(root=str(out), labels=labels, image_size=32, channels=1).load(unseen_sites=unseen)
    told = "{" + ", ".join(f"{name}: {value}" for name, value in labels.items()) + "}"
    config = out.parent / f"{out.name}.yaml"
    config.write_text(
        f"include: [base]\ndata: manifest\ndata.root: {out}\ndata.labels: {told}\ndata.image_size: 32\n"
        "network.base_channels: 4\nnetwork.depth: 2\nnum_rounds: 1\naccelerator: cpu\n"
    )
    words = (*words, f"unseen_sites=[{','.join(unseen)}]") if unseen else words
    for command in ("check", "plan"):
        capsys.readouterr()
        assert fedlit(command, config, *words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def noise(*shape: int, seed: int = 0, high: int = 255) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.uint8)


def square(*shape: int, value: int = 255, background: int = 0) -> np.ndarray:
    """A mask [..., H, W] whose middle half has a value."""
    mask = np.full(shape, background, np.uint8)
    height, width = shape[-2:]
    mask[..., height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = value
    return mask


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def save_ppm_gz(path: Path, array: np.ndarray) -> None:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PPM")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(stream.getvalue()))


def save_nifti(path: Path, array: np.ndarray, *, spacing=(3.0, 0.5, 0.4), affine=None) -> Path:
    """[D, H, W] with spacing (slice, row, column); voxel axes are column, row, slice."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    if affine is None:
        affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    nibabel.Nifti1Image(array.transpose(2, 1, 0), affine).to_filename(path)
    return path


def prostate_volumes(root: Path, sites: dict[str, list[int]], *, shape=(4, 16, 12)) -> Path:
    """{site}/CaseNN.nii.gz with CaseNN_segmentation.nii.gz (BMC writes Segmentation), zones being 1 and 2."""
    for place, (site, numbers) in enumerate(sites.items()):
        for number in numbers:
            volume = np.random.default_rng(100 * place + number).integers(0, 900, shape).astype(np.int16)
            zones = square(*shape, value=1)
            zones[:, shape[1] // 2 :][zones[:, shape[1] // 2 :] == 1] = 2
            zones[0] = 0
            word = "Segmentation" if site in ("BMC", "ISBI_1.5") else "segmentation"
            save_nifti(root / site / f"Case{number:02d}.nii.gz", volume)
            save_nifti(root / site / f"Case{number:02d}_{word}.nii.gz", zones)
    return root


def tree_hashes(out: Path) -> dict[str, bytes]:
    """The content of every file that a user sees."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
