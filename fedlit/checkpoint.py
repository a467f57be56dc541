"""Saves a run and brings it back: safetensors and JSON, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlit.errors import BadInput
from fedlit.files import write_atomically
from fedlit.fleet import Fleet
from fedlit.messages import Server, Slots, flatten, header, restore, tensors, unflatten
from fedlit.weights import Weights, dumps, load

FORMAT = 1


@dataclass(frozen=True)
class State:
    """A run between two rounds: the server, what the clients that live in this process remember, where the run stands.

    `progress` holds JSON values.
    """

    server: Server
    memories: Mapping[str, Slots] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run directory.

    `round-00012.json` names the tensor files that belong to it with their hashes; tensor files are named by their
    content, so what did not change is not written again. The last two rounds and the kept one stay.
    """

    def __init__(self, directory: Path, fleet: Fleet):
        self.directory = directory
        self.fleet = fleet
        self._written: dict[str, tuple[Slots, str]] = {}

    def save(self, state: State, *, kept: bool = False) -> None:
        """Save the state after a round. Every process writes what lives in it; the first one then writes the index.

        Raises:
            OSError: the disk is full or read-only; the checkpoints before stay as they were.
        """
        here = state.memories if self.fleet.workbench.team.is_first else {}  # all processes of a team remember the same
        memories = {name: self._write_memory(name, memory) for name, memory in here.items()}
        memories = {name: file for part in self.fleet.world.share(memories) for name, file in sorted(part.items())}
        if self.fleet.is_first:
            index = {
                "format": FORMAT,
                "server": {"header": header(state.server), "file": self._write(tensors(state.server))},
                "memories": memories,
                "progress": dict(state.progress),
            }
            content = json.dumps(index, indent=1).encode()
            if kept:  # first: a run killed in between repeats the round and writes the same again
                write_atomically(self.directory / "kept.json", content)
            write_atomically(self.directory / f"round-{state.server.round:05d}.json", content)
            self._clean()
        # nobody writes the next round's files while the first process still removes old ones
        self.fleet.world.share(None)

    def newest(self, warn: Callable[[str], None]) -> State | None:
        """The newest state that is whole in every process; None where nothing was saved.

        Raises:
            BadInput: checkpoints are there and none is whole.
        """
        names = sorted((path.name for path in self.directory.glob("round-*.json")), reverse=True)
        first_problem = ""
        for name in names:
            try:
                return self.load(name)
            except BadInput as error:
                warn(f"{error}; going back to the checkpoint before")
                first_problem = first_problem or str(error)
        if names:
            raise BadInput(
                f"no checkpoint in {self.directory} is whole: {first_problem}; start anew with overwrite=true"
            )
        return None

    def kept(self) -> State:
        """The state of the kept round, of the last one where none was chosen."""
        return self.load(kept_name(self.directory))

    def load(self, name: str) -> State:
        """The state saved under a name, with the memories of the clients that live in this process; see `read_state`.

        Raises:
            BadInput: in every process, if any cannot read its part.
        """
        problem = ""
        try:
            state = read_state(self.directory, name, self.fleet.lives_here)
        except BadInput as error:
            problem = str(error)
        problems = [each for each in self.fleet.world.share(problem) if each]
        if problems:
            raise BadInput(problems[0])
        return state

    def _write_memory(self, name: str, memory: Slots) -> str:
        before = self._written.get(name)
        if before is None or before[0] is not memory:
            self._written[name] = (memory, self._write(flatten(memory)))
        return self._written[name][1]

    def _write(self, weights: Weights) -> str:
        content = dumps(weights)
        name = f"{hashlib.sha256(content).hexdigest()}.safetensors"
        self.directory.mkdir(parents=True, exist_ok=True)
        if not is_whole(self.directory / name):  # a round that is repeated mends what was damaged
            write_atomically(self.directory / name, content)
        return name

    def _clean(self) -> None:
        """Remove all but the last two rounds, the tensor files that no index names any more, and torn ones."""
        for old in sorted(self.directory.glob("round-*.json"))[:-2]:
            old.unlink()
        named = set()
        for path in self.directory.glob("*.json"):
            index = read_index(path)
            named |= {index["server"]["file"], *index["memories"].values()}
        for path in [*self.directory.glob("*.safetensors"), *self.directory.glob(".*.tmp")]:
            if path.name not in named:
                path.unlink()


def kept_name(directory: Path) -> str:
    """The index of the kept round, of the last one where none was chosen.

    Raises:
        BadInput: no round is saved.
    """
    if (directory / "kept.json").exists():
        return "kept.json"
    rounds = sorted(path.name for path in directory.glob("round-*.json"))
    if not rounds:
        raise BadInput(f"{directory}: no round is saved; has this run completed one?")
    return rounds[-1]


def kept_round(directory: Path) -> int:
    """The number of the round that `kept_name` names. Raises as that and `read_index` do."""
    return read_index(directory / kept_name(directory))["server"]["header"]["round"]


def seconds_per_picture(directory: Path) -> dict[str, float]:
    """By client, what an earlier part of the run has measured; nothing where there is none."""
    for path in sorted(directory.glob("round-*.json"), reverse=True):
        try:
            work = read_index(path)["progress"].get("work", {})
        except BadInput:  # said when the state is read
            continue
        return {client: seconds / pictures for client, (seconds, pictures) in work.items() if pictures}
    return {}


def read_state(directory: Path, name: str, is_wanted: Callable[[str], bool] = lambda client: True) -> State:
    """The state that an index such as `kept.json` or `round-00012.json` names, with the memories of the wanted clients.

    Raises:
        BadInput: missing, damaged, or of another version.
    """
    index = read_index(directory / name)
    server = restore(Server, index["server"]["header"], _read(directory, index["server"]["file"]))
    wanted = {client: file for client, file in index["memories"].items() if is_wanted(client)}
    memories = {client: unflatten(_read(directory, file)) for client, file in wanted.items()}
    return State(server, memories, index["progress"])


def read_index(path: Path) -> dict[str, Any]:
    """What an index holds.

    Raises:
        BadInput: missing, damaged, or of another version.
    """
    try:
        index = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such checkpoint; has this run completed a round?") from None
    except (ValueError, OSError) as error:
        raise BadInput(f"checkpoint {path} is damaged: {error}; remove it to go back to the one before") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT or not {"server", "memories"} <= index.keys():
        raise BadInput(f"checkpoint {path} is not of the format {FORMAT} that this fedlit reads")
    return index


def is_whole(path: Path) -> bool:
    """A file is there, and its content has the hash that it is named by."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


def _read(directory: Path, name: str) -> Weights:
    path = directory / name
    if Path(name).name != name or not path.is_file():
        raise BadInput(f"checkpoint file {path} is missing")
    if not is_whole(path):
        raise BadInput(f"checkpoint file {path} is damaged: its content does not have the hash it is named by")
    return load(path)[0]
