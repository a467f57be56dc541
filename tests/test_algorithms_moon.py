"""MOON: nothing in a first round, a pull towards the global view after it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedlit.algorithms import MOON, FedAvg
from fedlit.errors import BadInput
from fedlit.weights import sha256
from tests.conftest import make_federation, make_network, run_rounds


def test_without_contrast_it_is_fedavg_bit_for_bit(sites):
    plain = run_rounds(*make_federation(sites), 2, FedAvg()).weights
    assert sha256(run_rounds(*make_federation(sites), 2, MOON(mu=0)).weights) == sha256(plain)
    assert sha256(run_rounds(*make_federation(sites), 2, MOON()).weights) != sha256(plain)


def test_the_first_round_has_no_last_model_to_differ_from(sites):
    plain = run_rounds(*make_federation(sites), 1, FedAvg()).weights
    assert sha256(run_rounds(*make_federation(sites), 1, MOON()).weights) == sha256(plain)


def test_equal_views_cost_the_logarithm_of_two(sites):
    """Where the last model is the global one, both cosines agree: mu log 2 is added to the loss at the start."""
    federation, server = make_federation(sites[:1], epochs=None, steps=1, batch_size=7)
    client = federation.fleet.clients["a"]
    client.memory = {"previous": dict(server.weights)}
    losses = [MOON(mu=mu).local_update(client, MOON().broadcast(server))[0].scalars["loss"] for mu in (0, 3)]
    assert losses[1] - losses[0] == pytest.approx(3 * 0.6931, abs=1e-3)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_global_view_is_near_and_the_last_one_far(sites, temperature):
    """-log(e^(s/t) / (e^(s/t) + e^(r/t))), at the start with s = 1 and r the cosine with the last model's view."""
    federation, server = make_federation(sites[:1], epochs=None, steps=1, batch_size=7)
    client = federation.fleet.clients["a"]
    previous = {name: value + 0.3 * torch.randn_like(value) for name, value in server.weights.items()}
    client.memory, moon = {"previous": previous}, MOON(mu=2.0, temperature=temperature)
    plain, losses = (
        each.local_update(client, each.broadcast(server))[0].scalars["loss"] for each in (MOON(mu=0), moon)
    )
    images, views = client.site.train.batch(range(7))["image"], []
    handle = client.network.representation.register_forward_hook(lambda *found: views.append(found[2].mean((2, 3))))
    with torch.no_grad():
        for weights in server.weights, previous:
            client.load(weights)
            client.network(images)
    handle.remove()
    far = torch.cosine_similarity(*views)
    assert far.max() < 0.999
    wanted = 2.0 * torch.log1p(torch.exp((far - 1) / temperature)).mean().item()
    assert losses - plain == pytest.approx(wanted, abs=1e-4)


def test_other_views_leave_running_statistics_and_memory_alone(sites):
    federation, server = make_federation(sites, network=make_network(norm="batch"))
    server = run_rounds(federation, server, 1, MOON())
    before = {name: sha256(memory["previous"]) for name, memory in federation.fleet.memories.items()}
    client = federation.fleet.clients["a"]
    client.memory = federation.fleet.memories["a"]
    update, memory = MOON().local_update(client, MOON().broadcast(server))
    assert {name: sha256(each["previous"]) for name, each in federation.fleet.memories.items()} == before
    assert client.network.training and sha256(memory["previous"]) == sha256(update.weights)


def test_running_statistics_are_those_of_training_alone(sites):
    """With a contrast that weighs nothing, the views are looked at and leave no trace."""

    def trained(algorithm):
        sgd, network = (lambda values: torch.optim.SGD(values, lr=0.01)), make_network(norm="batch")
        return run_rounds(*make_federation(sites, network=network, optimizer=sgd), 2, algorithm).weights

    found, wanted = trained(MOON(mu=1e-30)), trained(FedAvg())
    statistics = [name for name in wanted if "running" in name]
    assert statistics
    for name in statistics:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-6, rtol=1e-6)


def test_a_layer_can_be_named(sites):
    default = run_rounds(*make_federation(sites), 2, MOON()).weights
    assert sha256(run_rounds(*make_federation(sites), 2, MOON(layer="encoders.2")).weights) == sha256(default)
    assert sha256(run_rounds(*make_federation(sites), 2, MOON(layer="encoders.0")).weights) != sha256(default)
    with pytest.raises(BadInput, match=r"'encoder' is no layer of UNet; give the name of one, such as encoders"):
        run_rounds(*make_federation(sites), 1, MOON(layer="encoder"))


def test_a_network_that_names_no_representation_needs_a_layer(sites):
    with pytest.raises(BadInput, match="is not set, and no `representation` is named by Conv2d"):
        run_rounds(*make_federation(sites, network=nn.Conv2d(1, 1, 3, padding=1)), 1, MOON())


def test_micro_sam_has_a_representation(sites):
    from fedlit.networks import SAM, Adapters

    torch.manual_seed(0)
    federation, server = make_federation(sites[:1], network=SAM(1, 1, size="micro", tuning=Adapters()))
    assert sha256(run_rounds(federation, server, 2, MOON()).weights) != sha256(server.weights)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: MOON(mu=-1), "mu=-1 is not allowed; use 0 or more"),
        (lambda: MOON(temperature=0), "temperature=0 is not allowed; use above 0"),
    ],
)
def test_what_cannot_be_is_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()
