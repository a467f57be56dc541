"""The long result table of a run and its provenance.

`Record` owns metrics.csv and cases.csv of a run directory; `summarise` turns their rows into the numbers people quote,
the worst site first.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fedlit.errors import BadInput
from fedlit.seeding import address


class MetricRow(NamedTuple):
    """A line of metrics.csv: one number of one site. The key is all before `value`; NaN is an empty cell."""

    round: int
    site: str
    role: str
    model: str
    split: str
    metric: str
    value: float
    num_cases: int


class CaseRow(NamedTuple):
    """A line of cases.csv: one number of one case and class. The key is all before `value`; None is excluded."""

    round: int
    site: str
    case: str
    model: str
    split: str
    class_name: str
    metric: str
    value: float | None


# ---------------------------------------------------------------------------------------------------------- the tables


class Record:
    """metrics.csv and cases.csv of one run directory. One process writes at a time (the run's lock sees to that)."""

    def __init__(self, run_dir: str | Path):
        self.run_dir = Path(run_dir)
        self._metrics = _Table(self.run_dir / "metrics.csv", MetricRow)
        self._cases = _Table(self.run_dir / "cases.csv", CaseRow)

    def add(self, rows: Iterable[MetricRow], cases: Iterable[CaseRow] = ()) -> None:
        """Append rows; a row whose key is there is replaced. Only that, or an earlier round, rewrites a file."""
        self._cases.add(list(cases))
        self._metrics.add(list(rows))

    def truncate(self, after_round: int) -> None:
        """Remove what later rounds wrote, before a resumed run writes it again."""
        self._cases.truncate(after_round)
        self._metrics.truncate(after_round)

    def metrics(self) -> Iterator[MetricRow]:
        """Rows of metrics.csv in order; a last line torn by kill -9 is not one. Raises BadInput on any other damage."""
        return self._metrics.rows()

    def cases(self) -> Iterator[CaseRow]:
        """Rows of cases.csv, likewise."""
        return self._cases.rows()


class _Table:
    """A CSV file of NamedTuples that appends where it can; it remembers only the last round, so memory stays flat."""

    def __init__(self, path: Path, row_type: type[MetricRow] | type[CaseRow]):
        self.path, self.row_type = path, row_type
        self.num_key = row_type._fields.index("value")
        self.header = ",".join("class" if name == "class_name" else name for name in row_type._fields) + "\n"
        self.tail: tuple[int, set[tuple]] | None = None  # last round and its keys; None: not known, look at the file

    def rows(self) -> Iterator[Any]:
        if not self.path.exists():
            return
        # newline="\n": only the writer's line end counts, and a name never contains it (see _line).
        with open(self.path, newline="\n", encoding="utf-8", errors="replace") as file:
            header = file.readline()
            if header != self.header and header.endswith("\n"):
                raise BadInput(f"{self.path}, line 1: columns are {header.strip()!r}, expected "
                               f"{self.header.strip()!r}; move the file away or start anew with overwrite=true")
            for number, fields in enumerate(csv.reader(line for line in file if line.endswith("\n")), 2):
                yield self._parse(fields, number)

    def add(self, rows: list) -> None:
        if not rows:
            return
        new = {tuple(row[: self.num_key]): row for row in rows}
        last, keys = self.tail or self._look()
        self.tail = None  # until the write is known to have worked
        if any(row.round < last for row in rows) or not keys.isdisjoint(new):
            self._rewrite(new, after_round=None)
            return
        text = "".join(_line(row) for row in new.values()).encode()
        with open(self.path, "ab") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        newest = max(row.round for row in rows)
        self.tail = newest, {key for key in new if key[0] == newest} | (keys if newest == last else set())

    def truncate(self, after_round: int) -> None:
        if any(row.round > after_round for row in self.rows()):
            self._rewrite({}, after_round=after_round)

    def _look(self) -> tuple[int, set[tuple]]:
        """Make the file end in a whole line, then find the last round and its keys."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            end = size = file.seek(0, os.SEEK_END)
            while end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                end -= 1
            if end < size:
                file.truncate(end)
            if end == 0:
                file.write(self.header.encode())
        last, keys = -1, set[tuple]()
        for row in self.rows():
            if row.round > last:
                last, keys = row.round, set()
            if row.round == last:
                keys.add(tuple(row[: self.num_key]))
        return last, keys

    def _rewrite(self, new: dict[tuple, Any], *, after_round: int | None) -> None:
        """One pass over the file into a new one, row by row: replaced rows keep their place, new ones go to the end."""
        new = dict(new)
        with replacing(self.path) as file:
            file.write(self.header.encode())
            for row in self.rows():
                if after_round is None or row.round <= after_round:
                    file.write(_line(new.pop(tuple(row[: self.num_key]), row)).encode())
            file.write("".join(_line(row) for row in new.values()).encode())
        self.tail = None

    def _parse(self, fields: list[str], number: int) -> MetricRow | CaseRow:
        try:
            cells: list[Any] = [int(fields[0]), *fields[1 : self.num_key]]
            value = fields[self.num_key]
            if self.row_type is CaseRow:
                return CaseRow._make([*cells, float(value) if value else None])
            return MetricRow._make([*cells, float(value) if value else math.nan, int(fields[-1])])
        except (ValueError, TypeError, IndexError):
            raise BadInput(f"{self.path}, line {number}: {','.join(fields)!r} is not {self.header.strip()!r}; the "
                           "file was changed or damaged: remove the line or start anew with overwrite=true") from None


def _line(row: MetricRow | CaseRow) -> str:
    cells: list[object] = []
    for name, cell in zip(row._fields, row, strict=True):
        if name == "value":
            # repr is read back to the same bits
            cell = "" if row.value is None or math.isnan(row.value) else repr(float(row.value))
        elif isinstance(cell, str) and re.search(r"[\r\n\0]", cell):
            raise BadInput(f"{name} {cell!r} contains a line break; rename it")
        cells.append(cell)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


# ------------------------------------------------------------------------------------------------------- the summaries


def case_means(cases: Iterable[CaseRow]) -> dict[tuple[int, str, str, str, str], dict[str, float | None]]:
    """(round, site, model, split, metric) -> {case: mean over its classes}; None where every class is excluded."""
    classes: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in cases:
        values = classes[row.round, row.site, row.model, row.split, row.metric][row.case]
        if row.value is not None and not math.isnan(row.value):
            values.append(row.value)
    return {key: {case: _mean(values) if values else None for case, values in group.items()}
            for key, group in classes.items()}


def site_metrics(cases: Iterable[CaseRow], roles: Mapping[str, str]) -> list[MetricRow]:
    """One row per site and metric: the mean over cases of the mean over classes, excluded ones left out.

    `roles`: site -> role. A site without any counted case has the value NaN (an empty cell) and num_cases 0.
    """
    rows = []
    for (round, site, model, split, metric), means in case_means(cases).items():
        counted = [value for value in means.values() if value is not None]
        value = _mean(counted) if counted else math.nan
        rows.append(MetricRow(round, site, roles[site], model, split, metric, value, len(counted)))
    return rows


def summarise(
    cases: Iterable[CaseRow], metrics: Iterable[MetricRow], *, round: int, model: str, split: str = "test"
) -> dict[str, Any]:
    """The numbers of one round and model, the worst site first; Dice in 0..1, distances in the unit their metric names.

    Returns worst_site, worst_dice, gap (best - worst), mean_dice, std_dice (population, over sites), all over the
    member sites (over what there is where there are none); unseen_worst_site, unseen_worst_dice, unseen_mean_dice where
    sites are unseen; round, model, split; and sites, the worst first:
    {name: {role, metric: {mean, std (sample, over cases), ci_low, ci_high, num_cases, num_excluded}}}.
    The interval is a 95 % percentile bootstrap over cases, None for one case; num_excluded counts values, so up to one
    per class of a case.
    """
    here = [row for row in cases if (row.round, row.model, row.split) == (round, model, split)]
    roles = {row.site: row.role for row in metrics if (row.round, row.model, row.split) == (round, model, split)}
    excluded = Counter((row.site, row.metric) for row in here if row.value is None or math.isnan(row.value))
    sites: dict[str, dict] = {site: {"role": role} for site, role in roles.items()}
    for (_, site, _, _, metric), means in case_means(here).items():
        values = [value for _, value in sorted(means.items()) if value is not None]  # row order must not matter
        spread = _spread(values, seed=address("bootstrap", site, metric))
        sites[site][metric] = {**spread, "num_excluded": excluded[site, metric]}
    dice = {site: scores["dice"]["mean"] for site, scores in sites.items() if "dice" in scores}
    dice = {site: mean for site, mean in dice.items() if mean is not None}
    order = sorted(sites, key=lambda site: (site not in dice, dice.get(site, 0.0), site))
    ranked = [site for site in order if site in dice]
    main = [site for site in ranked if roles[site] == "member"] or ranked
    summary: dict[str, Any] = {"round": round, "model": model, "split": split}
    if main:
        values = [dice[site] for site in main]
        summary |= {"worst_site": main[0], "worst_dice": values[0], "gap": values[-1] - values[0],
                    "mean_dice": _mean(values), "std_dice": float(np.std(values))}
    else:
        summary |= dict.fromkeys(("worst_site", "worst_dice", "gap", "mean_dice", "std_dice"))
    if unseen := [site for site in ranked if roles[site] == "unseen"]:
        summary |= {"unseen_worst_site": unseen[0], "unseen_worst_dice": dice[unseen[0]],
                    "unseen_mean_dice": _mean([dice[site] for site in unseen])}
    return summary | {"sites": {site: sites[site] for site in order}}


def _spread(values: Sequence[float], *, seed: int) -> dict[str, float | int | None]:
    low, high = bootstrap_interval(values, seed=seed) if len(values) > 1 else (None, None)
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    mean = _mean(values) if values else None
    return {"mean": mean, "std": std, "ci_low": low, "ci_high": high, "num_cases": len(values)}


def bootstrap_interval(values: Sequence[float], *, seed: int, num_resamples: int = 2000) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean. Efron, Annals of Statistics 1979."""
    if min(values) == max(values):
        mean = _mean(values)
        return mean, mean
    array, generator, means = np.asarray(values, dtype=np.float64), np.random.default_rng(seed), []
    block = max(1, 1_000_000 // len(array))  # at most 8 MB of indices at once
    for start in range(0, num_resamples, block):
        picks = generator.integers(len(array), size=(min(block, num_resamples - start), len(array)))
        means.append(array[picks].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)  # the same in whatever order the cases come


# ------------------------------------------------------------------------------------------------------ the provenance

_SECRET = r"[\w.\-]*(?:token|passw(?:or)?d|secret)[\w.\-]*|[\w.\-]*key"
PACKAGES = ("fedlit", "torch", "torchvision", "lightning", "numpy", "scipy", "albumentations", "opencv-python-headless",
            "torchmetrics", "monai", "safetensors", "omegaconf", "segment-anything")


def is_secret(key: str) -> bool:
    """Whether the value of a (dotted) key must not be shown: token, password, secret, or a name ending in key."""
    return re.fullmatch(_SECRET, key, re.IGNORECASE) is not None


def masked(text: str) -> str:
    """`api_key=abc` -> `api_key=***`, `--token abc` -> `--token ***`, `https://user:pass@host` -> `https://***@host`."""
    value = r"""("[^"]*"|'[^']*'|[^\s'"]+)"""
    text = re.sub(rf"(?i)(?<![\w.\-])((?:--?)?(?:{_SECRET})=){value}", r"\1***", text)
    text = re.sub(rf"(?i)(--?(?:{_SECRET})\s+)(?!-){value}", r"\1***", text)
    return re.sub(r"(\w://)[^/\s@]+@", r"\1***@", text)


def anonymous(text: str) -> str:
    """A path without the person: the home directory becomes `~`, and so do the ones under /home and /Users."""
    home = os.path.expanduser("~")
    if home not in ("/", "~"):
        text = re.sub(rf"(?<![\w.]){re.escape(home)}(?![\w.\-])", "~", text)
    return re.sub(r"(?<![\w.])/(?:home|Users)/[^/\s'\"]+", "~", text)


def provenance(command: str | Sequence[str], manifest_fingerprint: str | None) -> dict:
    """Where a run comes from: versions, code, data, hardware, time, command. No user or host name; secrets masked."""
    import platform

    line = masked(command) if isinstance(command, str) else _masked_arguments(command)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": anonymous(line),
        "manifest": manifest_fingerprint,
        "code": _code(),
        "versions": {"python": platform.python_version()} | _versions(),
        "hardware": _hardware(),
        "os": platform.platform(),
    }


def _masked_arguments(arguments: Sequence[str]) -> str:
    words: list[str] = []
    for word in arguments:
        if words and words[-1].startswith("-") and "=" not in words[-1] and is_secret(words[-1].lstrip("-")):
            word = "***"
        key, equals, _ = word.partition("=")
        words.append(f"{key}=***" if equals and is_secret(key.lstrip("-")) else masked(word))
    return " ".join(word if word.endswith("***") else shlex.quote(word) for word in words)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _run(*command: str) -> str | None:
    """The output of a small program, or None where it is missing or fails."""
    try:
        environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()


def _code() -> dict[str, str | bool | None]:
    git = ("git", "-C", str(Path(__file__).parent))
    # An installed copy may lie inside somebody else's checkout: only a tracked file makes that commit ours.
    if _run(*git, "ls-files", "--error-unmatch", "record.py") is None:
        return {"commit": None, "dirty": None}
    changes = _run(*git, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _run(*git, "rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _hardware() -> dict[str, Any]:
    import platform

    import torch

    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(errors="replace")) if cpuinfo.exists() else None
    model = found.group(1) if found else sys.platform == "darwin" and _run("sysctl", "-n", "machdep.cpu.brand_string")
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        memory = None
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "num_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": memory and round(memory, 1),
        "gpus": gpus or (["Apple GPU (MPS)"] if torch.backends.mps.is_available() else []),
    }


# ----------------------------------------------------------------------------------------------------------- the files


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well, and leaves no trace when it does not."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """JSON in the order given. NaN and infinity, which JSON has not, become null."""
    with replacing(path) as file:
        file.write((json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(name: str) -> str:
    """A name fit for a terminal or a page: control characters, which could move the cursor, are replaced."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(name))


def save_picture(
    run_dir: str | Path, *, site: str, case: str, rank: str, model: str,
    image: np.ndarray, target: np.ndarray, prediction: np.ndarray, dice: float,
) -> Path:
    """Keep one scored picture for the report: image uint8 [H, W] or [H, W, 3]; target, prediction bool [K, H, W].

    `rank` is best, median or worst. There is one picture per (model, site, rank): a later one replaces it. The file
    name is readable, and a hash makes it unique.
    """
    assert rank in ("best", "median", "worst"), rank
    assert image.dtype == np.uint8 and image.shape[2:] in ((), (3,)), (image.dtype, image.shape)
    assert target.dtype == prediction.dtype == np.bool_, (target.dtype, prediction.dtype)
    assert target.shape == prediction.shape == (len(target), *image.shape[:2]), (target.shape, prediction.shape)
    digest = blake2b(json.dumps([model, site]).encode(), digest_size=6).hexdigest()
    readable = "-".join(re.sub(r"[^A-Za-z0-9_]+", "_", name)[:40] for name in (model, site))
    path = Path(run_dir) / "pictures" / f"{readable}-{digest}-{rank}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez_compressed(file, image=image, target=target, prediction=prediction, dice=np.float64(dice),
                            site=np.str_(site), case=np.str_(case), rank=np.str_(rank), model=np.str_(model))
    return path
