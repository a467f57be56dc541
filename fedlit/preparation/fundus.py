"""Optic disc and cup on fundus photographs: REFUGE, ORIGA, G1020, Drishti-GS1, RIM-ONE r3, or published ROIs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedlit.errors import BadInput
from fedlit.preparation.cases import About, Case, Decoded, Found
from fedlit.preparation.decoding import bright, mask_values, picture, same_grid
from fedlit.preparation.layouts import Layout, all_cases
from fedlit.preparation.patterns import tree

RIM, CUP = 128, 255  # as written; the disc is both
PUBLISHED = {"train": "train", "training": "train", "training400": "train", "refuge-training400": "train",
             "refuge-validation400": "val", "test": "test", "test400": "test", "refuge-test400": "test"}  # fmt: skip
DOMAINS = {"Domain1": "Drishti-GS", "Domain2": "RIM-ONE_r3", "Domain3": "REFUGE_train", "Domain4": "REFUGE_val"}


def decode_inverted(image: Path, mask: Path) -> Decoded:
    """0 is cup, 128 disc rim, 255 background, as REFUGE hands them out and the ROIs of all four sources."""
    return _from_values(image, mask, {255: 0, 128: RIM, 0: CUP})


def decode_levels(image: Path, mask: Path) -> Decoded:
    """0 is background, 1 disc rim, 2 cup."""
    return _from_values(image, mask, {0: 0, 1: RIM, 2: CUP})


def decode_softmaps(image: Path, disc: Path, cup: Path) -> Decoded:
    """Two maps of how many of the experts agree: at least half of them do."""
    array, is_disc, is_cup = picture(image), bright(disc), bright(cup)
    same_grid(array, is_disc, disc)
    same_grid(array, is_cup, cup)
    return Decoded(array, _joined(is_disc, is_cup))


def decode_stereo(image: Path, disc: Path, cup: Path) -> Decoded:
    """The left half of a stereo pair, which is the half that was drawn on."""
    array, is_disc, is_cup = picture(image), bright(disc), bright(cup)
    width = array.shape[1] // 2
    left = np.ascontiguousarray(array[:, :width])
    is_disc, is_cup = is_disc[:, :width], is_cup[:, :width]
    same_grid(left, is_disc, disc)
    same_grid(left, is_cup, cup)
    return Decoded(left, _joined(is_disc, is_cup))


LAYOUTS = (
    Layout("REFUGE", "{part:Training400|REFUGE-Training400}/{kind}/{case:[gn]\\d+}.jpg",
           ("Annotation-Training400/Disc_Cup_Masks/{kind}/{case:[gn]\\d+}.bmp",), decode_inverted,
           splits=PUBLISHED),
    Layout("REFUGE", "{part:REFUGE-Validation400}/{case:V\\d+}.jpg",
           ("REFUGE-Validation400-GT/Disc_Cup_Masks/{case:V\\d+}.bmp",), decode_inverted, splits=PUBLISHED),
    Layout("REFUGE", "{part:Test400|REFUGE-Test400}/{case:T\\d+}.jpg",
           ("REFUGE-Test-GT/Disc_Cup_Masks/*/{case:T\\d+}.bmp",), decode_inverted, splits=PUBLISHED),
    Layout("ORIGA", "ORIGA/Images/{case:\\d+}.jpg", ("ORIGA/Masks/{case:\\d+}.png",), decode_levels),
    Layout("G1020", "G1020/Images/{case:image_\\d+}.jpg", ("G1020/Masks/{case:image_\\d+}.png",), decode_levels),
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
)  # fmt: skip
ROIS = tuple(
    Layout(site, f"{domain}/{{part:train|test}}/ROIs/image/{{case}}.png",
           (f"{domain}/{{part:train|test}}/ROIs/mask/{{case}}.png",), decode_inverted, splits=PUBLISHED)
    for domain, site in DOMAINS.items()
)  # fmt: skip


@dataclass(frozen=True)
class Fundus:
    """`ring`: the class disc is the rim alone, as FedFMS reads it; by default the disc includes the cup."""

    ring: bool = False

    def find(self, source: Path) -> Found:
        cases, skipped = all_cases("the fundus sets as they are published", tree(source), (*LAYOUTS, *ROIS))
        disc: int | list[int] = RIM if self.ring else [RIM, CUP]
        about = About(
            title="Optic disc and cup, several sources",
            labels={"disc": disc, "cup": CUP},
            conventions=_conventions(cases, "is the rim alone" if self.ring else "includes the cup"),
            licence="as each source states: REFUGE, Drishti-GS and RIM-ONE for research; not checked by this program",
            citation="REFUGE: Orlando et al., MedIA 2020. Drishti-GS1: Sivaswamy et al., ISBI 2014. RIM-ONE r3: Fumero"
            " et al., 2015. ORIGA: Zhang et al., EMBC 2010. G1020: Bajwa et al., IJCNN 2020.",
        )
        return Found([_of_one_patient(case) for case in cases], skipped, about)


def _conventions(cases: Sequence[Case], disc: str) -> tuple[str, ...]:
    read = {
        "decode_inverted": "0 is cup, 128 disc rim, 255 background",
        "decode_levels": "0 is background, 1 disc rim, 2 cup",
        "decode_softmaps": "where half of the experts agree or more",
        "decode_stereo": "of expert 1, the left half of the stereo pair",
    }
    sites: dict[str, set[str]] = {}
    for case in cases:
        sites.setdefault(case.decode.func.__name__, set()).add(case.site)  # type: ignore[attr-defined]
    lines = [
        f"fundus: masks of {', '.join(sorted(own))} are read as {read[name]}" for name, own in sorted(sites.items())
    ]
    return (*lines, f"fundus: written are 0 background, {RIM} rim, {CUP} cup; the class disc {disc}")


def _of_one_patient(case: Case) -> Case:
    """The two eyes of RIM-ONE r3's ROIs, G-1-L and G-1-R, are one patient."""
    parts = case.name.split("-")
    if case.site == "RIM-ONE_r3" and len(parts) == 3 and parts[2].upper() in ("L", "R"):
        return replace(case, group="-".join(parts[:2]))
    return case


def _from_values(image: Path, mask: Path, written: dict[int, int]) -> Decoded:
    array, values = picture(image), mask_values(mask)
    same_grid(array, values, mask)
    if unknown := sorted(set(np.unique(values).tolist()) - set(written)):
        raise BadInput(f"{mask.name}: values {unknown[:8]}; known are {', '.join(map(str, written))}")
    out = np.zeros(values.shape, np.uint8)
    for value, code in written.items():
        out[values == value] = code
    return Decoded(array, out)


def _joined(is_disc: np.ndarray, is_cup: np.ndarray) -> np.ndarray:
    return np.where(is_cup, CUP, np.where(is_disc, RIM, 0)).astype(np.uint8)
