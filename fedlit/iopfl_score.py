"""IOP-FL's score as released: the mean of the Dice of foreground and background. Jiang et al., TMI 2023.

It is no Dice of an organ: a background that fills nine tenths of a slice scores above 0.9 whatever is found. The
released code also leaves out slices without foreground, at test too; that has a name of its own. Both are here to be
compared with the paper's numbers, and always stand beside the Dice.
"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

IOPFL = ("dice_iopfl_with_background", "dice_iopfl_with_background_foreground_slices")


def iopfl_scores(mask: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """The two scores of a class, by name: the mean over all slices of a case, and over those with foreground.

    mask, target: bool [H, W] or [D, H, W]; the background of a class is all that is outside of it. What is empty in
    both counts as 1; nan where no slice has foreground. The smoothing that was released is not known: there is none.
    """
    in_slice = (-2, -1)
    dice: list[np.ndarray] = []
    for found, wanted in ((mask, target), (~mask, ~target)):
        both = found.sum(in_slice) + wanted.sum(in_slice)
        twice = 2 * (found & wanted).sum(in_slice)
        dice.append((twice + (both == 0)) / (both + (both == 0)))
    of_slice = ((dice[0] + dice[1]) / 2).reshape(-1)
    has_foreground = target.any(in_slice).reshape(-1)
    over_foreground = float(of_slice[has_foreground].mean()) if has_foreground.any() else nan
    return dict(zip(IOPFL, (float(of_slice.mean()), over_foreground), strict=True))
