"""Brain tumours of FeTS 2022: BraTS-style NIfTI, the sites being the institutions of its partition file."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fedlit.errors import BadInput
from fedlit.preparation.cases import About, Case, Decoded, Found, Skipped
from fedlit.preparation.layouts import Layout, NotRead, absent, there
from fedlit.preparation.patterns import Tree, not_as_published, tree
from fedlit.preparation.splits import check_split, divided
from fedlit.preparation.volumes import clipped_to_bytes, read_volume

MODALITIES = ("flair", "t1", "t1ce", "t2")
VALUES = (0, 1, 2, 4)
EXPECTED = (
    "{case}/{case}_flair.nii.gz (or _t1, _t1ce, _t2) with {case}/{case}_seg.nii.gz",
    "and below SOURCE partitioning_1.csv with the columns Partition_ID and Subject_ID, or --partition FILE",
)
NOT_READ = (
    NotRead("BraTS of 2023 and later, whose names have dashes", "{case}/{case}-{modality:t1n|t1c|t2f|t2w}.nii.gz",
            'use `fedlit prepare nifti SOURCE OUT --site NAME --images "{case}/{case}-t2f.nii.gz"'
            ' --masks "{case}/{case}-seg.nii.gz"` with --foreground for its values'),
)  # fmt: skip


def decode_volume(image: Path, mask: Path) -> Decoded:
    volume = read_volume(image, mask)
    if unknown := sorted(set(np.unique(volume.mask).tolist()) - set(VALUES)):
        raise BadInput(f"{mask.name}: values {unknown[:8]}; BraTS has {', '.join(map(str, VALUES))}")
    return Decoded(clipped_to_bytes(volume.image), volume.mask.astype(np.uint8), volume.spacing, volume.affine)


@dataclass(frozen=True)
class FeTS:
    """`modality` is flair, t1, t1ce or t2; `partition` the file below SOURCE that names the institutions; `slices`
    writes every slice as a picture of its own. `split`: fedfms keeps 10 % of a site's cases for validation and none for
    test."""

    modality: str = "flair"
    partition: str = "partitioning_1.csv"
    slices: bool = False
    split: str | None = None

    def __post_init__(self) -> None:
        check_split(self.split)
        if self.modality not in MODALITIES:
            raise ValueError(f"--modality {self.modality}: allowed are {', '.join(MODALITIES)}")

    def find(self, source: Path) -> Found:
        found = tree(source)
        image, mask = f"{{case}}/{{case}}_{self.modality}.nii.gz", "{case}/{case}_seg.nii.gz"
        cases, skipped = Layout("FeTS", image, (mask,), decode_volume).find(found)
        if not cases:
            unread = there(found, NOT_READ)
            raise not_as_published("FeTS 2022 as it is published", found, EXPECTED, skipped, unread)
        institutions = _institutions(found, self.partition)
        placed = [
            Case(f"institution {institutions[case.name]}", case.name, case.group, partial(decode_volume, *case.sources),
                 case.sources, as_slices=self.slices)
            for case in cases
            if case.name in institutions
        ]  # fmt: skip
        strangers = [case.name for case in cases if case.name not in institutions]
        skipped += [Skipped(name, f"is not in {self.partition}") for name in strangers]
        if not placed:
            raise BadInput(f"{self.partition} names none of the {len(cases)} cases found")
        about = About(
            title="FeTS 2022 brain tumours",
            labels={"whole_tumour": [1, 2, 4], "tumour_core": [1, 4], "enhancing_tumour": 4},
            conventions=(f"fets: values as published, 1 necrosis, 2 oedema, 4 enhancing tumour; {self.modality} is"
                         " clipped at its 99 % quantile and scaled to 8 bits",),
            licence="see the owner's page",
            citation="Pati et al., The Federated Tumor Segmentation (FeTS) Challenge, 2021. Bakas et al., 2017.",
        )  # fmt: skip
        sites = [f"institution {number}" for number in sorted(set(institutions.values()), key=_by_number)]
        lost = absent(sites, placed, found)
        remarks = partial(_lost_cases, institutions, {case.name for case in placed}, self.partition)
        return divided(Found(placed, skipped, about, remarks=remarks, absent=lost), self.split)


def _by_number(institution: str) -> tuple[int, str]:
    return int(institution) if institution.isdigit() else 0, institution


def _lost_cases(institutions: Mapping[str, str], found: Collection[str], partition: str,
                sites: Collection[str]) -> list[str]:  # fmt: skip
    """How many cases of these sites the partition names and SOURCE lacks."""
    lost = Counter(site for case, number in institutions.items()
                   if (site := f"institution {number}") in sites and case not in found)  # fmt: skip
    told = ", ".join(f"{count} of {site}" for site, count in sorted(lost.items()))
    return [f"fets: of the cases that {partition} names, SOURCE lacks {told}"] if lost else []


def _institutions(found: Tree, name: str) -> dict[str, str]:
    """case -> institution. Raises `BadInput` without the file, its columns, or with a case at two institutions."""
    files = [file for file in found.files if file.split("/")[-1].lower() == name.lower()]
    if not files:
        raise BadInput(
            f"{name} is not below {found.root}; it has the columns Partition_ID,Subject_ID: --partition FILE"
        )
    try:
        with found.path(files[0]).open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{files[0]}: {error}; expected comma-separated text") from error
    if not rows or not {"Partition_ID", "Subject_ID"} <= set(rows[0]):
        raise BadInput(f"{files[0]}: the columns Partition_ID and Subject_ID are missing")
    places: dict[str, str] = {}
    for row in rows:
        case, institution = (row["Subject_ID"] or "").strip(), (row["Partition_ID"] or "").strip()
        if places.setdefault(case, institution) != institution:
            raise BadInput(f"{files[0]}: {case} is at the institutions {places[case]} and {institution}")
    return places
