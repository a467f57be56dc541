"""Prostate MRI of six hospitals: the NIfTI set of Liu et al. (MS-Net, IEEE TMI 2020), or its slices as PNG."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from fedlit.errors import BadInput
from fedlit.preparation.cases import About, Case, Decoded, Found, Skipped
from fedlit.preparation.decoding import mask_values, picture, same_grid
from fedlit.preparation.layouts import Layout, NotRead, absent, there
from fedlit.preparation.patterns import Pattern, Tree, not_as_published, tree
from fedlit.preparation.splits import divided
from fedlit.preparation.volumes import clipped_to_bytes, neighbours, read_volume

SYNONYMS = {"ISBI": "RUNMC", "ISBI_1.5": "BMC"}
SITES = ("BIDMC", "BMC", "HK", "I2CVB", "RUNMC", "UCL")
IOPFL = {  # site -> (test, validation) cases; all others train. Jiang et al., IEEE TMI 2023, the released case split
    "BIDMC": ((10, 8, 3), (7, 9)),
    "HK": ((49, 45, 48), (44, 38)),
    "I2CVB": ((18, 12, 6, 14), (7, 4, 2)),
    "RUNMC": ((7, 13, 17, 4, 5, 15), (23, 10, 3, 29, 2)),
    "BMC": ((18, 27, 29, 16, 17, 3), (28, 25, 7, 20, 24)),
    "UCL": ((33, 37, 36), (35, 32)),
}
EXPECTED = (
    "{site}/CaseNN.nii.gz with {site}/CaseNN_segmentation.nii.gz",
    "{site}/{train,test}/image/CC_SS.png with {site}/{train,test}/mask/CC_SS.png",
    f"{{site}} being {', '.join(SITES)} (or {', '.join(SYNONYMS)})",
)
NOT_READ = (
    NotRead("PROMISE12 as MetaImage (.mhd and .raw)", "{case}.mhd",
            "take the six-site set, or write the volumes as NIfTI and use `fedlit prepare nifti`"),
)  # fmt: skip
SPLITS = ("iopfl", "fedfms", "seeded")

ABOUT = About(
    title="Multi-site prostate MRI, six sites",
    labels={"prostate": 255},
    conventions=(),
    licence="see the owner's page of each source (NCI-ISBI 2013, I2CVB, PROMISE12)",
    citation="Liu, Dou, Yu, Heng. MS-Net: Multi-Site Network for Improving Prostate Segmentation with Heterogeneous"
    " MRI Data. IEEE TMI 2020.",
)
VOLUMES = ("prostate: any value but 0 is prostate (zones joined); each volume is clipped at its 99 % quantile and"
           " scaled from its least value to 8 bits; ")  # fmt: skip
WHOLE = "all slices are kept"
APART = ("slices without foreground are kept too; one whose pixels are all the same is not, since no run can read it"
         " (--volumes keeps it)")  # fmt: skip
SLICES = "prostate: masks are read inverted, 0 is prostate and 255 background, and written 255 for prostate"


@dataclass(frozen=True)
class Prostate:
    """`split`: iopfl (the released case split), fedfms (10 % of the cases for validation, none for test: the site left
    out is tested whole) or seeded (70/10/20). `volumes` keeps a volume in one file, its blank slices too.
    `neighbours` gives every slice the ones before and after it as channels. The sliced layout keeps its own split.
    """

    split: str | None = None
    volumes: bool = False
    neighbours: bool = False

    def __post_init__(self) -> None:
        if self.split not in (None, *SPLITS):
            raise ValueError(f"--split {self.split}: allowed are {', '.join(SPLITS)}")

    def find(self, source: Path) -> Found:
        found = tree(source)
        sliced = _find_slices(found)
        cases, skipped = self._find_volumes(found)
        if cases and sliced[0]:
            raise BadInput(f"{source} holds both NIfTI volumes and sliced pictures of the set; give one of them")
        if sliced[0]:
            self._refuse_options()
            notes = [] if self.split is None else ["split: as published; --split is of the NIfTI set"]
            about = replace(ABOUT, conventions=(SLICES, "prostate: case numbers restart per split, so the patient is"
                                                " SITE/split/case"))  # fmt: skip
            return _as_whole_set(Found(*sliced, about, notes), found)
        if not cases:
            unread = there(found, NOT_READ)
            raise not_as_published("the prostate set as it is published", found, EXPECTED, skipped, unread)
        about = replace(ABOUT, conventions=(VOLUMES + (WHOLE if self.volumes else APART),))
        return _as_whole_set(self._divided(Found(cases, skipped, about)), found)

    def _refuse_options(self) -> None:
        for name in ("volumes", "neighbours"):
            if getattr(self, name):
                raise BadInput(f"--{name} needs the NIfTI volumes; SOURCE holds slices, of which some may be missing")

    def _find_volumes(self, found: Tree) -> tuple[list[Case], list[Skipped]]:
        names = "|".join(re.escape(name) for name in sorted((*SITES, *SYNONYMS), key=len, reverse=True))
        layout = Layout(
            site="{site}",
            image=f"{{site:{names}}}/{{case:Case\\d+}}.nii*",
            masks=(f"{{site:{names}}}/{{case:Case\\d+}}_segmentation.nii*",),
            decode=decode_volume,
        )
        cases, skipped = layout.find(found)
        skipped += _strangers(found)
        made = []
        for case in cases:
            site = SYNONYMS.get(case.site.upper(), case.site.upper())
            decode = partial(decode_volume, *case.sources, with_neighbours=self.neighbours)
            made.append(replace(case, site=site, name=case.name.capitalize(), group=case.group.capitalize(),
                                decode=decode, as_slices=not self.volumes))  # fmt: skip
        return made, skipped

    def _divided(self, found: Found) -> Found:
        if self.split in ("seeded", "fedfms"):
            return divided(found, self.split)
        cases = [replace(case, split=_iopfl_split(case)) for case in found.cases]
        return replace(found, cases=cases, remarks=partial(_as_iopfl, found.cases))


def _as_iopfl(cases: Sequence[Case], sites: Collection[str]) -> list[str]:
    there = {(case.site, int(case.name[4:])) for case in cases}
    lost = [f"{site} Case{number:02d}" for site in sorted(sites) for number in sorted(sum(IOPFL[site], ()))
            if (site, number) not in there]  # fmt: skip
    told = [f"split: IOP-FL's {', '.join(lost)} are not in SOURCE"] if lost else []
    return ["split: the cases that IOP-FL released", *told]


def _as_whole_set(found: Found, files: Tree) -> Found:
    """The set is six sites: one without a case is said, and counts as left out."""
    lost = [site for site in SITES if site not in {case.site for case in found.cases}]
    skipped = [Skipped(site, "a site of the set of which SOURCE holds no case; --sites takes a part of the set")
               for site in lost]  # fmt: skip
    return replace(found, skipped=[*found.skipped, *skipped], absent=absent(SITES, found.cases, files))


def _strangers(found: Tree) -> list[Skipped]:
    known = {name.lower() for name in (*SITES, *SYNONYMS)}
    volumes = found.matching(Pattern("{site}/{case:Case\\d+}.nii*"))
    sites = sorted({names["site"] for _, names in volumes if names["site"].lower() not in known})
    return [Skipped(site, f"unknown site; known are {', '.join((*SITES, *SYNONYMS))}") for site in sites]


def _iopfl_split(case: Case) -> str:
    test, validation = IOPFL[case.site]
    number = int(case.name[4:])
    return "test" if number in test else "val" if number in validation else "train"


def decode_volume(image: Path, mask: Path, *, with_neighbours: bool = False) -> Decoded:
    volume = read_volume(image, mask)
    scaled = clipped_to_bytes(volume.image)
    foreground = np.where(volume.mask > 0, 255, 0).astype(np.uint8)
    return Decoded(neighbours(scaled) if with_neighbours else scaled, foreground, volume.spacing, volume.affine)


def _find_slices(found: Tree) -> tuple[list[Case], list[Skipped]]:
    names = "|".join(SITES)
    layout = Layout(
        site="{site}",
        image=f"{{site:{names}}}/{{part:train|test}}/image/{{case:\\d+}}_{{slice:\\d+}}.png",
        masks=(f"{{site:{names}}}/{{part:train|test}}/mask/{{case:\\d+}}_{{slice:\\d+}}.png",),
        decode=decode_slice,
        name="{part}_{case}_{slice}",
        group="{site}/{part}/{case}",
        volume="{part}_{case}",
        splits={"train": "train", "test": "test"},
    )
    return layout.find(found)


def decode_slice(image: Path, mask: Path) -> Decoded:
    array, values = picture(image), mask_values(mask)
    same_grid(array, values, mask)
    if unknown := set(np.unique(values).tolist()) - {0, 255}:
        raise BadInput(f"{mask.name}: values {sorted(unknown)}; the slices have 0 (prostate) and 255 (background)")
    return Decoded(array, np.where(values == 0, 255, 0).astype(np.uint8))
