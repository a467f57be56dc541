"""Against client drift: control variates and bent losses reach the pooled minimum, where FedAvg stops short of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedlit.aggregation import GeometricMedian, Mean, NormClipping
from fedlit.algorithms import FedAvg, FedDC, FedDyn, FedNova, Sampling, Scaffold
from fedlit.algorithms.fednova import length_of_steps
from fedlit.data.pictures import Pictures
from fedlit.data.site import Site
from fedlit.weights import add, sha256
from tests.conftest import fedlit, make_federation, run_rounds


class Slope(nn.Module):
    """image -> w image: with a target of 1 a client of brightness a has the loss (a w - 1)^2, least at 1 / a."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return self.w * image


BRIGHTNESS = {"a": 1.0, "b": 0.8, "c": 0.4}
POOLED = sum(BRIGHTNESS.values()) / sum(a**2 for a in BRIGHTNESS.values())
MEAN_OF_LOCAL = sum(1 / a for a in BRIGHTNESS.values()) / 3
STEPS, LR = 30, 0.7
"""What is left of a client's distance to its minimum after a round: |1 - 2 lr a^2|^30, at most 0.05 %, of client c."""


def slope(algorithm, num_rounds, *, sampling=None):
    """w after rounds in which clients all but reach their own minima, whatever the algorithm."""
    sites = []
    for name, brightness in BRIGHTNESS.items():
        image = np.full((2, 4, 4, 1), round(255 * brightness), np.uint8)
        pictures = Pictures.from_arrays(image, np.ones((2, 4, 4), np.uint8), np.array([[0, 1]]), name=name)
        sites.append(Site(name, "member", seed_name=name, train=pictures, val=pictures, test=pictures))
    federation, server = make_federation(
        sites,
        network=Slope(),
        sampling=sampling,
        epochs=None,
        steps=STEPS,
        optimizer=lambda values: torch.optim.SGD(values, lr=LR),
    )
    for client in federation.fleet.clients.values():
        client.objective = lambda network, batch: (network(batch["image"]) - batch["target"]).square().mean()
    return run_rounds(federation, server, num_rounds, algorithm).weights["w"].item()


@pytest.mark.parametrize("num_rounds", [1, 5])
def test_fedavg_stops_at_the_mean_of_the_local_minima(num_rounds):
    """One round takes it there: local solves are exact."""
    assert slope(FedAvg(), num_rounds) == pytest.approx(MEAN_OF_LOCAL, abs=1e-3)
    assert abs(MEAN_OF_LOCAL - POOLED) > 0.3


@pytest.mark.parametrize(
    ("algorithm", "num_rounds"),
    [(Scaffold(), 120), (FedDyn(alpha=0.5), 20), (FedDC(alpha=0.5), 30)],
    ids=lambda each: type(each).__name__,
)
def test_drift_is_corrected(algorithm, num_rounds):
    assert slope(algorithm, num_rounds) == pytest.approx(POOLED, abs=2e-3)


def test_feddyn_gets_there_though_only_two_of_three_take_part():
    two = Sampling(clients_per_round=2)
    assert slope(FedDyn(alpha=0.5), 40, sampling=two) == pytest.approx(POOLED, abs=2e-3)


@pytest.mark.parametrize("num_clients", [3, 2])
def test_the_servers_control_is_the_mean_of_the_clients(sites, num_clients):
    """Over all clients, those that have not taken part yet with 0."""
    federation, server = make_federation(sites, sampling=Sampling(clients_per_round=num_clients))
    after = run_rounds(federation, server, 3, Scaffold())
    controls = [memory["control"] for memory in federation.fleet.memories.values()]
    for name, value in after.slots["control"].items():
        torch.testing.assert_close(value, sum(control[name] for control in controls) / 3, atol=1e-6, rtol=1e-5)


def test_with_plain_sgd_a_control_is_the_papers_second_option(sites):
    """c_i - c + (x - y_i) / (K lr), here in a client's second round."""
    lr = 0.05
    federation, server = make_federation(sites, optimizer=lambda values: torch.optim.SGD(values, lr=lr))
    server = run_rounds(federation, server, 1, Scaffold())
    client, old = federation.fleet.clients["a"], federation.fleet.memories["a"]["control"]
    client.memory = federation.fleet.memories["a"]
    update, memory = Scaffold().local_update(client, Scaffold().broadcast(server))
    factor = 1 / (client.plan.num_steps(client.site) * lr)
    for name, value in memory["control"].items():
        wanted = old[name] - server.slots["control"][name] + factor * (server.weights[name] - update.weights[name])
        torch.testing.assert_close(value, wanted, atol=1e-4, rtol=1e-4)
    assert sha256(add(old, update.slots["change"])) != sha256(old)


