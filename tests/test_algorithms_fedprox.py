"""FedProx: no pull is FedAvg, a strong one holds the clients back."""

from __future__ import annotations

import pytest
import torch

from fedlit.algorithms import FedAvg, FedProx
from fedlit.algorithms.fedprox import proximal
from fedlit.weights import sha256, subtract
from tests.conftest import make_federation, run_rounds


def test_without_a_pull_it_is_fedavg_bit_for_bit(sites):
    plain = run_rounds(*make_federation(sites), 2, FedAvg()).weights
    assert sha256(run_rounds(*make_federation(sites), 2, FedProx(mu=0)).weights) == sha256(plain)


def test_the_stronger_the_pull_the_nearer_clients_stay(sites):
    def moved(mu):
        federation, server = make_federation(sites)
        after = run_rounds(federation, server, 1, FedProx(mu=mu)).weights
        return sum(value.square().sum() for value in subtract(after, server.weights).values())

    assert moved(0) > moved(1) > moved(100)


def test_the_pull_is_half_of_mu_times_the_squared_distance():
    network = torch.nn.Linear(2, 1)
    pull = proximal({"weight": network.weight.detach().clone()}, strength=0.5)
    assert pull(network) == 0
    with torch.no_grad():
        network.weight += torch.tensor([[3.0, 4.0]])
        network.bias += 7.0  # is not shared
    assert pull(network).item() == pytest.approx(0.5 / 2 * 25)


def test_what_stays_local_is_not_pulled(sites):
    federation, server = make_federation(sites, keep_local=["*norm*"])
    assert not any("norm" in name for name in server.weights)
    run_rounds(federation, server, 1, FedProx(mu=1))


def test_a_push_is_refused():
    with pytest.raises(ValueError, match="mu=-1 is not allowed"):
        FedProx(mu=-1)
