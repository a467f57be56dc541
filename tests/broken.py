"""A loss that breaks on the pictures of one site."""

from dataclasses import dataclass

from fedlit.losses import DiceBCE


@dataclass(frozen=True)
class NanAt:
    """NaN where a batch's targets cover more than `mean_above` of it."""

    mean_above: float

    def __call__(self, logits, target):
        loss = DiceBCE()(logits, target)
        return loss * float("nan") if target.mean() > self.mean_above else loss
