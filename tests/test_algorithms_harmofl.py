"""HarmoFL: the gradient of a step is that of the same batches a little way uphill."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from fedlit.algorithms import FedAvg, HarmoFL
from fedlit.algorithms.harmofl import uphill
from fedlit.losses import DiceBCE
from fedlit.weights import sha256
from tests.conftest import make_federation, make_network, make_site, run_rounds


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_descends_by_the_gradient_uphill(accumulate):
    """Two steps of SGD by hand: g = grad F(w), then w - lr grad F(w + alpha g / |g|), over all batches of a step."""
    site, alpha = make_site("a", (8, 1, 1)), 0.5
    options = {"optimizer": sgd, "batch_size": 4 // accumulate, "accumulate_batches": accumulate}
    federation, server = make_federation([site], network=make_network(), **options)
    client = federation.fleet.clients["a"]
    network, loss = make_network(), DiceBCE()
    weights = {name: value.detach() for name, value in network.named_parameters()}

    def gradient(at, step):
        at = {name: value.clone().requires_grad_() for name, value in at.items()}
        batch = site.train.batch([index for request in step for index in request.indices])
        found = loss(functional_call(network, at, (batch["image"],)), batch["target"])
        return dict(zip(at, torch.autograd.grad(found, [*at.values()]), strict=True))

    for step in client.plan.requests(site, 0):
        first = gradient(weights, step)
        norm = torch.cat([value.flatten() for value in first.values()]).norm()
        there = gradient({name: value + alpha * first[name] / norm for name, value in weights.items()}, step)
        weights = {name: value - 0.1 * there[name] for name, value in weights.items()}
    learnt = run_rounds(federation, server, 1, HarmoFL(alpha=alpha)).weights
    plain = run_rounds(*make_federation([site], network=make_network(), **options), 1).weights
    for name, value in weights.items():
        torch.testing.assert_close(learnt[name], value, atol=1e-6, rtol=1e-5)
    assert max(float((plain[name] - value).abs().max()) for name, value in weights.items()) > 1e-3


def test_dropout_is_the_same_on_both_ways_and_no_way_is_fedavg():
    site = make_site("a", (4, 1, 1))

    def learnt(algorithm):
        return run_rounds(*make_federation([site], network=make_network(dropout=0.5), optimizer=sgd), 1, algorithm)

    near, plain = learnt(HarmoFL(alpha=1e-7)), learnt(FedAvg())
    for name, value in plain.weights.items():
        torch.testing.assert_close(near.weights[name], value, atol=1e-5, rtol=1e-5)
    assert sha256(learnt(HarmoFL(alpha=0)).weights) == sha256(plain.weights)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_step_that_a_loss_scaler_leaves_out_goes_no_way(value):
    network = make_network("batch")
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, value)
    before = sha256(network.state_dict())
    descend = uphill(0.5)(network)
    assert sha256(network.state_dict()) == before
    descend()
    assert sha256(network.state_dict()) == before


def test_a_way_below_nothing_is_refused():
    with pytest.raises(ValueError, match="alpha=-1 is not allowed; use 0 or more"):
        HarmoFL(alpha=-1)
