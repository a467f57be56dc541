"""Fine-tuning and Ditto: what they are without their one hyper-parameter, and that the federation never sees them."""

from __future__ import annotations

import pytest
import torch

from fedlit.aggregation import Mean
from fedlit.algorithms import Ditto, FedAvg, FedProx, FineTuning, Local
from fedlit.training_state import OF_TRAINING
from fedlit.weights import sha256, subtract
from tests.conftest import make_federation, run_rounds


def personal_after(sites, algorithm, num_rounds=2, **options):
    federation, server = make_federation(sites, **options)
    run_rounds(federation, server, num_rounds, algorithm)
    return {name: memory["personal"] for name, memory in sorted(federation.fleet.memories.items())}


def distance(left, right):
    return sum(value.square().sum().item() for value in subtract(left, right).values())


@pytest.mark.parametrize("algorithm", [Ditto(), FineTuning()], ids=lambda algorithm: type(algorithm).__name__)
@pytest.mark.parametrize("inner", [FedAvg(), FedProx(mu=0.1)], ids=lambda inner: type(inner).__name__)
def test_the_federation_is_that_of_the_inner_algorithm_bit_for_bit(sites, algorithm, inner):
    options = {"optimizer_state": "keep", "keep_local": ["*norm*"]}
    alone, server = make_federation(sites, **options)
    wanted = run_rounds(alone, server, 3, inner).weights
    federation, server = make_federation(sites, **options)
    outer = type(algorithm)(inner=inner)
    assert sha256(run_rounds(federation, server, 3, outer).weights) == sha256(wanted)
    for name, memory in federation.fleet.memories.items():
        for slot in ("kept", "optimizer"):
            assert sha256(memory[slot]) == sha256(alone.fleet.memories[name][slot])


@pytest.mark.parametrize("kept", [(), ("*norm*",), ("head.*",)], ids=str)
@pytest.mark.parametrize("state", ["recreate", "keep"])
def test_ditto_without_a_pull_is_local_training_bit_for_bit(sites, state, kept):
    ditto = personal_after(sites, Ditto(pull=0), 3, optimizer_state=state, keep_local=kept)
    local = personal_after(sites, Local(), 3, optimizer_state=state, keep_local=kept)
    assert [*map(sha256, ditto.values())] == [*map(sha256, local.values())]


def test_the_stronger_the_pull_the_nearer_the_global_model():
    from tests.conftest import make_site

    sites = [make_site("a"), make_site("b", (8, 2, 2))]
    start = run_rounds(*make_federation(sites), 2, FedAvg()).weights  # what clients see in the third round
    distances = [distance(personal_after(sites, Ditto(pull=pull), 3)["a"], start) for pull in (0.0, 1.0, 100.0)]
    assert distances[0] > distances[1] > distances[2]


def test_ditto_remembers_an_optimizer_of_its_own(sites):
    federation, server = make_federation(sites, optimizer_state="keep")
    run_rounds(federation, server, 2, Ditto())
    memory = federation.fleet.memories["a"]
    assert memory["personal_optimizer"].keys() == memory["optimizer"].keys()
    assert sha256(memory["personal_optimizer"]) != sha256(memory["optimizer"]) and "optimizer" in OF_TRAINING


@pytest.mark.parametrize("kept", [(), ("*norm*",), ("head.*",)], ids=str)
def test_fine_tuning_as_much_as_a_round_is_the_local_model(sites, kept):
    """Under FedAvg: the same pictures in the same order from the same model on, with what the site keeps."""
    federation, server = make_federation(sites, keep_local=kept)
    server = run_rounds(federation, server, 1)
    client = federation.fleet.clients["a"]
    client.memory = federation.fleet.memories.get("a", {})
    FedAvg().local_update(client, FedAvg().broadcast(server))
    wanted = sha256(client.weights())
    assert sha256(personal_after(sites, FineTuning(epochs=1), keep_local=kept)["a"]) == wanted


def test_fine_tuning_has_the_rate_of_the_first_round(sites):
    """A hospital fine-tunes when the federation's rate has fallen."""

    def trained(schedule):
        return personal_after(sites, FineTuning(), 1, schedule=schedule)["a"]

    assert sha256(trained(lambda round: 0.1)) == sha256(trained(None))


def test_fine_tuning_takes_as_many_steps_as_it_is_told(sites):
    taken = []

    def counting(parameters):
        optimizer = torch.optim.SGD(parameters, lr=1e-3)
        optimizer.register_step_post_hook(lambda *_: taken.append(1))
        return optimizer

    personal_after(sites[:1], FineTuning(steps=5), 1, optimizer=counting)  # 7 pictures, batches of 4: 2 steps an epoch
    assert len(taken) == 2 + 5
    taken.clear()
    personal_after(sites[:1], FineTuning(epochs=3), 1, optimizer=counting)
    assert len(taken) == 2 + 6


def test_a_rule_can_be_given_to_the_outer_algorithm():
    assert Ditto(aggregate=Mean(by="uniform")).inner.aggregate == Mean(by="uniform")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Ditto(pull=-1), "pull=-1 is not allowed; use 0 or more"),
        (lambda: Ditto(pull=float("nan")), "pull=nan is not allowed; use a finite number, 0 or more"),
        (lambda: FineTuning(epochs=0), "epochs=0 is not allowed; use 1 or more"),
        (lambda: FineTuning(steps=0), "steps=0 is not allowed; use 1 or more"),
    ],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ValueError, match=f"^{words}$"):
        make()
