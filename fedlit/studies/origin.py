"""Whether the runs that are there were made from the data that a study is given now, and what these say of patients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf

from fedlit.config import build
from fedlit.errors import BadInput
from fedlit.patients import Patients
from fedlit.studies.results import Result, data_hash

Key = TypeVar("Key")


class Hashes:
    """The hash of manifest and files by the data of a config, each asked for once; a re-split is another manifest."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def of(self, config: DictConfig) -> str:
        key = OmegaConf.to_yaml(config.data)
        if key not in self._found:
            self._found[key] = build(config.data).fingerprint()
        return self._found[key]


def refuse_runs_on_other_data(runs: Iterable[tuple[Path, DictConfig]], data: Path) -> None:
    """Raises BadInput where the hash of manifest and files that a run noted is not that of the data it would have now.

    Args:
        runs: directories with something in them, each with the config that is asked for.
    """
    hashes = Hashes()
    others = [path for path, config in runs if (noted := data_hash(path)) is not None and noted != hashes.of(config)]
    if others:
        more = f" (and so were {len(others) - 1} more runs)" if len(others) > 1 else ""
        raise BadInput(
            f"{others[0]} was made from other data than --data {data} holds{more}: pictures, masks, splits or patients "
            "of the manifest differ; give the folder that it was made from, or another --out for runs on these data"
        )


def with_patients(results: Mapping[Key, tuple[Result, DictConfig]]) -> dict[Key, Result]:
    """Results of which those that noted no patients, as in earlier versions, have them from the manifest of their data.

    Args:
        results: each with a config that names a manifest; one of other data than the run had tells nothing.
    """
    hashes, known = Hashes(), dict[tuple[str, str], Patients]()
    found = {}
    for key, (result, config) in results.items():
        if result.patients is None and result.data is not None and result.data == hashes.of(config):
            source = build(config.data)
            place = (str(source.root), str(source.file))
            if place not in known:
                known[place] = patients_in(*place)
            result = replace(result, patients=known[place])
        found[key] = result
    return found


def patients_in(root: str, file: str) -> Patients:
    """The patients of all cases of a manifest; no picture is decoded."""
    from fedlit.data.manifest import read_manifest
    from fedlit.data.slices import case_of

    return {(row.site, case_of(row)[0]): row.group for row in read_manifest(root, file)}
