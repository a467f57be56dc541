"""Nuclei on tissue stained with H&E: PanNuke by fold and tissue, MoNuSeg and MoNuSAC with their XML, TNBC and brain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from fedlit.errors import BadInput
from fedlit.preparation.cases import About, Case, Decoded, Found, Skipped
from fedlit.preparation.decoding import filled, mask_values, picture, same_grid
from fedlit.preparation.layouts import Layout, NotRead, absent, there
from fedlit.preparation.patterns import Pattern, Tree, not_as_published, tree
from fedlit.preparation.splits import check_split, divided

FOLD = Pattern("{fold:Fold.?\\d}/{kind:images|masks}/*/{file:images|types|masks}.npy")
IMAGE_SCOPE_LIMIT = 64_000_000  # bytes of an XML file; the largest published one has 3 MB


def decode_polygons(image: Path, annotations: Path) -> Decoded:
    """The outlines of an Aperio ImageScope file (Annotation, Region, Vertex X Y in pixels), filled."""
    array = picture(image)
    return Decoded(array, filled(regions(annotations), array.shape[:2], annotations))


def regions(path: Path) -> list[np.ndarray]:
    """Polygons [N, 2] of x and y in pixels. Regions marked as ambiguous by MoNuSAC are not nuclei and are left out.

    Raises:
        BadInput: no XML, a document type (published files have none), or no polygon.
    """
    if path.stat().st_size > IMAGE_SCOPE_LIMIT:
        raise BadInput(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB is no list of outlines")
    content = path.read_bytes()
    if b"<!DOCTYPE" in content:
        raise BadInput(f"{path.name}: declares a document type, whose entities could grow without end; leave it out")
    try:
        root = ElementTree.fromstring(content)
        found = []
        for annotation in root.iter("Annotation"):
            names = {str(each.get("Name", "")).lower() for each in annotation.iter("Attribute")}
            if "ambiguous" in names:
                continue
            for region in annotation.iter("Region"):
                points = [(float(point.attrib["X"]), float(point.attrib["Y"])) for point in region.iter("Vertex")]
                found += [np.array(points)] if len(points) >= 3 else []
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise BadInput(f"{path.name}: no ImageScope XML ({error})") from error
    if not found:
        raise BadInput(f"{path.name}: holds no polygon (Annotation, Region, Vertex with X and Y)")
    return found


def decode_patch(images: Path, masks: Path, number: int) -> Decoded:
    """A patch of PanNuke: images.npy [N, 256, 256, 3] and masks.npy [N, 256, 256, 6], the last plane background."""
    image = np.asarray(np.load(images, mmap_mode="r")[number])
    planes = np.asarray(np.load(masks, mmap_mode="r")[number])
    if (image == image[:1, :1]).all():
        raise BadInput("every pixel is the same")
    nuclei = (planes[..., :5] > 0).any(axis=-1)
    return Decoded(np.rint(image).clip(0, 255).astype(np.uint8), np.where(nuclei, 255, 0).astype(np.uint8))


def decode_marked(image: Path, mask: Path) -> Decoded:
    """A picture, whose fourth channel means nothing, and a mask with any value but 0 on nuclei: 255, or their types."""
    array, values = picture(image, drop_alpha=True), mask_values(mask)
    same_grid(array, values, mask)
    return Decoded(array, np.where(values > 0, 255, 0).astype(np.uint8))


LAYOUTS = (
    Layout("MoNuSAC", "{case:TCGA-[\\w-]+}/{region:TCGA-[\\w-]+_\\d+}.tif",
           ("{case:TCGA-[\\w-]+}/{region:TCGA-[\\w-]+_\\d+}.xml",), decode_polygons, name="{region}",
           group="{case}"),
    Layout("MoNuSeg", "Tissue Images/{case:TCGA-[\\w-]+}.tif", ("Annotations/{case:TCGA-[\\w-]+}.xml",),
           decode_polygons),
    Layout("MoNuSeg", "{part:MoNuSegTestData}/{case:TCGA-[\\w-]+}.tif", ("MoNuSegTestData/{case:TCGA-[\\w-]+}.xml",),
           decode_polygons, splits={"monusegtestdata": "test"}),
    Layout("TNBC", "Slide_{case:0\\d|1[01]}/{case}_{number:\\d+}.png",
           ("GT_{case:0\\d|1[01]}/{case}_{number:\\d+}.png",), decode_marked, name="{case}_{number}"),
    Layout("TCGA_brain", "Slide_{case:1[2-9]}/{case}_{number:\\d+}.png",
           ("GT_{case:1[2-9]}/{case}_{number:\\d+}.png",), decode_marked, name="{case}_{number}"),
)  # fmt: skip
EXPECTED = (
    f"PanNuke: {FOLD}, types.npy beside images.npy",
    *(str(layout) for layout in LAYOUTS),
)
NOT_READ = (
    NotRead("PanNuke with one file a patch, or with its three arrays side by side", "{fold:Fold.?\\d}/{file}.npy",
            "unpack it to `Fold 1/images/fold1/images.npy`, `types.npy` there and `Fold 1/masks/fold1/masks.npy`"),
    NotRead("MoNuSeg or TNBC with masks as pictures beside them", "{kind:masks|labels|GT|gt}/{case}.*",
            'use `fedlit prepare folder SOURCE OUT --site NAME --images "images/{case}.png" --masks "masks/{case}.png"`'
            " with --foreground for the values on nuclei"),
    NotRead("nuclei as .mat (CoNSeP, CPM, Kumar, Lizard)", "{kind:Labels|labels}/{case}.mat",
            "write their maps as PNG first, then `fedlit prepare folder`"),
)  # fmt: skip


@dataclass(frozen=True)
class Nuclei:
    """A site of PanNuke is a fold and a tissue, such as `PanNuke2 Esophagus`. `split`: fedfms keeps 10 % of a site's
    patients for validation and none for test."""

    split: str | None = None

    def __post_init__(self) -> None:
        check_split(self.split)

    def find(self, source: Path) -> Found:
        found = tree(source)
        cases, skipped = _patches(found)
        for layout in LAYOUTS:
            some, left_out = layout.find(found)
            cases += [_of_tcga_patient(case) for case in some]
            skipped += left_out
        if not cases:
            unread = there(found, NOT_READ)
            raise not_as_published("the nuclei sets as they are published", found, EXPECTED, skipped, unread)
        about = About(
            title="Nuclei on H&E, several sources",
            labels={"nucleus": 255},
            conventions=("nuclei: all types of nuclei are one class, written as 255",),
            licence="PanNuke, MoNuSeg and MoNuSAC: CC BY-NC-SA 4.0; TNBC with brain: CC BY 4.0. As found in public"
            " sources; the owner's page decides",
            citation="PanNuke: Gamper et al., 2020. MoNuSeg: Kumar et al., TMI 2020. MoNuSAC: Verma et al., TMI 2021."
            " TNBC: Naylor et al., TMI 2019.",
        )
        return divided(Found(cases, skipped, about, remarks=_how, absent=_absent(cases, found)), self.split)


def _how(sites: Collection[str]) -> list[str]:
    lines = {  # of which sites, by what their names begin with
        "MoNuSAC": "nuclei: ambiguous regions of MoNuSAC are background",
        "MoNu": "nuclei: of MoNuSAC and MoNuSeg the patient is the first three parts of a TCGA name",
        "T": "nuclei: of TNBC the patient is the slide; those from 12 are brain (site TCGA_brain)",
        "PanNuke": "nuclei: PanNuke names no patients, so each patch counts as one",
    }
    return [line for start, line in lines.items() if any(site.startswith(start) for site in sites)]


def _absent(cases: list[Case], found: Tree) -> list[str]:
    """Of PanNuke folds are looked for, whatever tissues they have."""
    folds = [replace(case, site=case.site.split()[0]) if case.site.startswith("PanNuke") else case for case in cases]
    return absent(("PanNuke1", "PanNuke2", "PanNuke3", *(layout.label for layout in LAYOUTS)), folds, found)


def _of_tcga_patient(case: Case) -> Case:
    """TCGA-18-5592-01Z-00-DX1 is a slide of the patient TCGA-18-5592."""
    return replace(case, group="-".join(case.group.split("-")[:3])) if case.group.startswith("TCGA-") else case


def _patches(found: Tree) -> tuple[list[Case], list[Skipped]]:
    folds: dict[str, dict[str, Path]] = defaultdict(dict)
    for file, names in found.matching(FOLD):
        folds[names["fold"][-1]][names["file"].lower()] = found.path(file)
    cases: list[Case] = []
    skipped: list[Skipped] = []
    for fold, files in sorted(folds.items()):
        if lost := {"images", "masks", "types"} - set(files):
            skipped.append(Skipped(f"PanNuke fold {fold}", f"{', '.join(sorted(lost))}.npy is missing"))
            continue
        try:
            cases += _fold(fold, files)
        except (OSError, ValueError) as error:
            skipped.append(Skipped(f"PanNuke fold {fold}", f"unreadable ({error})"))
    return cases, skipped


def _fold(fold: str, files: dict[str, Path]) -> list[Case]:
    tissues = np.load(files["types"], allow_pickle=False)
    shapes = {name: np.load(files[name], mmap_mode="r").shape for name in ("images", "masks")}
    num = len(tissues)
    if shapes["images"][0] != num or shapes["images"][3:] != (3,) or shapes["masks"] != (*shapes["images"][:3], 6):
        raise ValueError(f"{num} types, images {shapes['images']}, masks {shapes['masks']}")
    sources = (files["images"], files["masks"])
    return [
        Case(f"PanNuke{fold} {tissue}", f"{number:04d}", f"{number:04d}", partial(decode_patch, *sources, number),
             sources)
        for number, tissue in enumerate(tissues.tolist())
    ]  # fmt: skip
