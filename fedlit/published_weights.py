"""Published weights of SAM and its medical kin: where each is, under which licence, and a way to fetch it."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit.download import download
from fedlit.errors import BadInput


@dataclass(frozen=True)
class Published:
    """Weights that load into segment-anything's layout unchanged.

    Args:
        name: what `fedlit weights` calls them.
        size: network.size.
        url: the file, or with `is_page` a web page from which a person takes it.
        licence: of the weights, as the source states it.
        source: where the publisher states all this.
        file: the name to save it under.
        num_megabytes: decimal and rounded, for the table alone.
        sha256: only where the publisher states it.
        md5_begins: likewise, the first hexadecimal digits of the MD5.
        unchecked_hash: likewise, of a kind that Python's standard library cannot compute.
        note: the paper, and what else to know.
    """

    name: str
    size: str
    url: str
    licence: str
    source: str
    file: str
    num_megabytes: int
    sha256: str | None = None
    md5_begins: str | None = None
    unchecked_hash: str | None = None
    is_page: bool = False
    note: str = ""

    @property
    def stated_hash(self) -> str:
        if self.sha256:
            return f"sha256 {self.sha256}"
        if self.md5_begins:
            return f"MD5 begins {self.md5_begins}"
        return self.unchecked_hash or "none stated"


def _of_meta(size: str, md5_begins: str, num_megabytes: int) -> Published:
    file = f"sam_{size}_{md5_begins}.pth"
    return Published(
        name=f"sam_{size}",
        size=size,
        url=f"https://dl.fbaipublicfiles.com/segment_anything/{file}",
        licence="Apache-2.0",
        source="https://github.com/facebookresearch/segment-anything",
        file=file,
        num_megabytes=num_megabytes,
        md5_begins=md5_begins,
        note="Kirillov et al., ICCV 2023. The name ends in the first digits of the file's MD5.",
    )


PUBLISHED = (
    _of_meta("vit_b", "01ec64", 375),
    _of_meta("vit_l", "0b3195", 1250),
    _of_meta("vit_h", "4b8939", 2565),
    Published(
        name="medsam_vit_b",
        size="vit_b",
        url="https://drive.google.com/drive/folders/1ETWmi4AiniJeWOt6HAsYgTjYv_fkgzoN",
        licence="Apache-2.0",
        source="https://github.com/bowang-lab/MedSAM",
        file="medsam_vit_b.pth",
        num_megabytes=375,
        is_page=True,
        note="Ma et al., Nature Communications 2024. A copy is Zenodo record 10689643; by whom is not confirmed.",
    ),
    Published(
        name="medicosam_vit_b",
        size="vit_b",
        url="https://owncloud.gwdg.de/index.php/s/f5Ol4FrjPQWfjUF/download",
        licence="MIT",
        source="https://github.com/computational-cell-analytics/medico-sam",
        file="vit_b_medicosam.pt",
        num_megabytes=375,
        unchecked_hash="xxh128 40169f1e3c03a4b67bff58249c176d92",
        note="Archit et al., IEEE TMI 2025. Its hash is not checked here: compare it with xxh128sum.",
    ),
)


def show(console: Console, listed: Sequence[Published] = PUBLISHED) -> None:
    """Print the list, then each address on a line of its own that no terminal's width breaks."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("name", "network.size", "MB", "licence", "hash"):
        table.add_column(title, justify="right" if title == "MB" else "left", overflow="fold")
    for each in listed:
        row = (each.name, each.size, str(each.num_megabytes), each.licence, each.stated_hash)
        table.add_row(*map(Text, row))
    console.print(table)
    for each in listed:
        _say(console, "")
        _say(console, f"{each.name}: {each.url}{' (a web page, no direct link)' if each.is_page else ''}")
        _say(console, f"  published at {each.source}")
        _say(console, f"  {each.note}")
    _say(console, "\nFetch one: fedlit weights NAME --out FOLDER")


def fetch(name: str, folder: str | Path, console: Console, listed: Sequence[Published] = PUBLISHED) -> Path:
    """Fetch weights into a folder, check what can be checked, and say how to use them.

    A file that is already there is checked and not fetched again.

    Raises:
        BadInput: no such name, no direct link, no network, or not the file that was published.
    """
    found = {each.name: each for each in listed}.get(name)
    if found is None:
        names = ", ".join(each.name for each in listed)
        raise BadInput(f"{name}: no published weights of that name; there are {names}")
    path = Path(folder) / found.file
    usage = f"network.size={found.size} {shlex.quote(f'network.checkpoint={path}')}"
    by_hand = f"take {found.file} from {found.url} where there is a network, save it as {path} and set {usage}"
    if path.exists():
        if problem := _wrong_hash(found, path):
            raise BadInput(f"{path}: there already, but {problem}; delete it and run the same command again")
        _say(console, f"{path} is there already and was not fetched again")
    elif found.is_page:
        raise BadInput(f"{name}: its publisher has a web page and no direct link; {by_hand}")
    else:
        download(found.url, path, console, problem=lambda it: _wrong_hash(found, it), way_out=by_hand)
    from fedlit.networks.sam_checkpoint import describe  # loads torch

    _say(console, describe(path))
    if found.unchecked_hash:
        _say(console, f"its publisher states {found.unchecked_hash}, which was not checked")
    _say(console, f"licence {found.licence}, see {found.source}")
    _say(console, f"use it with {usage}")
    return path


def _wrong_hash(found: Published, path: Path) -> str:
    """What is wrong where the bytes are not those that the publisher states; else nothing."""
    with open(path, "rb") as file:
        if found.sha256 and (digest := hashlib.file_digest(file, "sha256").hexdigest()) != found.sha256:
            return f"its sha256 is {digest}, not {found.sha256}: incomplete, or another file"
        file.seek(0)
        if found.md5_begins:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if not digest.startswith(found.md5_begins):
                return f"its MD5 begins {digest[:6]}, not {found.md5_begins}: incomplete, or another file"
    return ""


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
