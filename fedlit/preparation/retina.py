"""Vessels on fundus photographs: DRIVE, CHASE_DB1, STARE, HRF and FIVES."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedlit.preparation.cases import About, Found
from fedlit.preparation.decoding import drawn
from fedlit.preparation.layouts import Layout, NotRead, absent, all_cases, readings
from fedlit.preparation.patterns import tree

PUBLISHED = {"training": "train", "train": "train", "test": "test"}
LAYOUTS = (
    Layout("DRIVE", "{part:training|test}/images/{case:\\d+}_{part}.tif",
           ("{part:training|test}/1st_manual/{case:\\d+}_manual1.gif",), drawn, splits=PUBLISHED, is_optional=True),
    Layout("CHASE_DB1", "Image_{case:\\d+}{side:[LR]}.jpg", ("Image_{case:\\d+}{side:[LR]}_1stHO.png",), drawn,
           name="{case}{side}", group="{case}"),
    Layout("STARE", "{case:im\\d+}.ppm{packed:(?:\\.gz)?}", ("{case:im\\d+}.ah.ppm*",), drawn, is_optional=True),
    Layout("HRF", "images/{case:\\d+_(?:dr|g|h)}.jpg", ("manual1/{case:\\d+_(?:dr|g|h)}.tif",), drawn),
    Layout("FIVES", "{part:train|test}/Original/{case:\\d+_[ADGN]}.png",
           ("{part:train|test}/Ground truth/{case:\\d+_[ADGN]}.png",), drawn, name="{part} {case}",
           group="{part} {case}", splits=PUBLISHED),
)  # fmt: skip
NOT_READ = (
    NotRead("copies with pictures and masks side by side", "{kind:label|labels|mask|masks|1stHO}/{case}.*",
            'use `fedlit prepare folder SOURCE OUT --site NAME --images "images/{case}.png" --masks "labels/{case}.png"'
            "`, with the folders' own names"),
)  # fmt: skip
HOW = {
    "DRIVE": "DRIVE: the first manual segmentation; pictures without (often those for test) are left out",
    "CHASE_DB1": "CHASE_DB1: the first observer; the two eyes of a child are one patient",
    "STARE": "STARE: the labels of Adam Hoover (ah); pictures without labels are left out",
    "HRF": "HRF: each picture counts as a patient",
    "FIVES": "FIVES: its own train and test; patients are not published, so each picture counts as one",
}


@dataclass(frozen=True)
class Retina:
    """No options."""

    def find(self, source: Path) -> Found:
        files = tree(source)
        cases, skipped = all_cases("the retinal vessel sets as they are published", files, LAYOUTS, NOT_READ)
        about = About(
            title="Vessels on fundus photographs",
            labels={"vessel": 255},
            conventions=("retina: masks are white on vessels, and written as 255",),
            licence="HRF, FIVES, CHASE_DB1: CC BY 4.0; DRIVE, STARE: see the owner's page. As found in public sources;"
            " the owner's page decides",
            citation="DRIVE: Staal et al., TMI 2004. CHASE_DB1: Owen et al., IOVS 2009, and Fraz et al., TBME 2012."
            " STARE: Hoover et al., TMI 2000. HRF: Budai et al., 2013. FIVES: Jin et al., Scientific Data 2022.",
        )
        return Found(cases, skipped, about, remarks=partial(readings, HOW), absent=absent(HOW, cases, files))
