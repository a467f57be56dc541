"""An embedded federation: chest X-ray phantoms of hospitals that differ, drawn in seconds. No patient was involved."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from fedlit.data.checks import roles_of
from fedlit.data.manifest import SPLITS, refuse
from fedlit.data.outline import Outline, augmented_size
from fedlit.data.phantom_drawing import CODES, draw
from fedlit.data.phantom_hospitals import FURTHER, MEMBERS, SERVER, UNSEEN, Hospital, members
from fedlit.data.preparing import Preparation
from fedlit.data.site import Site
from fedlit.data.source import Manifest
from fedlit.files import replacing, write_atomically
from fedlit.seeding import address
from fedlit.storage import cache_folder, locked, writing_to

DRAWING = 2  # part of the cache's key: raise it when any pixel changes
MOST_MEMBERS = len(MEMBERS) + len(FURTHER)
COLUMNS = ("site", "image", "mask", "split", "group", "spacing")
LEAST = (2, 1, 1)  # train, val, test pictures of a site, however small the scale
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phantom:
    """Five members of very unequal size, an unseen site `rural` and the server's own data `server`.

    `seed` draws other patients for the same hospitals, `size` is a picture's side in pixels, `scale` multiplies the
    numbers of cases (the fewer are the first of the many). `num_members` is 1 to 15, the first five always the same.
    `labels` names the classes and their mask values: 1 right lung, 2 left lung, 3 heart; those left out are background.
    `image_size`, `channels`, `augment` and `cache_dir` are those of `Manifest`.
    """

    seed: int = 0
    size: int = 128
    scale: float = 1.0
    num_members: int = 5
    labels: Mapping[str, int | Sequence[int]] = field(default_factory=lambda: {"lung": [1, 2]})
    image_size: int | Sequence[int] | None = None
    channels: int = 1
    augment: Sequence | None = None
    cache_dir: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self._manifest().classes

    @property
    def values(self) -> tuple[tuple[int, ...], ...]:
        """The mask values of each class."""
        return self._manifest().values

    def preparation(self) -> Preparation:
        """What is done to a picture before the network sees it."""
        return self._manifest().preparation()

    def check(self) -> list[str]:
        """What is wrong with the settings; nothing is drawn."""
        problems = []
        if not 1 <= self.num_members <= MOST_MEMBERS:
            problems.append(f"data.num_members={self.num_members}; allowed are 1 to {MOST_MEMBERS}")
        if not 32 <= self.size <= 1024:
            problems.append(f"data.size={self.size}; allowed are 32 to 1024 pixels")
        if not 0 < self.scale <= 100:
            problems.append(f"data.scale={self.scale}; allowed are numbers above 0 and up to 100")
        if unknown := sorted(self._codes() - set(CODES), key=str):
            known = ", ".join(f"{code} {name}" for code, name in CODES.items())
            problems.append(f"data.labels: a phantom's mask has no value {unknown[0]}; it has {known}")
        return problems + self._manifest().setting_problems()

    def load(self, *, unseen_sites: Collection[str] | None = None, server_site: str | None = None) -> list[Site]:
        """The sites in order of their names, drawn on the first call. Where nothing is said, `rural` is unseen and
        `server` the server's; who names others, or none (`[]`), makes members of these."""
        unseen, server = _not_members(unseen_sites, server_site)
        return self._drawn().load(unseen_sites=unseen, server_site=server)

    def outline(self, *, unseen_sites: Collection[str] | None = None, server_site: str | None = None) -> list[Outline]:
        """See `Manifest.outline`; nothing is drawn."""
        if problems := self.check():
            refuse(problems, "The phantoms cannot be drawn")
        counts = {
            hospital.name: [self._num(*of_split) for of_split in zip(hospital.num_cases, LEAST, strict=True)]
            for hospital in self._hospitals()
        }
        unseen, server = _not_members(unseen_sites, server_site)
        roles = roles_of(counts.keys(), unseen_sites=unseen, server_site=server, seed_names={})
        for name in unseen:
            counts[name] = [0, 0, sum(counts[name])]
        visits = {each.name: _visits(each, "train", counts[each.name][0], self.seed) for each in self._hospitals()}
        patients = {name: len({patient for patient, _ in each}) for name, each in visits.items()}
        return [replace(Outline(name, roles[name], *counts[name]), patients=patients[name]) for name in sorted(counts)]

    def training_size(self) -> tuple[int, int] | None:
        """See `Manifest.training_size`."""
        return augmented_size(self.preparation().size or (self.size, self.size), self.augment, self.channels)

    def fingerprint(self) -> str:
        """See `Manifest.fingerprint`."""
        return self._drawn().fingerprint()

    def _drawn(self) -> Manifest:
        if problems := self.check():
            refuse(problems, "The phantoms cannot be drawn")
        folder = self._folder()
        if not folder.is_dir():
            with writing_to(cache_folder(self.cache_dir)), locked(folder):
                if not folder.is_dir():  # else another process has drawn them meanwhile
                    self._draw_into(folder)
        return self._manifest()

    def _draw_into(self, folder: Path) -> None:
        """Draws into a temporary folder, which gets its name when it is complete."""
        partial, start = folder.with_suffix(".partial"), perf_counter()
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        try:
            for name in ("images", "masks"):
                (partial / name).mkdir(parents=True)
            rows = [row for hospital in self._hospitals() for row in self._cases(hospital, partial)]
            write_atomically(partial / "sites.csv", "".join(f"{','.join(row)}\n" for row in (COLUMNS, *rows)))
            write_atomically(partial / "phantom.json", json.dumps(self._facts(), indent=1))
            os.rename(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        log.info("drew %d phantoms of %d px in %.1f s", len(rows), self.size, perf_counter() - start)

    def _cases(self, hospital: Hospital, folder: Path) -> Iterator[tuple[str, ...]]:
        """Draws one hospital's pictures and yields their rows of the manifest."""
        spacing = f"{hospital.field_mm / self.size:.4f}"
        for split, num, least in zip(SPLITS, hospital.num_cases, LEAST, strict=True):
            for patient, visit in _visits(hospital, split, self._num(num, least), self.seed):
                group = f"{split}{patient:03d}"
                image, mask = (f"{kind}/{hospital.name}_{group}_{visit}.png" for kind in ("images", "masks"))
                own = (self.seed, "phantom", hospital.name, split, patient)
                grey, codes = draw(hospital, address(*own), address(*own, visit), self.size)
                _save(folder / image, grey)
                _save(folder / mask, np.where(np.isin(codes, sorted(self._codes())), codes, 0).astype(np.uint8))
                yield hospital.name, image, mask, split, group, spacing

    def _num(self, num: int, least: int) -> int:
        """Pictures of a split that has `num` at scale 1."""
        return max(least, round(num * self.scale))

    def _hospitals(self) -> tuple[Hospital, ...]:
        return (*members(self.num_members), UNSEEN, SERVER)

    def _codes(self) -> set[int]:
        return {code for codes in self.labels.values() for code in ([codes] if isinstance(codes, int) else codes)}

    def _facts(self) -> dict:
        """All that decides the pixels."""
        return {
            "drawing": DRAWING,
            "seed": self.seed,
            "size": self.size,
            "scale": float(self.scale),
            "mask_values": sorted(self._codes(), key=str),
            "hospitals": [asdict(hospital) for hospital in self._hospitals()],
        }

    def _folder(self) -> Path:
        key = hashlib.sha256(json.dumps(self._facts()).encode()).hexdigest()[:16]
        return cache_folder(self.cache_dir) / "phantoms" / key

    def _manifest(self) -> Manifest:
        return Manifest(
            root=str(self._folder()),
            labels=self.labels,
            image_size=self.image_size,
            channels=self.channels,
            augment=self.augment,
            cache_dir=self.cache_dir,
        )


def _not_members(unseen_sites: Collection[str] | None, server_site: str | None) -> tuple[Collection[str], str]:
    """The unseen sites and the server's; where nothing is said, `rural` and `server`."""
    return (UNSEEN.name,) if unseen_sites is None else unseen_sites, server_site or SERVER.name


def _visits(hospital: Hospital, split: str, num: int, seed: int) -> Iterator[tuple[int, int]]:
    """The first `num` (patient, visit) of a split; each has its own address, so more cases do not change the first."""
    patient = 0
    while num > 0:
        returns = address(seed, "phantom", hospital.name, split, patient, "revisit") < hospital.revisits * 2**63
        for visit in range(min(num, 1 + returns)):
            yield patient, visit
            num -= 1
        patient += 1


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with replacing(path) as stream:
        Image.fromarray(pixels).save(stream, "PNG", compress_level=4)
