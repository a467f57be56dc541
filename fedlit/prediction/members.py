"""The members' models, as predictors for other sites find them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlit.errors import BadInput
from fedlit.losses import is_softmax, precise
from fedlit.messages import Expert, Server, Slots
from fedlit.networks.feature_cache import content
from fedlit.prediction.base import Learnt, Model
from fedlit.weights import beside, lerp


def members(learnt: Learnt) -> list[Expert]:
    """What the members share, in the order of their names, with their personal models.

    Raises:
        BadInput: nothing, or a model of another network.
    """
    return [personal(learnt, expert) for expert in own_models(learnt)]


def own_model(name: str, server: Server, memory: Slots, kept: Sequence[str]) -> Expert | None:
    """A member with its own model, and the share of it in its personal one where that mixes it with the global one.

    That is the `average` of its local models, with the entries that it keeps as its personal model has them; else its
    `personal` one, else the global one with the entries it keeps. None without any.
    """
    if "average" in memory:
        share, average = memory["mixture"]["share"].item(), memory["average"]
        here = {entry: value for entry, value in average.items() if entry not in server.weights}
        as_used = lerp(beside(memory.get("kept", {}), here), here, share)
        return Expert(name, {**average, **as_used}, scalars={"share": share})
    if "personal" in memory:
        return Expert(name, memory["personal"])
    return Expert(name, {**server.weights, **memory["kept"]}) if kept and "kept" in memory else None


def personal(learnt: Learnt, expert: Expert) -> Expert:
    """A member with its personal model: its own and the newest global one, mixed by its share.

    Entries that the global model lacks are kept at the member, and told as it uses them.
    """
    share, of_all = expert.scalars.get("share", 1.0), learnt.server.weights
    if share == 1.0:
        return expert
    shared = {name: value for name, value in expert.weights.items() if name in of_all}
    mixed = lerp({name: of_all[name].to(value) for name, value in shared.items()}, shared, share)
    return replace(expert, weights={**expert.weights, **mixed})


def own_models(learnt: Learnt) -> list[Expert]:
    """What the members share, in the order of their names: the models of `own_model`, mixed with nothing.

    Raises as `members` does.
    """
    if not learnt.experts:
        raise BadInput(
            f"{learnt.site or 'this model'}: no member shares a personal model; train with algorithm=iopfl and "
            "share_personal=true, or use prediction=global"
        )
    entries = learnt.resident.entries
    for name in sorted(learnt.experts):
        weights = learnt.experts[name].weights
        for entry in sorted(entries.keys() | weights.keys()):
            here, there = (tuple(side[entry].shape) if entry in side else "absent" for side in (entries, weights))
            if here != there:
                raise BadInput(
                    f"the personal model of {name} is of another network: entry {entry} is {there} there and {here} "
                    "here; give the network that the members were trained with"
                )
        if not is_finite(learnt.experts[name]):
            raise BadInput(f"the personal model of {name} holds NaN or Inf; leave it out, or train again")
    return [learnt.experts[name] for name in sorted(learnt.experts)]


def alike(learnt: Learnt, entries: Collection[str], where: str) -> Iterator[str]:
    """What there is to say where no member's own model differs from the global one in any of these entries.

    Raises as `own_models` does.
    """
    experts, of_all = own_models(learnt), learnt.shared
    if of_all is not None and all(
        torch.equal(expert.weights[name], of_all[name].to(expert.weights[name]))
        for expert in experts
        for name in entries
    ):
        yield (
            f"members' own models do not differ from the global one {where}, and no mixture of them does; train with "
            "algorithm=iopfl, or leave it out"
        )


def is_finite(expert: Expert) -> bool:
    return all(bool(value.isfinite().all()) for value in expert.weights.values())


def predictions(learnt: Learnt, experts: Iterable[Expert]) -> Model:
    """All members' models in one: the mean of their probabilities.

    One after the other is loaded into the resident network for each batch (31 MB in some milliseconds for the 7.76 M
    parameters of a U-Net), so that only their weights are kept, and one network.
    """
    experts = list(experts)

    def logits(images: Tensor) -> Iterator[Tensor]:
        for expert in experts:
            learnt.resident.load(expert.weights)
            yield learnt.network(images)

    return lambda images: mean_prediction(logits(images), learnt.num_classes)


def remembered(model: Model, most_bytes: float = 2e9) -> Model:
    """A model that says of a picture that comes again what it said of it first; the picture's bits tell.

    Args:
        model: says of a picture [1, C, H, W] the same in whatever batch it comes.
        most_bytes: of what is remembered, in the machine's memory; further pictures are computed every time.
    """
    known: dict[str, Tensor] = {}

    def of(images: Tensor) -> Tensor:
        names = [content(image) for image in images]
        if known.keys() >= set(names):
            return torch.stack([known[name] for name in names]).to(images.device)
        logits = model(images)
        for name, one in zip(names, logits.to("cpu"), strict=True):
            if (len(known) + 1) * one.nbytes <= most_bytes:
                known.setdefault(name, one.clone())
        return logits

    return of


@torch.no_grad()
def mean_prediction(several: Iterable[Tensor], num_classes: int) -> Tensor:
    """The logits whose probabilities are the mean of those of several logits, in at least float32.

    Of a sigmoid log(sum p) - log(sum (1 - p)), of a softmax log(mean p): exact also where a probability is nearly 0 or
    1. Softmax logits are defined but for a number added to all of them; here the probabilities sum to one.

    Args:
        several: at least one of [B, K, H, W] (sigmoid) or [B, K + 1, H, W] (softmax); they are added up as they come.
    """
    total, count = torch.zeros(()), 0
    for logits in several:
        softmax, logits = is_softmax(logits, num_classes), precise(logits)
        logs = torch.stack([logits.log_softmax(1)] if softmax else [F.logsigmoid(logits), F.logsigmoid(-logits)])
        total, count = torch.logaddexp(total, logs) if count else logs, count + 1
    return total[0] - total[1] if len(total) == 2 else total[0] - math.log(count)
