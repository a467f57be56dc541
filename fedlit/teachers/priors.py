"""Boxes by anatomy, as shares of a picture: what an atlas says, from no data set's masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedlit.micro_sam.batches import LUNG_BOXES

RIGHT_LUNG, LEFT_LUNG = LUNG_BOXES["right lung"], LUNG_BOXES["left lung"]  # the patient's right: the picture's left

ANATOMIES: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] = {
    # frontal, upright, both lungs in the field
    "chest_xray": {
        "lung": (RIGHT_LUNG, LEFT_LUNG),
        "lungs": (RIGHT_LUNG, LEFT_LUNG),
        "right_lung": (RIGHT_LUNG,),
        "left_lung": (LEFT_LUNG,),
        "heart": ((0.36, 0.42, 0.76, 0.82),),
    },
    # cut out around the optic disc
    "fundus": {"disc": ((0.25, 0.25, 0.75, 0.75),), "cup": ((0.36, 0.36, 0.64, 0.64),)},
    # axial, the gland in the middle of the field
    "prostate": {"prostate": ((0.33, 0.33, 0.67, 0.67),)},
}
"""Anatomy -> class -> boxes: left, top, right, bottom from 0 to 1."""
