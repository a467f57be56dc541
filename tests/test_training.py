"""The local loop: batches by address, shares by pictures, and openings that see what they should."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedlit.errors import ClientFailed
from fedlit.training import Cosine, LocalTraining, Step
from fedlit.training_state import load_loss_scale, load_optimizer_state, loss_scale, optimizer_state
from fedlit.weights import sha256
from tests.conftest import make_federation, make_network, make_site, run_rounds


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def trained(site, **options):
    """The weights and the client after one round at one site."""
    network = options.pop("network", None)
    openings = options.pop("openings", {})
    federation, server = make_federation([site], network=network, **options)
    client = federation.fleet.clients[site.name]
    client.load(server.weights)
    client.fit(0, **openings)
    return client.weights(), client


def test_a_round_shows_every_picture_once_per_epoch_in_an_order_of_its_own():
    site = make_site("a", (7, 1, 1))
    plan = LocalTraining(sgd, epochs=2, batch_size=3)
    rounds = [
        [index for step in plan.requests(site, round) for request in step for index in request.indices]
        for round in (0, 1)
    ]
    assert all(sorted(order[:7]) == sorted(order[7:]) == list(range(7)) for order in rounds)
    assert len({tuple(order[start : start + 7]) for order in rounds for start in (0, 7)}) == 4
    assert rounds[1] == [index for step in plan.requests(site, 1) for request in step for index in request.indices]


@pytest.mark.parametrize(("num", "batch_size"), [(10, 4), (8, 4), (3, 4), (1, 1)])
def test_all_batches_but_the_last_of_an_epoch_are_full(num, batch_size):
    plan, site = LocalTraining(sgd, batch_size=batch_size), make_site("a", (num, 1, 1))
    batches = [request.indices for step in plan.requests(site, 0) for request in step]
    assert sorted(index for batch in batches for index in batch) == list(range(num))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_the_seed_decides_the_order():
    site = make_site("a", (50, 1, 1))
    orders = [
        [index for (request,) in LocalTraining(sgd, seed=seed).requests(site, 0) for index in request.indices]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_local_steps_count_optimizer_steps(steps):
    site = make_site("a", (7, 1, 1))
    plan = LocalTraining(sgd, epochs=None, steps=steps, batch_size=2, accumulate_batches=2)
    assert len(list(plan.requests(site, 0))) == plan.num_steps(site) == steps


def test_steps_of_one_epoch_equal_that_epoch():
    site = make_site("a", (7, 1, 1))
    assert sha256(trained(site, epochs=None, steps=2)[0]) == sha256(trained(site, epochs=1)[0])


def test_accumulated_batches_count_by_their_pictures():
    """Batches of 4 and 3 in one step are the batch of 7, though 7 is uneven."""
    site = make_site("a", (7, 1, 1))
    whole, _ = trained(site, batch_size=7, optimizer=sgd)
    parts, _ = trained(site, batch_size=4, accumulate_batches=2, optimizer=sgd)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=1e-5)


def test_a_batch_larger_than_the_site_is_one_smaller_batch():
    site = make_site("a", (3, 1, 1))
    assert sha256(trained(site, batch_size=8)[0]) == sha256(trained(site, batch_size=3)[0])


def test_penalty_adds_to_the_gradient_and_correct_changes_it():
    site = make_site("a", (4, 1, 1))
    seen = {}

    def penalty(network):
        return sum(value.sum() for value in network.parameters())

    def keep(name):
        return lambda network: seen.update(
            {name: {key: value.grad.clone() for key, value in network.named_parameters()}}
        )

    trained(site, openings={"correct": keep("plain")})
    trained(site, openings={"correct": keep("pulled"), "penalty": penalty})
    for name, value in seen["plain"].items():
        torch.testing.assert_close(seen["pulled"][name], value + 1, atol=1e-5, rtol=1e-4)

    def stop(network):
        for value in network.parameters():
            value.grad.zero_()

    after, client = trained(site, optimizer=sgd, openings={"correct": stop})
    assert sha256(after) == sha256({name: client.workbench.resident.first[name] for name in after})


@pytest.mark.parametrize("gradient_clip", [None, 1e9])
def test_correct_sees_the_gradients_that_the_loss_has_unscaled(gradient_clip):
    """With 16-mixed the loss is multiplied by 65536 before the backward pass."""
    from lightning.fabric import Fabric
    from lightning.fabric.plugins import MixedPrecision
    from lightning.fabric.plugins.environments import LightningEnvironment

    from fedlit.fleet import World

    def seen(world):
        found = {}
        keep = lambda network: found.update({name: each.grad.clone() for name, each in network.named_parameters()})  # noqa: E731
        site = make_site("a", (4, 1, 1))
        trained(site, openings={"correct": keep}, world=world, optimizer=sgd, gradient_clip=gradient_clip)
        return found

    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    half = seen(World.of(Fabric(accelerator="cpu", devices=1, plugins=[precision, LightningEnvironment()]), None))
    for name, value in seen(None).items():
        torch.testing.assert_close(half[name], value, atol=2e-3, rtol=0.05)


def test_objective_replaces_the_loss_and_gets_the_network_as_given():
    networks = []

    def objective(network, batch):
        networks.append(network)
        return network(batch["image"]).square().mean()

    _, client = trained(make_site("a", (4, 1, 1)), openings={"objective": objective})
    assert networks == [client.workbench.network] and client.report["loss"] > 0


def test_gradient_clip_bounds_the_step():
    site = make_site("a", (4, 1, 1))
    after, client = trained(site, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0), gradient_clip=1e-3)
    first = client.workbench.resident.first
    length = math.sqrt(sum(float((after[name] - first[name]).square().sum()) for name in after))
    assert length == pytest.approx(1e-3, rel=1e-3)


def test_loss_that_is_not_finite_names_the_batch():
    def objective(network, batch):
        return network(batch["image"]).mean() * float("nan")

    with pytest.raises(ClientFailed, match="the loss is nan at batch 1; lower lr"):
        trained(make_site("a", (4, 1, 1)), openings={"objective": objective})


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_a_kept_optimizer_goes_on_as_if_it_had_never_stopped(name):
    """Two rounds with the state kept equal two with the optimizer object itself."""
    options = {"lr": 1e-2} | ({"momentum": 0.9} if name in ("SGD", "RMSprop") else {})
    site = make_site("a", (6, 1, 1))
    make = getattr(torch.optim, name)
    federation, server = make_federation(
        [site], optimizer=lambda values: make(values, **options), optimizer_state="keep"
    )
    kept = run_rounds(federation, server, 2)

    same = []

    def once(parameters):
        same.append(make(parameters, **options) if not same else same[0])
        return same[-1]

    federation, server = make_federation([site], optimizer=once)
    assert sha256(run_rounds(federation, server, 2).weights) == sha256(kept.weights)


def test_schedules_scale_the_rate_of_a_round():
    site = make_site("a", (4, 1, 1))
    half, _ = trained(site, optimizer=lambda values: torch.optim.SGD(values, lr=0.05))
    scheduled, _ = trained(site, optimizer=sgd, schedule=lambda round: 0.5)
    assert sha256(half) == sha256(scheduled)
    cosine = [Cosine(num_rounds=10, warmup=2)(round) for round in range(11)]
    assert cosine[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert cosine[6] == pytest.approx(0.5) and cosine[10] == pytest.approx(0)
    assert [Step(every=2, gamma=0.1)(round) for round in range(4)] == pytest.approx([1, 1, 0.1, 0.1])


def test_dropout_is_addressed_not_streamed():
    site = make_site("a", (6, 1, 1))
    network = lambda: make_network(dropout=0.5)  # noqa: E731
    first, _ = trained(site, network=network())
    torch.manual_seed(99)
    torch.rand(1000)
    again, _ = trained(site, network=network())
    assert sha256(first) == sha256(again)
    other, _ = trained(site, network=network(), seed=1)
    assert sha256(first) != sha256(other)


def test_clients_that_share_a_scaler_have_each_their_own_loss_scale():
    from lightning.fabric import Fabric
    from lightning.fabric.plugins import MixedPrecision
    from lightning.fabric.plugins.environments import LightningEnvironment

    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[precision, LightningEnvironment()])
    memory = {"loss_scale": {"scale": torch.tensor(8.0), "_growth_tracker": torch.tensor(3)}}
    load_loss_scale(fabric, memory)
    assert loss_scale(fabric) == memory and precision.scaler.scale(torch.tensor(1.0)) == 8
    load_loss_scale(fabric, {})
    assert loss_scale(fabric)["loss_scale"]["scale"] == 65536 and precision.scaler.scale(torch.tensor(1.0)) == 65536
    federation, _ = make_federation([make_site("a")])
    assert loss_scale(federation.fleet.workbench.fabric) == {}


def test_a_network_that_was_scored_is_trained_in_training_mode(sites):
    """Also where its wrapper, as that of a team, has a flag of its own."""

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, image):
            return self.module(image)

    federation, server = make_federation(sites, network=make_network(dropout=0.5))
    client, bench = federation.fleet.clients["a"], federation.fleet.workbench
    client.workbench = replace(bench, synced=Wrapper(bench.network))
    client.load(server.weights)
    bench.network.eval()
    client.fit(0)
    assert client.network.training and client.network.dropout.training


def test_an_optimizers_state_goes_where_its_parameters_are_whatever_its_shape():
    """Adafactor keeps means of rows and columns; where the network is on a GPU, `meta` stands for that."""
    here, there = nn.Linear(4, 3), nn.Linear(4, 3, device="meta")
    optimizer = torch.optim.Adafactor(here.parameters())
    here(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = optimizer_state(here, optimizer)
    assert {key.split("/")[0] for key in state} >= {"step", "row_var", "col_var"}
    other = torch.optim.Adafactor(there.parameters())
    load_optimizer_state(there, other, state)
    places = {entry: value.device.type for values in other.state.values() for entry, value in values.items()}
    assert {where for entry, where in places.items() if entry != "step"} == {"meta"} and places["step"] == "cpu"
