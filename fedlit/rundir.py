"""The directory of a run: one run at a time, continued only with the config it was begun with."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import IO, Any, Literal

from omegaconf import DictConfig, OmegaConf

from fedlit.config import differences
from fedlit.errors import BadInput
from fedlit.files import write_atomically
from fedlit.schema import our_name
from fedlit.sources import words

CONTENTS = ("config.yaml", "metrics.csv", "cases.csv", "patients.csv", "routing.csv", "summary.json", "provenance.json",
            "failure.txt", "report.html", "log.txt", "checkpoint", "experts", "pictures", "logs", "start",
            "initial.safetensors")  # fmt: skip

RESULTS = ("summary.json", "report.html")
"""What a finished run has and an unfinished one has not."""

MACHINE = ("accelerator", "devices", "num_nodes", "num_workers", "processes_per_client", "client_timeout")
PLACES = ("data.root", "data.cache_dir", "network.checkpoint", "network.trained")  # compared by what they hold
FREE = (*MACHINE, *PLACES, "num_rounds", "run_dir", "name", "resume", "overwrite", "loggers", "report", "prediction",
        "share_personal", "unseen_roots", "inspect_data", "data.allow_duplicates")  # fmt: skip
"""Keys that may differ when a run goes on: they do not change what is computed. `num_rounds` may only grow."""

SCORED = ("metrics.validation", "metrics.test")
"""Keys that may differ beside the FREE ones when a run is evaluated again; the rule that a score goes by may not."""

OF_ROUNDS = ("num_rounds", "run_dir", "name", "resume", "overwrite", "loggers")
"""Keys that say how the rounds are run, where and who hears of them; what scores a run that is there takes none."""

DECIDED = ("precision", "channels_last")
"""Keys that the machine decides where they are `auto`."""


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

    @property
    def is_busy(self) -> bool:
        """Another run is at work here."""
        if not (self / ".lock").exists():
            return False
        with open(self / ".lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def admit(self, config: DictConfig) -> Literal["new", "continue", "complete"]:
        """Lock the directory; say whether this config starts a run here, continues one or finds it complete.

        Nothing is changed yet: see `begin`.

        Raises:
            BadInput: another run is at work here, the directory holds something else, or a run with another config.
        """
        self.lock()
        return self.standing(config)

    def standing(self, config: DictConfig) -> Literal["new", "continue", "complete"]:
        """What `admit` says, without the lock. What a config leaves to the machine may be whatever a run here has.

        Raises:
            BadInput: the directory holds something else, or a run with another config.
        """
        if not (self / "config.yaml").exists():
            here = sorted(os.listdir(self.path)) if self.path.is_dir() else []
            strangers = [name for name in here if name not in (*CONTENTS, ".lock")]
            if strangers:
                raise BadInput(
                    f"run_dir={self.path} is no run directory, it holds {strangers[0]!r}; set another run_dir"
                )
        is_begun = self.has_rounds or self.is_scored
        if config.resume == "must" and not is_begun:
            raise BadInput(f"resume=must: no run in {self.path} has completed a round")
        if config.overwrite or not is_begun:  # without a completed round there is nothing to lose
            return "new"
        if config.resume == "never":
            raise BadInput(
                f"resume=never: a run is in {self.path} already; set overwrite=true to remove it, or another run_dir"
            )
        if problems := self.changed(config):
            raise BadInput(
                f"the run in {self.path} was begun with another config:\n  {problems}\n"
                "set these keys back, choose another run_dir, or overwrite=true to start anew"
            )
        rounds, has_all = self.read_config().num_rounds, self.is_whole if self.has_rounds else self.is_scored
        if has_all and rounds == config.num_rounds:
            return "complete"
        if not self.has_rounds:
            raise BadInput(
                f"num_rounds: {rounds} -> {config.num_rounds}: the run in {self.path} is finished and cannot go on, as "
                "its checkpoints were removed; set this back, choose another run_dir, or overwrite=true to start anew"
            )
        return "continue"

    @property
    def has_rounds(self) -> bool:
        """A round, or a pass of the start, is saved here."""
        return any(path for part in ("checkpoint", "start") for path in (self / part).glob("round-*.json"))

    @property
    def is_whole(self) -> bool:
        """The results of a finished run are here."""
        return all((self / name).exists() for name in RESULTS)

    @property
    def is_scored(self) -> bool:
        """The tables of a finished run are here; its checkpoints and report may have been removed since."""
        return (self / RESULTS[0]).exists()

    def changed(self, config: DictConfig) -> str:
        """The keys of the run here that a config would change and may not, one a line."""
        decided = (key for key in DECIDED if config.get(key) == "auto")
        return changes(self.read_config(), config, (*FREE, *decided))

    def begin(self, config: DictConfig, admission: Literal["new", "continue"]) -> None:
        """Remove what the admitted run replaces, and save its config."""
        for name in CONTENTS if admission == "new" else RESULTS:
            path = self / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        of_the_command = {"overwrite": False, "resume": "auto"}  # what was asked once is not part of the run
        saved = OmegaConf.merge(config, of_the_command)
        write_atomically(self / "config.yaml", OmegaConf.to_yaml(saved))

    @property
    def config_file(self) -> Path:
        """Where the config of the run is.

        Raises:
            BadInput: there is none.
        """
        path = self / "config.yaml"
        if not path.is_file():
            raise BadInput(
                f"{self.path} is no run directory: it has no config.yaml; "
                "give the folder that `fedlit run` wrote, such as runs/quickstart"
            )
        return path

    def read_config(self) -> DictConfig:
        """The resolved config of the run. Raises as `config_file` does."""
        written: Any = OmegaConf.to_container(OmegaConf.load(self.config_file))
        return OmegaConf.create(written)


def refuse_of_rounds(overrides: Iterable[str]) -> None:
    """Raises BadInput where words for what scores a run are about its training."""
    if found := [key for key in words(overrides) if our_name(key).split(".")[0] in OF_ROUNDS]:
        listed = "\n  ".join(found)
        raise BadInput(f"evaluate scores the run as it was trained and where it lies; it cannot take\n  {listed}")


def changes(old: DictConfig, new: DictConfig, free: Collection[str]) -> str:
    """The keys that differ and may not, one a line. Loggers are not looked at: resolving them may need secrets."""
    before, after = (
        OmegaConf.masked_copy(config, [str(key) for key in config if key != "loggers"]) for config in (old, new)
    )
    problems = differences(before, after, free)
    if new.num_rounds < old.num_rounds:
        problems.append(f"num_rounds: {old.num_rounds} -> {new.num_rounds}; it may only grow")
    is_shared_out = new.get("privacy") is not None and new.privacy.get("noise_multiplier") is None
    if is_shared_out and new.num_rounds > old.num_rounds:
        problems.append(
            f"num_rounds: {old.num_rounds} -> {new.num_rounds}; the noise was made for the rounds that were planned, "
            "and further ones would go beyond privacy.epsilon"
        )
    return "\n  ".join(problems)
