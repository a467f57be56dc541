"""Data from a manifest: every picture checked, decoded once and handed out by site."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedlit.data.augmentation import Augmentation, plain
from fedlit.data.cache import Files, file_hashes, packed
from fedlit.data.checks import (
    duplicates,
    listed_twice,
    no_training,
    patients_in_two_splits,
    remarks_on,
    roles_of,
)
from fedlit.data.manifest import (
    SPLITS,
    Row,
    dealt,
    manifest_problems,
    read_manifest,
    refuse,
    resplit,
    split_by_group,
)
from fedlit.data.outline import Outline, augmented_size, outlines
from fedlit.data.pictures import Pictures
from fedlit.data.preparing import INTENSITIES, Preparation
from fedlit.data.site import Site
from fedlit.data.slices import case_of, cases_of, slice_problems
from fedlit.errors import BadInput
from fedlit.storage import cache_folder


@dataclass(frozen=True)
class Manifest:
    """The sites of a manifest (see `manifest.read_manifest` for its columns).

    `labels` names the classes and their mask values, {"lung": 255} or {"cup": 0, "disc": [0, 128]}; classes may share
    values. `background` is the value of no class; any other value is an error. `image_size` is one side, (H, W), or
    None for the pictures' own sizes; both sides are resized, so the aspect ratio may change. `channels` is 1 (colour
    becomes luminance) or 3 (grey is repeated). `intensity`: see `preparing.Preparation`. `augment`: transforms for
    training, see `augmentation.Augmentation`. `fractions` (train, val, test) and `split_seed` divide the patients of a
    manifest without a split column. `resplit_seed` deals every site's patients anew into its train, val and test, see
    `manifest.resplit`; None leaves them where the manifest has them. `deal_seed` deals the members' training
    patients at random among them, see `manifest.dealt`; None leaves them at their hospitals. `allow_duplicates` lets
    one picture stand at two sites or in two splits. `seed_names` gives sites the seeds of another name. `cache_dir`:
    see `storage.cache_folder`.
    """

    root: str
    labels: Mapping[str, int | Sequence[int]]
    background: int = 0
    file: str = "sites.csv"
    image_size: int | Sequence[int] | None = None
    channels: int = 1
    intensity: str = "auto"
    augment: Sequence | None = None
    fractions: Sequence[float] = (0.7, 0.1, 0.2)
    split_seed: int = 0
    resplit_seed: int | None = None
    deal_seed: int | None = None
    allow_duplicates: bool = False
    seed_names: Mapping[str, str] | None = None
    cache_dir: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.labels)

    @property
    def values(self) -> tuple[tuple[int, ...], ...]:
        """The mask values of each class."""
        return tuple(self._values().values())

    def check(self) -> list[str]:
        """What is wrong with the settings and the manifest's columns; no row and no picture is looked at."""
        return self.setting_problems() + manifest_problems(self.root, self.file)

    def load(self, *, unseen_sites: Collection[str] | None = None, server_site: str | None = None) -> list[Site]:
        """The sites in order of their names; without `unseen_sites` there are none.

        Raises one `BadInput` with all problems of the manifest's cells, or else of what the files hold.
        """
        return self._loaded(*self._assigned(unseen_sites or (), server_site))

    def load_unseen(self) -> list[Site]:
        """All sites as hospitals that the training never knew: every picture is a test case. Raises as `load` does."""
        if problems := self.check():
            refuse(problems, "The data cannot be loaded")
        rows = [replace(row, split="test") for row in self.rows()]
        problems = listed_twice(rows, file=self.file) + slice_problems(rows, file=self.file)
        return self._loaded(rows, {row.site: "unseen" for row in rows}, problems)

    def outline(self, *, unseen_sites: Collection[str] | None = None, server_site: str | None = None) -> list[Outline]:
        """The sites in order of their names by their numbers alone: no picture is decoded.

        Raises `BadInput` as `load` does, for what the manifest says and not for what the files hold.
        """
        rows, roles, problems = self._assigned(unseen_sites or (), server_site)
        if problems:
            refuse(problems, f"The data in {self.root} have problems")
        return outlines(self._dealt(rows, roles), roles)

    def training_size(self) -> tuple[int, int] | None:
        """(H, W) of the pictures that are trained on, augmented; None where they are not all of one size."""
        return augmented_size(self._size(), self.augment, self.channels)

    def fingerprint(self) -> str:
        """The sha256 over what the manifest says and what its files hold; the order of rows does not matter."""
        rows = self.rows()
        digests = self._digests(rows)
        facts = sorted(
            (row.site, row.name, row.split, row.group, row.spacing or (), digests[row.image], digests[row.mask])
            + (() if row.slice is None else tuple(row.slice))
            for row in rows
        )
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def contents(self) -> dict[str, str]:
        """By the sha256 of its file, where a picture is from."""
        rows = self.rows()
        digests = self._digests(rows)
        return {digests[row.image]: f"{Path(self.root) / row.name} ({row.site}, {row.split})" for row in rows}

    def setting_problems(self) -> list[str]:
        """What is wrong with the settings alone."""
        problems = []
        values = [value for own in self._values().values() for value in own]
        if not values or not all(isinstance(value, int) for value in values):
            found = plain(self.labels)
            problems.append(f"data.labels={found}; needs a whole number or several for each class, such as lung: 255")
        elif self.background in values:
            named = ", ".join(name for name, own in self._values().items() if self.background in own)
            problems.append(f"data.background={self.background} is also a value of {named}; name the value of no class")
        elif len(set(values)) > 254:
            problems.append(f"data.labels has {len(set(values))} values; at most 254 are possible")
        if self.channels not in (1, 3):
            problems.append(f"data.channels={self.channels}; allowed are 1 and 3")
        if self.intensity not in INTENSITIES:
            problems.append(f"data.intensity={self.intensity!r}; allowed are {', '.join(INTENSITIES)}")
        size = self._size()
        if size is not None and (len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)):
            problems.append(f"data.image_size={plain(self.image_size)}; needs one side or [H, W] in pixels")
        return problems + (Augmentation(tuple(self.augment)).check() if self.augment else [])

    def _assigned(
        self, unseen_sites: Collection[str], server_site: str | None
    ) -> tuple[list[Row], dict[str, str], list[str]]:
        """The rows with the splits of their sites' roles, the roles, and what is wrong with the rows together."""
        if problems := self.check():
            refuse(problems, "The data cannot be loaded")
        rows = self.rows()
        roles = roles_of(
            {row.site for row in rows},
            unseen_sites=unseen_sites,
            server_site=server_site,
            seed_names=self.seed_names or {},
        )
        rows = [replace(row, split="test") if roles[row.site] == "unseen" else row for row in rows]
        problems = no_training(rows, roles, file=self.file) + listed_twice(rows, file=self.file)
        problems += patients_in_two_splits(rows, file=self.file) + slice_problems(rows, file=self.file)
        return rows, roles, problems

    def _dealt(self, rows: list[Row], roles: Mapping[str, str]) -> list[Row]:
        """The rows as sites have them in a run, after all checks: a patient who is dealt has another name."""
        members = [site for site, role in roles.items() if role == "member"]
        return rows if self.deal_seed is None else dealt(rows, members, seed=self.deal_seed)

    def _loaded(self, rows: list[Row], roles: Mapping[str, str], problems: list[str]) -> list[Site]:
        digests = self._digests(rows)
        if not self.allow_duplicates:
            problems += duplicates(rows, digests, file=self.file)
        seed_names = self.seed_names or {}
        by_site = defaultdict(list)
        for row in self._dealt(rows, roles):
            by_site[row.site].append(row)
        loaded = []
        for name in sorted(by_site):
            splits, remarks, found = self._pictures(by_site[name], digests)
            problems += found
            if not problems:
                seed_name = seed_names.get(name, name)
                loaded.append(Site(name=name, role=roles[name], seed_name=seed_name, remarks=remarks, **splits))
        if problems:
            refuse(problems, f"The data in {self.root} have problems")
        return loaded

    def rows(self) -> list[Row]:
        """The rows of the manifest with the splits that they have in a run, whatever the roles of sites."""
        rows = read_manifest(self.root, self.file)
        if rows[0].split is None:
            rows = split_by_group(rows, fractions=self.fractions, seed=self.split_seed)
        return rows if self.resplit_seed is None else resplit(rows, seed=self.resplit_seed)

    @property
    def cache(self) -> Path:
        """The folder of what is decoded once."""
        return cache_folder(self.cache_dir)

    def _digests(self, rows: Sequence[Row]) -> dict[Path, str]:
        paths = [path for row in rows for path in (row.image, row.mask)]
        return file_hashes(paths, root=Path(self.root).expanduser().resolve(), cache=self.cache)

    def _values(self) -> dict[str, tuple[int, ...]]:
        if not isinstance(self.labels, Mapping):
            return {}
        return {str(name): _several(value) for name, value in self.labels.items()}

    def _size(self) -> tuple[int, int] | None:
        if self.image_size is None:
            return None
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else _several(self.image_size)

    def preparation(self) -> Preparation:
        """What happens to every picture before it is trained on; a new picture to predict needs the same."""
        others = sorted({value for values in self._values().values() for value in values})
        return Preparation(
            values=(self.background, *others),
            channels=self.channels,
            size=self._size(),
            intensity=self.intensity,
        )

    def _pictures(
        self, rows: Sequence[Row], digests: Mapping[Path, str]
    ) -> tuple[dict[str, Pictures], tuple[str, ...], list[str]]:
        """The site's pictures by split, what is suspicious about them, and what is wrong with them."""
        preparation = self.preparation()
        keys = {row.line: f"{digests[row.image]}:{digests[row.mask]}" for row in rows}
        files = {keys[row.line]: Files(row.image, row.mask, f"{self.file} line {row.line}") for row in rows}
        pack, places, problems = packed(files, preparation, cache=self.cache)
        if pack is None:
            return {}, (), problems
        table = [[value in values for value in preparation.values] for values in self._values().values()]
        augmentation = Augmentation(tuple(self.augment)) if self.augment else None
        splits = {}
        for split in SPLITS:
            chosen = sorted((row for row in rows if row.split == split), key=case_of)
            located = [(row, places[keys[row.line]]) for row in chosen]
            try:
                cases = cases_of(located, preparation, self.file)
            except BadInput as error:
                problems.append(str(error))
                continue
            numbers = [number for _, place in located for number in range(place.first, place.first + place.num_slices)]
            splits[split] = Pictures(
                pack,
                cases=cases,
                rows=numbers,
                table=np.array(table),
                augmentation=augmentation if split == "train" else None,
                name=rows[0].site,
            )
        return splits, remarks_on(rows[0].site, [places[key] for key in keys.values()]), problems


def _several(value: object) -> tuple:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
