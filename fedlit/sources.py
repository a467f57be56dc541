"""Where settings are written: an experiment's file, what it includes, the parts fedlit ships, the command line."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlit.errors import BadInput
from fedlit.names import BUFFERS, closest
from fedlit.schema import EXCLUSIVE, GROUPS, INNER_GROUPS, NAMED_GROUPS, Problem, our_name

COMMAND_LINE = "command line"


class Layer(NamedTuple):
    """The assignments of one file, or of the command line."""

    values: dict[str, Any]
    origin: str
    folder: Path


def shipped(name: str | Path) -> Path:
    """The file that comes with fedlit: `quickstart`, `configs/quickstart.yaml`, `algorithm/fedavg`, `base`.

    Raises:
        BadInput: there is none of that name; the message lists those there are.
    """
    inside = Path(__file__).parent / "configs"
    root = inside if inside.is_dir() else inside.parent.parent / "configs"  # in a wheel, in a checkout
    bare = re.sub(r"^configs/|\.ya?ml$", "", Path(name).as_posix())
    files = {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}
    if bare in files or f"base/{bare}" in files:
        return files.get(bare) or files[f"base/{bare}"]
    group = bare.rpartition("/")[0] if (root / bare).parent.is_dir() else ""
    names = [each.rpartition("/")[2] for each in files if each.rpartition("/")[0] == group]
    close = closest(bare.rpartition("/")[2], names)
    meant = f"did you mean {close}? " if close else ""
    raise BadInput(f"{name}: no such file, and fedlit ships none of that name; {meant}it ships {', '.join(names)}")


def with_included(file: Path, above: tuple[Path, ...] = ()) -> Iterator[Layer]:
    file = file.resolve()
    if file in above:
        raise BadInput(f"include goes in a circle: {' -> '.join(path.name for path in (*above, file))}")
    values = read_mapping(file)
    if "_target_" in values:
        raise BadInput(f"{_shown(file)} is one node, no experiment; choose it by `{file.parent.name}: {file.stem}`")
    included = values.pop("include", None) or []
    for name in [included] if isinstance(included, str) else included:
        yield from with_included(_named(str(name), "", file.parent), (*above, file))
    yield Layer(values, _shown(file), file.parent)


def _named(name: str, group: str, folder: Path) -> Path:
    """A file by its path (with suffix, relative to the file that names it), or a shipped one by its bare name."""
    if not name.endswith((".yaml", ".yml")):
        return shipped(f"{group}/{name}" if group else name)
    if not (folder / name).is_file():
        raise BadInput(f"{folder / name}: no such file; a name without suffix means a shipped one")
    return folder / name


def read_mapping(file: Path) -> dict[str, Any]:
    """What a YAML file says, as plain values.

    Raises:
        BadInput: it cannot be read, or is no mapping.
    """
    return _parsed(_text(file), _shown(file))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: cannot be read: {error}") from None


def _parsed(text: str, origin: str) -> dict[str, Any]:
    try:
        for token in yaml.scan(text):
            if isinstance(token, yaml.TagToken):
                tag, line = "".join(filter(None, token.value)), token.start_mark.line + 1
                raise BadInput(f"{origin}, line {line}: the YAML tag {tag} is refused; write plain values")
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
    except yaml.MarkedYAMLError as error:
        raise BadInput(f"{origin}: is no valid configuration: {unquoted(error) or error}") from None
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise BadInput(f"{origin}: is no valid configuration: {error}") from None
    if not isinstance(values, dict):
        raise BadInput(f"{origin}: expected `key: value` lines, got a list")
    return {str(key): value for key, value in values.items()}


def unquoted(error: yaml.MarkedYAMLError) -> str:
    """What to do about a pattern such as * or *norm*, which YAML takes for an alias; empty for any other error."""
    if error.context != "while scanning an alias" and "undefined alias" not in (error.problem or ""):
        return ""
    mark = error.context_mark or error.problem_mark
    line = f"line {mark.line + 1}: " if mark and mark.line else ""
    return f'{line}a value that begins with * needs quotes; write ["*"] for [*], or "*norm*" for *norm*'


def words(overrides: Iterable[str]) -> dict[str, Any]:
    values = {}
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise BadInput(f"{word!r} is no key=value")
        key = re.sub(r"\[(\d+)\]", r".\1", key.strip())  # augment[0].p is augment.0.p
        values[key] = _parsed(f"value: {value}", f"{COMMAND_LINE}, {word!r}")["value"]
    return values


def _shown(file: Path) -> str:
    return file.relative_to(Path.cwd()).as_posix() if file.is_relative_to(Path.cwd()) else str(file)


@dataclass
class Reading:
    """What the layers read so far say together."""

    tree: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, layer: Layer) -> None:
        values = self._renamed(layer)
        for one, other in (*EXCLUSIVE, *(pair[::-1] for pair in EXCLUSIVE)):
            if values.get(one) is not None and other not in values:
                self.tree.pop(other, None)  # the later of two that exclude each other wins
        for key in sorted(values, key=lambda key: key.count(".")):
            try:
                self._assign(key, values[key], layer)
            except BadInput as error:
                self.problems.append(Problem(key, str(error), layer.origin))

    def _renamed(self, layer: Layer) -> dict[str, Any]:
        renamed: dict[str, Any] = {}
        for key, value in layer.values.items():
            first, dot, rest = key.partition(".")
            ours = our_name(first)
            if ours + dot + rest in renamed:
                self.problems.append(Problem(ours + dot + rest, f"is given twice, once as {key}", layer.origin))
            if ours != first:
                self.notices.append(f"{first} is called {ours} here")
            if ours == "buffers" and isinstance(value, str) and value in BUFFERS:
                self.notices.append(f"buffers={value} is called buffers={BUFFERS[value]} here")
                value = BUFFERS[value]
            renamed[ours + dot + rest] = value
        return renamed

    def _assign(self, key: str, value: Any, layer: Layer) -> None:
        first, *rest = key.split(".")
        for part in reversed(rest):
            value = {part: value}
        value, whole = _expanded(first, value, layer.folder)
        old = self.tree.get(first)
        for leaf, _ in flat(value, first):
            self.sources[leaf] = layer.origin
        if not whole and layer.origin != COMMAND_LINE and _target(value) and _target(value) != _target(old):
            whole = True
            dropped = ", ".join(sorted(old.keys() - value.keys())) if isinstance(old, dict) else ""
            if dropped:
                how = f"{first}: {layer.origin} names its own _target_, so what it includes is dropped: {dropped}"
                self.notices.append(how)
        self.tree[first] = _merged(None if whole else old, value, first)


class Replacing(dict):
    """A node that a bare name stands for: nothing of what was there is left."""


def _target(value: Any) -> str | None:
    return value.get("_target_") if isinstance(value, dict) else None


def _merged(old: Any, new: Any, key: str) -> Any:
    if isinstance(old, list) and isinstance(new, dict) and new and all(str(name).isdigit() for name in new):
        if max(map(int, new)) >= len(old):
            raise BadInput(f"{key} has {len(old)} items, counted from 0; there is no {key}.{max(map(int, new))}")
        return [_merged(item, new[str(i)], f"{key}.{i}") if str(i) in new else item for i, item in enumerate(old)]
    if not isinstance(new, dict):
        return new
    if not isinstance(old, dict) or isinstance(new, Replacing):
        old = {}
    return old | {name: _merged(old.get(name), value, f"{key}.{name}") for name, value in new.items()}


def _expanded(group: str, value: Any, folder: Path) -> tuple[Any, bool]:
    """Bare names become the nodes of their files; and whether the value is to replace what was there."""

    def read(name: str) -> dict[str, Any]:
        return _read(name, group, folder)

    if group in GROUPS and _is_name(value):
        return read(value), True
    if group not in NAMED_GROUPS:
        return _inside(group, value, folder), False
    if isinstance(value, Mapping):
        return {name: read(item) if _is_name(item) else item for name, item in value.items()}, False
    names = [value] if _is_name(value) else value
    if isinstance(names, list) and all(map(_is_name, names)):
        return {Path(name).stem: read(name) for name in names}, True
    return value, False


def _inside(group: str, value: Any, folder: Path) -> Any:
    """A node, in which bare names of inner nodes have become those."""
    if not isinstance(value, Mapping):
        return value
    inner = {name: kind for name, kind in INNER_GROUPS.get(group, {}).items() if name in value}
    return {**value} | {
        name: Replacing(_read(value[name], kind, folder))
        if _is_name(value[name])
        else _inside(kind, value[name], folder)
        for name, kind in inner.items()
    }


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != "???" and not value.startswith("${")


def _read(name: str, group: str, folder: Path) -> dict[str, Any]:
    return read_mapping(_named(name, group, folder))


def flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf; a list without mappings is one leaf."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, Sequence) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from flat(item, f"{key}.{index}")
    else:
        yield key, value
