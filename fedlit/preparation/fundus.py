"""Optic disc and cup on fundus photographs: REFUGE, ORIGA, G1020, Drishti-GS1, RIM-ONE r3 and DL, or published ROIs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fedlit.preparation.cases import About, Case, Found
from fedlit.preparation.fundus_masks import (
    CUP,
    READ,
    RIM,
    decode_inverted,
    decode_levels,
    decode_matrix,
    decode_outlines,
    decode_pair,
    decode_softmaps,
    decode_stereo,
)
from fedlit.preparation.layouts import Layout, NotRead, absent, all_cases
from fedlit.preparation.patterns import tree
from fedlit.preparation.splits import check_split, divided

PUBLISHED = {
    "train": "train", "training": "train", "training_set": "train", "training400": "train",
    "refuge-training400": "train", "val": "val", "refuge-validation400": "val",
    "test": "test", "test_set": "test", "test400": "test", "refuge-test400": "test",
}  # fmt: skip
DOMAINS = {"Domain1": "Drishti-GS", "Domain2": "RIM-ONE_r3", "Domain3": "REFUGE_train", "Domain4": "REFUGE_val"}
DL = "RIM-ONE_DL_reference_segmentations/*/{case:r[123]_[^/]+?}"
ROIS = tuple(
    Layout(site, f"{domain}/{{part:train|test}}/ROIs/image/{{case}}.png",
           (f"{domain}/{{part:train|test}}/ROIs/mask/{{case}}.png",), decode_inverted, splits=PUBLISHED)
    for domain, site in DOMAINS.items()
)  # fmt: skip
LAYOUTS = (
    Layout("REFUGE", "{part:Training400|REFUGE-Training400}/{kind}/{case:[gn]\\d+}.jpg",
           ("Annotation-Training400/Disc_Cup_Masks/{kind}/{case:[gn]\\d+}.bmp",), decode_inverted,
           splits=PUBLISHED),
    Layout("REFUGE", "{part:REFUGE-Validation400}/{case:V\\d+}.jpg",
           ("REFUGE-Validation400-GT/Disc_Cup_Masks/{case:V\\d+}.bmp",), decode_inverted, splits=PUBLISHED),
    Layout("REFUGE", "{part:Test400|REFUGE-Test400}/{case:T\\d+}.jpg",
           ("REFUGE-Test-GT/Disc_Cup_Masks/*/{case:T\\d+}.bmp",), decode_inverted, splits=PUBLISHED),
    Layout("REFUGE", "{part:train|val|test}/Images/{case:[gnVT]\\d+}.jpg",
           ("{part:train|val|test}/gts/{case:[gnVT]\\d+}.bmp",), decode_inverted, splits=PUBLISHED,
           optional_parts=("test",), is_alternative=True),
    Layout("REFUGE", "{part:train|val|test}/Images/{case:[gnVT]\\d+}.jpg",
           ("{part:train|val|test}/Masks/{case:[gnVT]\\d+}.png",), decode_levels, splits=PUBLISHED,
           optional_parts=("test",), is_alternative=True),
    Layout("ORIGA", "ORIGA/Images/{case:\\d+}.jpg", ("ORIGA/Masks/{case:\\d+}.png",), decode_levels),
    Layout("ORIGA", "Images/{case:\\d+}.jpg", ("Semi-automatic-annotations*/{case:\\d+}.mat",), decode_matrix,
           is_alternative=True),
    Layout("G1020", "G1020/Images/{case:image_\\d+}.jpg", ("G1020/Masks/{case:image_\\d+}.png",), decode_levels),
    Layout("G1020", "Images/{case:image_\\d+}.jpg", ("Images/{case:image_\\d+}.json",), decode_outlines,
           is_alternative=True),
    Layout("Drishti-GS1", "{part:Training}/Images/{kind:(?:GLAUCOMA/|NORMAL/)?}{case:drishtiGS_\\d+}.png",
           ("Training/GT/{case}/SoftMap/{case}_ODsegSoftmap.png",
            "Training/GT/{case}/SoftMap/{case}_cupsegSoftmap.png"), decode_softmaps, splits=PUBLISHED),
    Layout("Drishti-GS1", "{part:Test}/Images/{kind:(?:GLAUCOMA/|NORMAL/)?}{case:drishtiGS_\\d+}.png",
           ("Test/Test_GT/{case}/SoftMap/{case}_ODsegSoftmap.png",
            "Test/Test_GT/{case}/SoftMap/{case}_cupsegSoftmap.png"), decode_softmaps, splits=PUBLISHED),
    Layout("RIM-ONE_r3", "{kind:Healthy|Glaucoma and suspects}/Stereo Images/{letter:[NGS]}-{eye:\\d+}-{side:[LR]}.jpg",
           ("{kind:Healthy|Glaucoma and suspects}/Expert1_masks/{letter}-{eye}-{side:[LR]}-*Disc-*.png",
            "{kind:Healthy|Glaucoma and suspects}/Expert1_masks/{letter}-{eye}-{side:[LR]}-*Cup-*.png"), decode_stereo,
           name="{letter}-{eye}-{side}", group="{letter}-{eye}"),
    Layout("RIM-ONE_DL", "partitioned_by_hospital/{part:training_set|test_set}/*/{case:r[123]_[^/]+?}.png",
           (f"{DL}-1-Disc-T.png", f"{DL}-1-Cup-T.png"), decode_pair, splits=PUBLISHED),
    Layout("RIM-ONE_DL", "partitioned_randomly/{part:training_set|test_set}/*/{case:r[123]_[^/]+?}.png",
           (f"{DL}-1-Disc-T.png", f"{DL}-1-Cup-T.png"), decode_pair, splits=PUBLISHED, is_alternative=True),
    *ROIS,
)  # fmt: skip
LEVELS = "--foreground disc=1,2 --foreground cup=2"
NOT_READ = (
    NotRead("the square and cropped copies of ORIGA, G1020 and REFUGE (Images_Square, Images_Cropped)",
            "{kind:Images_Square|Images_Cropped/img|Images_Cropped}/{case}.jpg",
            "give the folder with Images and Masks, or `fedlit prepare folder SOURCE OUT --site NAME"
            f' --images "Images_Square/{{case}}.jpg" --masks "Masks_Square/{{case}}.png" {LEVELS}`'),
    NotRead("REFUGE2 and other copies with images and mask(s) side by side", "{kind:mask|masks}/{case:[gnVT]\\d+}.*",
            'look at the mask values, then `fedlit prepare folder SOURCE OUT --site REFUGE --images "images/{case}.jpg"'
            ' --masks "mask/{case}.bmp" --foreground disc=0,128 --foreground cup=0`'),
    NotRead("RIM-ONE r1 and r2", "{case:Im\\d+}-{kind:exp\\d|gs|T}.*",
            "RIM-ONE DL holds their pictures; else `fedlit prepare folder`, with one mask a picture"),
    NotRead("SMDG (full-fundus, optic-disc, optic-cup)", "full-fundus/{case}.*",
            "join the two masks of each picture to one, then `fedlit prepare folder`"),
)  # fmt: skip


@dataclass(frozen=True)
class Fundus:
    """`ring`: the class disc is the rim alone, as FedFMS reads it; by default the disc includes the cup.
    `split`: fedfms keeps 10 % of a site's patients for validation and none for test, whatever was published."""

    ring: bool = False
    split: str | None = None

    def __post_init__(self) -> None:
        check_split(self.split)

    def find(self, source: Path) -> Found:
        files = tree(source)
        cases, skipped = all_cases("the fundus sets as they are published", files, LAYOUTS, NOT_READ)
        disc: int | list[int] = RIM if self.ring else [RIM, CUP]
        about = About(
            title="Optic disc and cup, several sources",
            labels={"disc": disc, "cup": CUP},
            conventions=(f"fundus: written are 0 background, {RIM} rim, {CUP} cup; the class disc "
                         + ("is the rim alone" if self.ring else "includes the cup"),),
            licence="RIM-ONE r3: for research, not to be handed on; Drishti-GS1: for research; REFUGE, ORIGA, G1020 and"
            " RIM-ONE DL (of which public sources say different things): see the owner's page. As found in public"
            " sources; the owner's page decides",
            citation="REFUGE: Orlando et al., MedIA 2020. Drishti-GS1: Sivaswamy et al., ISBI 2014. RIM-ONE r3: Fumero"
            " et al., 2015. RIM-ONE DL: Fumero et al., Image Analysis & Stereology 2020. ORIGA: Zhang et al., EMBC"
            " 2010. G1020: Bajwa et al., IJCNN 2020.",
        )  # fmt: skip
        cases = [_of_one_patient(case) for case in cases]
        lost = absent(_sites_of_set({case.site for case in cases}), cases, files)
        by_hospital = self.split is None
        remarks = partial(_remarks, cases, by_hospital)
        return divided(Found(cases, skipped, about, remarks=remarks, absent=lost), self.split)


