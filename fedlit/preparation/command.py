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