def test_fednova_with_equal_steps_is_fedavg(sites):
    options = {"epochs": None, "steps": 3}
    plain = run_rounds(*make_federation(sites, **options), 1).weights
    for name, value in run_rounds(*make_federation(sites, **options), 1, FedNova()).weights.items():
        torch.testing.assert_close(value, plain[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "words, text",
    [
        (["optimizer.momentum=0.9", "optimizer_state=keep"], "optimizer_state=keep is not allowed with momentum"),
        (["optimizer.momentum=0.9", "optimizer.nesterov=true"], "optimizer.nesterov=True is not allowed: FedNova"),
        (["optimizer.momentum=0.9", "optimizer.dampening=0.5"], "optimizer.dampening=0.5 is not allowed: FedNova"),
        (["optimizer.momentum=1.0"], "optimizer.momentum=1 is not allowed; use 0 or more, below 1"),
    ],
)
def test_steps_that_fednova_cannot_count_are_refused_before_the_run(config_file, capsys, words, text):
    sgd = "optimizer={_target_: torch.optim.SGD, lr: 0.1}"
    assert fedlit("check", config_file, "algorithm=fednova", sgd, *words) == 2
    assert text in capsys.readouterr().err
    assert fedlit("check", config_file, "algorithm=fednova", sgd, "optimizer.momentum=0.9") == 0


@pytest.mark.parametrize(("momentum", "lengths"), [(0.0, (4, 3, 2)), (0.5, (6.125, 4.25, 2.5))])
def test_fednova_is_the_sum_of_the_paper(sites, momentum, lengths):
    """Sites of 7, 5 and 4 pictures take 4, 3 and 2 steps of 2: w - (sum p a) sum p (w - w_k) / a.

    With momentum .5 the gradients of four steps count 1.875, 1.75, 1.5 and 1 times, of fewer the last of these.
    """
    options = {"batch_size": 2, "optimizer": lambda values: torch.optim.SGD(values, lr=0.05, momentum=momentum)}
    federation, server = make_federation(sites, **options)
    found = run_rounds(federation, server, 1, FedNova()).weights["head.weight"]
    start, total = server.weights["head.weight"].double(), torch.zeros_like(found).double()
    for site, length in zip(sites, lengths, strict=True):
        local = run_rounds(*make_federation([site], **options), 1).weights["head.weight"]
        total += len(site.train) / 16 * (start - local) / length
    wanted = start - sum(n * length for n, length in zip((7, 5, 4), lengths, strict=True)) / 16 * total
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-6)


def test_momentum_lengthens_steps():
    """Three steps with momentum .5 weigh a gradient 1.75, 1.5 and 1 times."""
    assert length_of_steps(5) == 5 and length_of_steps(3, 0.5) == pytest.approx(1.75 + 1.5 + 1)


def test_a_drift_is_what_a_client_sends_beside_its_model(sites):
    """In the first round h is the change itself, so w + 2 (w_k - w) is sent."""
    federation, server = make_federation(sites[:1])
    plain = run_rounds(*make_federation(sites[:1], keep_local=()), 1).weights
    after = run_rounds(federation, server, 1, FedDC(alpha=1e-8)).weights
    for name, value in after.items():
        wanted = 2 * plain[name] - server.weights[name]
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-5)


def test_a_step_of_feddc_is_that_of_the_paper(sites):
    """w - lr (grad F_k(w) + alpha h_k + g - g_k), in a second round of one step, of which all that is met is g_k."""
    lr, algorithm = 0.1, FedDC(alpha=0.5)
    plain_sgd = {"optimizer": lambda values: torch.optim.SGD(values, lr=lr), "steps": 1, "epochs": None}
    federation, server = make_federation(sites, **plain_sgd)
    server = run_rounds(federation, server, 1, algorithm)
    client, old = federation.fleet.clients["a"], federation.fleet.memories["a"]
    alone = FedAvg().local_update(client, FedAvg().broadcast(server))[0].weights
    client.memory = old
    update, memory = algorithm.local_update(client, algorithm.broadcast(server))
    far = {}
    for name, drift in old["drift"].items():
        far[name] = server.slots["gradient"][name] - old["gradient"][name]
        moved = alone[name] - lr * (0.5 * drift + far[name])
        near = {"atol": 1e-6, "rtol": 1e-5}
        torch.testing.assert_close(memory["gradient"][name], (server.weights[name] - moved) / lr, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(memory["drift"][name], drift + moved - server.weights[name], **near)
        torch.testing.assert_close(update.weights[name], moved + drift + moved - server.weights[name], **near)
    assert max(value.abs().max() for value in far.values()) > 1e-3


def test_no_pull_is_uniform_fedavg(sites):
    plain = run_rounds(*make_federation(sites), 2, FedAvg(aggregate=Mean(by="uniform"))).weights
    assert sha256(run_rounds(*make_federation(sites), 2, FedDyn(alpha=0)).weights) == sha256(plain)


@pytest.mark.parametrize("algorithm", [Scaffold(), FedDyn(), FedDC()], ids=lambda each: type(each).__name__)
def test_what_stays_local_is_left_alone(algorithm, sites):
    federation, server = make_federation(sites, keep_local=["*norm*"])
    run_rounds(federation, server, 2, algorithm)
    for memory in federation.fleet.memories.values():
        assert not any("norm" in name for slot in memory.keys() - {"kept"} for name in memory[slot])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: FedDyn(alpha=-1), "alpha=-1 is not allowed; use 0 or more"),
        (lambda: FedDC(alpha=-0.1), "alpha=-0.1 is not allowed"),
        (lambda: FedNova(aggregate=Mean()), "FedNova weighs updates by its own formula; leave it out"),
        (
            lambda: Scaffold(aggregate=Mean()),
            "SCAFFOLD corrects the mean in which all clients count alike; use by=uniform",
        ),
        (lambda: FedDyn(aggregate=NormClipping()), "FedDyn corrects the mean in which all clients count alike"),
        (lambda: FedDyn(aggregate=GeometricMedian()), "FedDyn corrects the mean in which all clients count alike"),
        (lambda: FedDyn(aggregate=Mean("loss")), "FedDyn corrects the mean in which all clients count alike"),
    ],
)
def test_what_cannot_be_is_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()
