"""APFL and pFedMe: what they are at the ends of their hyper-parameters, and by hand in between."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedlit.algorithms import APFL, FedAvg, FedProx, Local, PFedMe
from fedlit.algorithms.pfedme import Follower
from fedlit.closing import own_share
from fedlit.weights import lerp, sha256, subtract
from tests.conftest import make_federation, make_site, run_rounds


def sgd(lr):
    return {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=lr)}


def trained(sites, algorithm, num_rounds=1, **options):
    """The server and the clients' memories."""
    federation, server = make_federation(sites, **options)
    return run_rounds(federation, server, num_rounds, algorithm), federation.fleet.memories


@pytest.mark.parametrize("kept", [(), ("*norm*",), ("head.*",)], ids=str)
@pytest.mark.parametrize("state", ["recreate", "keep"])
def test_apfl_of_its_own_model_alone_is_local_training_bit_for_bit(sites, state, kept):
    _, own = trained(sites, APFL(alpha=1), 3, optimizer_state=state, keep_local=kept)
    _, local = trained(sites, Local(), 3, optimizer_state=state, keep_local=kept)
    assert [sha256(own[name]["personal"]) for name in "abc"] == [sha256(local[name]["personal"]) for name in "abc"]


def test_apfl_leaves_the_federation_as_it_is(sites):
    assert sha256(trained(sites, APFL(), 2)[0].weights) == sha256(trained(sites, FedAvg(), 2)[0].weights)


@pytest.mark.parametrize("alpha", [0.3, 0.7])
def test_a_step_of_apfls_own_model_moves_the_mixture_by_alpha_squared(alpha):
    """v <- v - lr alpha g moves alpha v + (1 - alpha) w by lr alpha^2 g, with g the gradient of the mixture."""
    site, one_step = [make_site("a")], {"steps": 1, "epochs": None}
    after, memories = trained(site, APFL(alpha=alpha), **sgd(0.1), **one_step)
    federation, first = make_federation(site, **sgd(0.1 * alpha**2), **one_step)
    mixture = lerp(after.weights, first.weights, alpha)  # of one client, w is the server's and v is still the first
    client = federation.fleet.clients["a"]
    client.load(mixture)
    client.fit(0)
    for name, value in client.weights().items():
        torch.testing.assert_close(memories["a"]["personal"][name], value, atol=1e-6, rtol=1e-6)
        apart = (value - (1 - alpha) * after.weights[name]) / alpha
        torch.testing.assert_close(memories["a"]["own"][name], apart, atol=1e-5, rtol=1e-5)


def test_what_a_member_remembers_tells_how_much_of_its_model_is_its_own(sites):
    memories = trained(sites, APFL(alpha=0.3, alpha_lr=1.0), 1)[1]
    assert own_share(memories["a"]) == pytest.approx(0.3)  # of the model that is kept, not of the next one
    assert own_share(trained(sites, FedAvg(), 1)[1].get("a", {})) is None


def test_apfl_learns_its_share_down_the_slope():
    apfl = APFL(alpha_lr=0.1)
    own, local, gradient = ({"w": torch.tensor([value])} for value in (2.0, 0.0, 1.0))
    assert apfl.next_share(0.5, own, local, gradient) == pytest.approx(0.5 - 0.1 * 2 * 1)
    assert apfl.next_share(0.1, own, local, gradient) == 0.01  # never without an own model
    assert apfl.next_share(0.9, local, own, gradient) == 1.0
    assert APFL().next_share(0.5, own, local, gradient) == 0.5


def test_the_share_of_apfl_follows_the_gradient_of_the_mixture():
    """alpha - alpha_lr <v - w, g>, in a round of one step of SGD."""
    alpha, site, one_step = 0.4, [make_site("a")], {"steps": 1, "epochs": None}
    after, memories = trained(site, APFL(alpha=alpha, alpha_lr=0.5), **sgd(0.1), **one_step)
    federation, first = make_federation(site, **sgd(1.0), **one_step)
    mixture = lerp(after.weights, first.weights, alpha)  # of one client, w is the server's and v is still the first
    client = federation.fleet.clients["a"]
    client.load(mixture)
    client.fit(0)
    apart, gradient = subtract(memories["a"]["own"], after.weights), subtract(mixture, client.weights())
    slope = sum((apart[name] * value).sum().item() for name, value in gradient.items())
    assert memories["a"]["mixture"]["alpha"].item() == pytest.approx(alpha - 0.5 * slope, abs=1e-5)
    assert abs(0.5 * slope) > 1e-3


def test_apfl_remembers_the_share_it_has_learnt(sites):
    _, memories = trained(sites, APFL(alpha_lr=0.01), 2)
    found = {name: memory["mixture"]["alpha"].item() for name, memory in memories.items()}
    assert len(set(found.values())) == 3 and all(0.01 <= alpha <= 1 for alpha in found.values())


def test_pfedme_that_is_not_pulled_and_follows_every_step_is_fedavg(sites):
    found, memories = trained(sites, PFedMe(pull=0, inner_steps=1, share=1), 2)
    assert sha256(found.weights) == sha256(trained(sites, FedAvg(), 2)[0].weights)
    assert sha256(memories["a"]["personal"]) != sha256(memories["b"]["personal"])


def test_pfedme_whose_local_model_waits_for_the_end_of_the_round_is_fedprox(sites):
    """pull/2 |theta - w|^2 then is mu/2 |w_k - w|^2."""
    waiting, pulled = PFedMe(pull=5.0, inner_steps=10**6, share=1), FedProx(mu=5.0)
    found, wanted = (trained(sites, each, 2, **sgd(0.1))[0].weights for each in (waiting, pulled))
    free = trained(sites, FedAvg(), 2, **sgd(0.1))[0].weights
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6)
    assert max((free[name] - value).abs().max() for name, value in wanted.items()) > 1e-3


def test_the_stronger_the_pull_the_nearer_the_personal_model_to_the_local_one():
    def apart(pull):
        site = [make_site("a")]
        found, memories = trained(site, PFedMe(pull=pull), **sgd(0.01), epochs=4)
        return sum(value.square().sum().item() for value in subtract(memories["a"]["personal"], found.weights).values())

    distances = [apart(pull) for pull in (0.0, 5.0, 50.0)]
    assert distances[0] > distances[1] > distances[2] > 0


def test_the_local_model_follows_after_every_few_steps_and_at_the_end():
    theta = nn.Parameter(torch.zeros(1))
    follower = Follower({"w": theta}, share=0.5, every=2)
    for value in (1.0, 2.0, 3.0):
        theta.data.fill_(value)
        follower.stepped()
    assert follower.local["w"].item() == 1.0  # half of the way to 2, after the second step
    assert follower.penalty(4.0, nn.Identity()).item() == 4 / 2 * (3 - 1) ** 2
    assert follower.finish()["w"].item() == 2.0  # half of the way from 1 to 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: APFL(alpha=0),
        lambda: APFL(alpha=1.1),
        lambda: APFL(alpha_lr=-1),
        lambda: PFedMe(pull=-1),
        lambda: PFedMe(inner_steps=0),
        lambda: PFedMe(share=0),
        lambda: PFedMe(lr=0),
    ],
)
def test_wrong_arguments_are_refused(make):
    with pytest.raises(ValueError, match="is not allowed; use"):
        make()
