"""What a predictor says of a site's pictures, case by case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedlit.data.pictures import Case, Pictures, batches_of_cases
from fedlit.losses import masks
from fedlit.prediction.base import Learnt, Mixture, Predictor


class Predicted(NamedTuple):
    """A case's planes [slices, K, H, W], and of a mixture its gates: how much of each member went into each layer."""

    case: Case
    planes: Tensor
    gates: Mapping[tuple[str, str], float]  # by (layer, member)


def case_by_case(
    predictor: Predictor,
    learnt: Learnt,
    pictures: Pictures,
    cases: Sequence[Case] | None = None,
    *,
    place: Callable[[Tensor], Tensor],
    read: Callable[[Tensor, int], Tensor] = masks,
) -> Iterator[Predicted]:
    """The predictions for a site's pictures; nothing where there is no model for the site.

    Args:
        cases: all, if None.
        place: images [B, C, H, W] -> the same where the network is, in its memory format.
        read: logits [B, C, H, W] and the number of classes K -> planes [B, K, H, W], of one byte a pixel.
    """
    unlabelled = pictures.unlabelled()
    learnt.check_pictures(unlabelled)
    model = predictor.prepare(learnt, unlabelled)
    if model is None:
        return
    mixture = model if isinstance(model, Mixture) else None
    cases = unlabelled.cases if cases is None else cases
    for group in batches_of_cases(cases, pictures.size is not None, learnt.batch_size):
        indices = [index for case in group for index in case.indices]
        planes, gates = [], []
        for start in range(0, len(indices), learnt.batch_size):
            images = unlabelled.images(indices[start : start + learnt.batch_size])
            with torch.inference_mode():
                planes.append(read(model(place(images)), pictures.num_classes).cpu())
            gates.append(mixture.gates.float().cpu() if mixture else torch.empty(len(images), 0))
        sizes = [len(case.indices) for case in group]
        parts = zip(group, torch.cat(planes).split(sizes), torch.cat(gates).split(sizes), strict=True)
        yield from (Predicted(case, found, by_layer(mixture, gate.mean(0))) for case, found, gate in parts)


def by_layer(mixture: Mixture | None, gates: Tensor) -> dict[tuple[str, str], float]:
    """By layer and member, the gates [layers, members] of a case; none where the model is no mixture."""
    if mixture is None:
        return {}
    return {
        (layer, member): gates[row, column].item()
        for row, layer in enumerate(mixture.layers)
        for column, member in enumerate(mixture.members)
    }


def as_case(planes: Tensor, case: Case) -> Tensor:
    """[slices, K, H, W] -> [K, H, W] of a picture, [K, slices, H, W] of a volume."""
    return planes.transpose(0, 1) if case.is_volume else planes[0]
