"""`fedlit prepare`: which reader belongs to a name, and which options to a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from fedlit.errors import BadInput
from fedlit.preparation.cases import Reader
from fedlit.preparation.prepare import Interrupted, prepare

__all__ = ["LEFT_OUT", "Interrupted", "run"]

LEFT_OUT = 3
"""Exit code of a preparation that is done and has left something out."""

READERS = {
    "prostate": "prostate:Prostate",
    "fundus": "fundus:Fundus",
    "cxr": "cxr:ChestXRays",
    "nuclei": "nuclei:Nuclei",
    "fets": "fets:FeTS",
    "retina": "retina:Retina",
    "folder": "folder:Folder",
    "nifti": "nifti:Nifti",
    "dicom": "dicom:Dicom",
}


def run(name: str, source: Path, out: Path, *, sites: Sequence[str], seed: int, workers: int | None,
        options: Mapping[str, Any]) -> int:  # fmt: skip
    """Prepare a data set; returns how much was left out.

    Args:
        options: of the reader; None, False and () mean that the option was not given.

    Raises:
        BadInput: an unknown name, an option that the data set has not, or as `prepare` does.
    """
    if name not in READERS:
        raise BadInput(f"NAME={name!r}; known are {', '.join(READERS)}")
    reader = _reader(name, {key: value for key, value in options.items() if value not in (None, False, ())})
    return prepare(name, reader, source, out, sites=sites, seed=seed, workers=workers, console=Console())


def described(name: str) -> list[str]:
    """What `fedlit prepare NAME --help` adds: what is read, and which known layouts are not."""
    module = import_module(f"fedlit.preparation.{READERS[name].partition(':')[0]}")
    lines = [" ".join((_class(name).__doc__ or "").split())]
    expected = getattr(module, "EXPECTED", None) or [str(layout) for layout in getattr(module, "LAYOUTS", ())]
    if expected:
        lines += ["Read, below any folder of SOURCE:", *(f"- {each}" for each in expected)]
    if not_read := getattr(module, "NOT_READ", ()):
        lines.append("Known and not read, since where files lie and what masks mean is not confirmed:")
        lines += [f"- {each.what}: {each.instead}" for each in not_read]
    return lines


def _reader(name: str, given: Mapping[str, Any]) -> Reader:
    cls = _class(name)
    allowed = [field.name for field in fields(cls)]
    if strange := [key for key in given if key not in allowed]:
        owners = [other for other in READERS if strange[0] in [field.name for field in fields(_class(other))]]
        raise BadInput(f"--{strange[0]} is an option of {', '.join(owners)}, not of {name}")
    try:
        return cls(**given)
    except ValueError as error:
        raise BadInput(str(error)) from None


def _class(name: str) -> Any:
    module, _, cls = READERS[name].partition(":")
    return getattr(import_module(f"fedlit.preparation.{module}"), cls)