def _sites_of_set(found: Collection[str]) -> list[str]:
    """Whole pictures and regions of interest are two sets of the same sources: the sites of the one that is there."""
    whole = [layout.label for layout in LAYOUTS if layout not in ROIS]
    regions = [*DOMAINS.values()]
    sets = [own for own, other in ((whole, regions), (regions, whole)) if set(found) & (set(own) - set(other))]
    return [site for own in sets or (whole,) for site in own]


def _remarks(cases: Sequence[Case], by_hospital: bool, sites: Collection[str]) -> list[str]:
    reading: dict[str, set[str]] = {}
    for case in cases:
        if case.site in sites:
            reading.setdefault(case.decode.func.__name__, set()).add(case.site)  # type: ignore[attr-defined]
    lines = [
        f"fundus: masks of {', '.join(sorted(own))} are read as {READ[name]}" for name, own in sorted(reading.items())
    ]
    if "RIM-ONE_DL" in sites and by_hospital:
        lines.append("fundus: of RIM-ONE_DL the division by hospital is kept, the random one where it is alone")
    if {"RIM-ONE_DL", "RIM-ONE_r3"} <= set(sites):
        lines.append("fundus: RIM-ONE_DL holds pictures of RIM-ONE_r3, cropped: take one of the two (--sites)")
    return lines


def _of_one_patient(case: Case) -> Case:
    """The two eyes of RIM-ONE r3's ROIs, G-1-L and G-1-R, are one patient; so are they in RIM-ONE DL."""
    parts = case.name.split("-")
    if case.site in ("RIM-ONE_r3", "RIM-ONE_DL") and len(parts) == 3 and parts[2].upper() in ("L", "R"):
        return replace(case, group="-".join(parts[:2]))
    return case
