"""What test-time methods do to normalising layers: a batch's or a site's statistics, and tuning their scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedlit.data.pictures import Unlabelled
from fedlit.prediction.adaptation import Adaptation
from fedlit.prediction.base import Learnt, Model
from fedlit.prediction.features import norm_layers, observed
from fedlit.prediction.learner import Objective, Step, batches, descend
from fedlit.resident import Resident


def batch_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """The layers, by name, that normalise with running statistics of the training pictures."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def use_batch_statistics(network: nn.Module) -> dict[str, _BatchNorm]:
    """Let BatchNorm normalise with the batch's own statistics also in evaluation mode; returns these layers.

    In evaluation mode SyncBatchNorm does so too, without asking another process. Where a channel has a single value,
    one picture at a bottleneck of 1x1, there are no statistics, and those of the training pictures serve.
    """
    layers = batch_norms(network)
    for layer in layers.values():
        layer.forward = partial(_normalised, layer, layer.running_mean, layer.running_var)  # type: ignore[method-assign]
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
        layer.track_running_stats = False
    return layers


def _normalised(layer: _BatchNorm, mean: Tensor | None, variance: Tensor | None, x: Tensor) -> Tensor:
    if layer.running_mean is None and x.numel() == x.shape[1]:
        return F.batch_norm(x, mean, variance, layer.weight, layer.bias, False, 0.0, layer.eps)
    return type(layer).forward(layer, x)


def settle(learnt: Learnt, network: nn.Module, layers: dict[str, _BatchNorm], images: Unlabelled) -> None:
    """Give layers that `use_batch_statistics` the statistics of all pictures of the site, from one pass over them.

    Each batch goes through the network normalised by itself. From then on a prediction depends on its picture alone.
    """
    model, parameter = learnt.lend(network), next(network.parameters())
    with torch.inference_mode(False), torch.no_grad(), observed(layers) as found:
        for batch in batches(images, learnt.batch_size):
            model(images.images(batch).to(parameter.device))
    for name, moments in found.items():
        layer = layers[name]
        if moments.count < 2:  # of one value there is no variance
            continue
        like = parameter if layer.weight is None else layer.weight
        layer.running_mean = moments.mean.to(like)
        layer.running_var = moments.variance(correction=1).to(like)
        layer.track_running_stats = True


def scales_and_shifts(resident: Resident) -> set[str]:
    """The names of the affine parameters of normalising layers that the federation trains."""
    named = {f"{layer}.{part}" for layer in norm_layers(resident.network) for part in ("weight", "bias")}
    return named & resident.parameters.keys()


def untuned(resident: Resident, lr: float) -> Iterator[str]:
    """What there is to say of a network in which `tuned_norms` changes nothing, by steps of `lr`."""
    if not scales_and_shifts(resident):
        yield "the federation trains no scale or shift of a normalising layer: there is nothing to adapt"
    yield from lost_steps(resident, lr)


def lost_steps(resident: Resident, lr: float) -> Iterator[str]:
    """What there is to say where steps of `lr` are less than half the distance between numbers near 1."""
    for dtype in {resident.parameters[name].dtype for name in scales_and_shifts(resident)}:
        if lr < torch.finfo(dtype).eps / 2:
            yield (
                f"adaptation.lr={lr:g} is lost in {str(dtype).removeprefix('torch.')}, in which the network is held: "
                f"numbers near 1 are {torch.finfo(dtype).eps:.2g} apart, and scales stay as they are; use "
                "precision=bf16-mixed or 32-true"
            )


def tuned_norms(
    learnt: Learnt,
    images: Unlabelled | None,
    adaptation: Adaptation,
    objective: Objective,
    *,
    make_step: Callable[[], Step] = lambda: descend,
) -> Model | None:
    """The global model with the scales and shifts of its normalising layers adapted to a site.

    BatchNorm sees batch statistics; after a transductive adaptation those of the whole site. Scales and shifts that the
    federation left frozen stay so. None without a global model for the site, or where no normalising layer is trained.
    """
    if learnt.shared is None:
        return None
    trained = scales_and_shifts(learnt.resident)
    if not trained:
        return None
    network = learnt.copy(learnt.shared)
    entries = dict(network.named_parameters())
    for name in trained:
        entries[name].requires_grad_(True)
    layers = use_batch_statistics(network)
    model = adaptation.adapt(learnt, network, images, objective, make_step=make_step)
    if layers and images is not None and adaptation.protocol == "transductive":
        settle(learnt, network, layers, images)
    return model
