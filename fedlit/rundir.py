"""The directory of a run: one run at a time, continued only with the config it was begun with."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO, Literal

from omegaconf import DictConfig, OmegaConf

from fedlit.config import differences
from fedlit.errors import BadInput
from fedlit.files import write_atomically

CONTENTS = ("config.yaml", "metrics.csv", "cases.csv", "summary.json", "provenance.json", "report.html", "log.txt",
            "checkpoint", "pictures", "logs")  # fmt: skip

FREE = ("num_rounds", "run_dir", "name", "resume", "overwrite", "accelerator", "devices", "num_nodes",
        "processes_per_client", "num_workers", "loggers", "report", "client_timeout", "prediction", "data.root",
        "data.cache_dir")  # fmt: skip
"""Keys that may differ when a run goes on: they do not change what is computed. `num_rounds` may only grow."""


class RunDirectory:
    """`runs/NAME`: config, tables, checkpoints, report."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock: IO | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock:
            self._lock.close()

    def lock(self) -> None:
        """Hold the directory until the block or this process ends, however it ends.

        Raises:
            BadInput: another run holds it, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "w")  # noqa: SIM115 (held open on purpose)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"run_dir={self.path}: another run is at work there; wait for it, or set another run_dir or name"
            ) from None
        except OSError as error:
            raise BadInput(f"run_dir={self.path} cannot be written: {error.strerror}; set another run_dir") from None

    def admit(self, config: DictConfig) -> Literal["new", "continue", "complete"]:
        """Lock the directory; say whether this config starts a run here, continues one or finds it complete.

        `overwrite` removes an old run.

        Raises:
            BadInput: another run is at work here, the directory holds something else, or a run with another config.
        """
        self.lock()
        begun = self / "config.yaml"
        if config.overwrite and begun.exists():
            self._remove()
        if not begun.exists():
            if config.resume == "must":
                raise BadInput(f"resume=must: there is no run in {self.path}")
            strangers = [name for name in sorted(os.listdir(self.path)) if name not in (*CONTENTS, ".lock")]
            if strangers:
                raise BadInput(
                    f"run_dir={self.path} is no run directory, it holds {strangers[0]!r}; set another run_dir"
                )
            self.write_config(config)
            return "new"
        if not any((self / "checkpoint").glob("round-*.json")):  # it never completed a round: nothing is lost
            if config.resume == "must":
                raise BadInput(f"resume=must: the run in {self.path} has not completed a round")
            self._remove()
            self.write_config(config)
            return "new"
        if config.resume == "never":
            raise BadInput(
                f"resume=never: a run is in {self.path} already; set overwrite=true to remove it, or another run_dir"
            )
        old = self.read_config()
        problems = differences(old, config, FREE)
        if config.num_rounds < old.num_rounds:
            problems.append(f"num_rounds: {old.num_rounds} -> {config.num_rounds}; it may only grow")
        if problems:
            listed = "\n  ".join(problems)
            raise BadInput(
                f"the run in {self.path} was begun with another config:\n  {listed}\n"
                "set these keys back, choose another run_dir, or overwrite=true to start anew"
            )
        if (self / "summary.json").exists() and old.num_rounds == config.num_rounds:
            return "complete"
        self.write_config(config)
        return "continue"

    def read_config(self) -> DictConfig:
        """The resolved config of the run.

        Raises:
            BadInput: there is none.
        """
        path = self / "config.yaml"
        if not path.is_file():
            raise BadInput(f"{self.path} is no run directory: it has no config.yaml")
        return OmegaConf.create(OmegaConf.to_container(OmegaConf.load(path)))

    def write_config(self, config: DictConfig) -> None:
        write_atomically(self / "config.yaml", OmegaConf.to_yaml(config, resolve=True))

    def _remove(self) -> None:
        for name in CONTENTS:
            path = self / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
