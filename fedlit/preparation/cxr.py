"""Lungs on chest X-rays: JSRT with the SCR masks, Montgomery, Shenzhen and COVID-QU-Ex."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fedlit.errors import BadInput
from fedlit.preparation.cases import About, Decoded, Found
from fedlit.preparation.decoding import bright, drawn, picture, same_grid
from fedlit.preparation.layouts import Layout, NotRead, absent, all_cases, readings
from fedlit.preparation.patterns import tree

JSRT_SIDE, JSRT_MM = 2048, 0.175  # pixels of a raw picture, and their size
MONTGOMERY_MM = 0.0875
BRIGHTEST = 4095  # of 12 bits


def decode_jsrt(image: Path, left: Path, right: Path) -> Decoded:
    """Raw 12 bits, big-endian, dense film being high: turned round, so that bone is bright, and halved to the masks'
    1024 pixels by the mean of 2 x 2. Written with 16 bits, 4095 being 65520."""
    raw = np.fromfile(image, ">u2")
    if len(raw) != JSRT_SIDE**2:
        raise BadInput(f"{image.name}: {2 * len(raw)} bytes; a picture has {2 * JSRT_SIDE**2}")
    if (raw > BRIGHTEST).mean() > 0.01 or raw.min() == raw.max():
        raise BadInput(f"{image.name}: values from {raw.min()} to {raw.max()}; a picture has 12 bits, big-endian")
    raw = np.minimum(raw, BRIGHTEST)
    lungs = bright(left) | _same(bright(right), left, right)
    factor = JSRT_SIDE // max(lungs.shape[0], 1)
    if lungs.shape[0] != lungs.shape[1] or lungs.shape[0] * factor != JSRT_SIDE:
        raise BadInput(f"{left.name}: {lungs.shape[0]} x {lungs.shape[1]} pixels; the masks have 1024 x 1024")
    side = lungs.shape[0]
    means = (BRIGHTEST - raw.astype(np.float32)).reshape(side, factor, side, factor).mean(axis=(1, 3))
    image16 = np.rint(means * 16).astype(np.uint16)
    return Decoded(image16, _written(lungs), (JSRT_MM * factor,) * 2)


def decode_montgomery(image: Path, left: Path, right: Path) -> Decoded:
    """The masks of the two lungs are joined."""
    array = picture(image)
    lungs = bright(left) | _same(bright(right), left, right)
    same_grid(array, lungs, left)
    return Decoded(array, _written(lungs), (MONTGOMERY_MM,) * 2)


LAYOUTS = (
    Layout("JSRT", "{case:JPC[LN]N\\d+}.IMG",
           ("masks/left lung/{case:JPC[LN]N\\d+}.gif", "masks/right lung/{case:JPC[LN]N\\d+}.gif"), decode_jsrt),
    Layout("Montgomery", "MontgomerySet/CXR_png/{case:MCUCXR_\\d+_[01]}.png",
           ("MontgomerySet/ManualMask/leftMask/{case:MCUCXR_\\d+_[01]}.png",
            "MontgomerySet/ManualMask/rightMask/{case:MCUCXR_\\d+_[01]}.png"), decode_montgomery),
    Layout("Shenzhen", "CXR_png/{case:CHNCXR_\\d+_[01]}.png", ("mask*/{case:CHNCXR_\\d+_[01]}_mask.png",), drawn,
           is_optional=True),
    Layout("COVID-QU-Ex", "Lung Segmentation Data/{part:Train|Val|Test}/{kind}/images/{case}.png",
           ("Lung Segmentation Data/{part:Train|Val|Test}/{kind}/lung masks/{case}.png",), drawn,
           name="{part} {kind} {case}", group="{part} {kind} {case}",
           splits={"train": "train", "val": "val", "test": "test"}),
)  # fmt: skip
NOT_READ = (
    NotRead("Montgomery with one mask a picture, as it goes round together with Shenzhen", "masks/{case:MCUCXR_[^/]+}",
            "use `fedlit prepare folder SOURCE OUT --site Montgomery --images \"CXR_png/{case:MCUCXR_.+}.png\""
            " --masks \"masks/{case}.png\"`"),
    NotRead("the COVID-19 Radiography Database", "{kind:COVID|Lung_Opacity|Normal|Viral Pneumonia}/images/{case}.png",
            "use `fedlit prepare folder SOURCE OUT`: its default patterns fit, a kind being a site"),
)  # fmt: skip
HOW = {
    "JSRT": "JSRT: raw 12 bits turned round (bone is bright), reduced to the masks' 1024 pixels; 0.35 mm a pixel",
    "Montgomery": "Montgomery: the masks of the left and the right lung are joined; 0.0875 mm a pixel",
    "Shenzhen": "Shenzhen: 566 of 662 pictures have a mask (Stirenko et al.), the others are left out",
    "COVID-QU-Ex": "COVID-QU-Ex: its own split; patients are not published, so each picture counts as one",
}


@dataclass(frozen=True)
class ChestXRays:
    """No options."""

    def find(self, source: Path) -> Found:
        files = tree(source)
        cases, skipped = all_cases("the chest X-ray sets as they are published", files, LAYOUTS, NOT_READ)
        about = About(
            title="Lungs on chest X-rays",
            labels={"lung": 255},
            conventions=("cxr: masks are white where the lung is, and written as 255",),
            licence="Shenzhen masks: CC BY-NC-SA 4.0; COVID-QU-Ex: CC BY-SA 4.0; JSRT, SCR, Montgomery and Shenzhen:"
            " see the owner's page. As found in public sources; the owner's page decides",
            citation="JSRT: Shiraishi et al., AJR 2000. SCR: van Ginneken et al., MedIA 2006. Montgomery, Shenzhen:"
            " Jaeger et al., QIMS 2014. Shenzhen masks: Stirenko et al., 2018. COVID-QU-Ex: Tahir et al., Computers in"
            " Biology and Medicine 2021.",
        )
        return Found(cases, skipped, about, remarks=partial(readings, HOW), absent=absent(HOW, cases, files))


def _written(lungs: np.ndarray) -> np.ndarray:
    return np.where(lungs, 255, 0).astype(np.uint8)


def _same(mask: np.ndarray, first: Path, second: Path) -> np.ndarray:
    other = bright(first)
    same_grid(other, mask, second)
    return mask
