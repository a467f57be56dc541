"""What every algorithm, rule, predictor and network promises; found by walking the folders, none is named here."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import torch
import yaml

import fedlit.aggregation
import fedlit.algorithms
import fedlit.losses
import fedlit.networks
import fedlit.prediction
from fedlit.aggregation import Aggregation
from fedlit.algorithms import Algorithm
from fedlit.messages import Server, Update, header, restore, size, tensors
from fedlit.prediction import Predictor
from fedlit.resident import Resident
from fedlit.weights import sha256
from tests import rounds
from tests.conftest import make_federation, make_network, make_site, run_rounds

CONFIGS = Path(__file__).parents[1] / "configs"


def components(package, base: type) -> list[type]:
    """The final classes of a kind, each with the module that holds it."""
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)
    ]
    classes = {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base)
    }
    return sorted((kind for kind in classes if not inspect.isabstract(kind)), key=lambda kind: kind.__name__)


ALGORITHMS = components(fedlit.algorithms, Algorithm)
RULES = components(fedlit.aggregation, Aggregation)
PREDICTORS = components(fedlit.prediction, Predictor)
named = {"ids": lambda kind: kind.__name__}


def federate(algorithm, sites, *, network=None, keep_local=(), **options):
    network = network or make_network()
    kept = [*keep_local, *algorithm.kept(Resident(network))]
    return make_federation(algorithm.participants(sites), network=network, keep_local=kept, **options)


def model_of(federation, server, name):
    """What a client has learnt: its personal model, else the server's with what it keeps."""
    memory = federation.fleet.memories.get(name, {})
    return memory.get("personal", {**server.weights, **memory.get("kept", {})})


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def everything(federation, server) -> str:
    """One hash over all state there is: the server and every memory."""
    memories = federation.fleet.memories
    slots = [memories[name][slot] for name in sorted(memories) for slot in sorted(memories[name])]
    return sha256(server.weights, *(server.slots[slot] for slot in sorted(server.slots)), *slots)


def test_the_folders_hold_some():
    assert len(ALGORITHMS) >= 3 and RULES and len(PREDICTORS) >= 2


@pytest.mark.parametrize("kind", [*ALGORITHMS, *RULES, *PREDICTORS], **named)
def test_a_component_is_a_frozen_value_with_a_docstring(kind):
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert kind() == kind() and kind.__doc__ and inspect.getmodule(kind).__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().anything = 1


@pytest.mark.parametrize("kind", [*ALGORITHMS, *RULES, *PREDICTORS], **named)
def test_a_component_has_a_shipped_config(kind):
    group = {Algorithm: "algorithm", Aggregation: "aggregation", Predictor: "prediction"}
    group = next(name for base, name in group.items() if issubclass(kind, base))
    targets = [yaml.safe_load(path.read_text())["_target_"] for path in (CONFIGS / group).glob("*.yaml")]
    assert any(target.endswith(f".{kind.__name__}") for target in targets)


@pytest.mark.parametrize("kind", ALGORITHMS, **named)
def test_resumed_equals_uninterrupted(kind, sites):
    whole, server = federate(kind(), sites, optimizer_state="keep")
    wanted = everything(whole, run_rounds(whole, server, 3, kind()))
    first, server = federate(kind(), sites, optimizer_state="keep")
    half = run_rounds(first, server, 1, kind())
    saved = restore(Server, header(half), tensors(half))
    again, _ = federate(kind(), sites, optimizer_state="keep")
    again.fleet.memories = first.fleet.memories
    assert everything(again, run_rounds(again, saved, 3, kind())) == wanted


@pytest.mark.parametrize("kind", ALGORITHMS, **named)
def test_the_order_of_clients_is_irrelevant(kind, sites):
    forwards, backwards = federate(kind(), sites), federate(kind(), sites[::-1])
    if kind().participants(sites)[0].name == "pooled":
        sites = sorted(sites, key=lambda site: site.name)  # the one client's pictures are in a fixed order by name
        backwards = federate(kind(), sites)
    assert everything(forwards[0], run_rounds(*forwards, 2, kind())) == everything(
        backwards[0], run_rounds(*backwards, 2, kind())
    )


@pytest.mark.parametrize("kind", ALGORITHMS, **named)
def test_one_client_is_plain_training(kind):
    """But for what pulls at it, a federation of one learns what FedAvg of one does: nothing but its own training."""
    site = make_site("a")
    algorithm = kind(**kind.neutral)
    federation, server = federate(algorithm, [site])
    after = run_rounds(federation, server, 1, algorithm)
    name = next(iter(federation.fleet.clients))
    learnt = model_of(federation, after, name)
    plain, server = make_federation(
        [dataclasses.replace(site, seed_name=federation.fleet.clients[name].site.seed_name)]
    )
    for entry, value in run_rounds(plain, server, 1).weights.items():
        torch.testing.assert_close(learnt[entry], value, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ALGORITHMS, **named)
def test_identical_clients_are_one_client(kind):
    """With its method switched off, to rounding, which Adam would amplify."""
    same = [make_site(name, seed=1, seed_name="x") for name in ("a", "b", "c")]
    algorithm = kind(**kind.neutral)
    if algorithm.participants(same)[0].name == "pooled":
        return  # one client with all pictures takes more steps
    many, one = (federate(algorithm, some, optimizer=sgd) for some in (same, same[:1]))
    learnt = [model_of(each[0], run_rounds(*each, 2, algorithm), "a") for each in (many, one)]
    for entry, value in learnt[0].items():
        torch.testing.assert_close(learnt[1][entry], value, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ALGORITHMS, **named)
def test_nothing_that_was_given_is_changed(kind, sites):
    federation, server = federate(kind(), sites)
    before = sha256(server.weights)
    run_rounds(federation, server, 2, kind())
    assert sha256(server.weights) == before and server.round == 0


@pytest.mark.parametrize("kind", ALGORITHMS, **named)
def test_only_named_tensors_and_numbers_leave_a_site(kind, sites):
    federation, server = federate(kind(), sites)
    name = next(iter(federation.fleet.clients))
    client = federation.fleet.clients[name]
    update, _ = kind().local_update(client, kind().broadcast(server))
    assert isinstance(update, Update) and update.client == name
    pictures = {tuple(client.site.train.batch([0])[part].shape[1:]) for part in ("image", "target")}
    assert all(tuple(value.shape) not in pictures for value in tensors(update).values())
    assert all(isinstance(value, float | int) for value in update.scalars.values())
    back = restore(Update, header(update), tensors(update))
    assert (
        header(back) == header(update)
        and sha256(tensors(back)) == sha256(tensors(update))
        and size(back) == size(update)
    )


@pytest.mark.parametrize("kind", RULES, **named)
def test_a_rule_counts_every_update_positively(kind):
    num_samples = {name: 3 * place + 1 for place, name in enumerate(rounds.NAMES)}
    coefficient = kind().coefficients(num_samples)
    assert all(coefficient(Update(name, count, {}, {}, {"loss": 1.0})) > 0 for name, count in num_samples.items())


@pytest.mark.parametrize("kind", RULES, **named)
def test_of_identical_updates_a_rule_makes_that_update(kind):
    (update,) = rounds.drawn("a").values()
    found = rounds.play(rounds.make_fleet(), kind(), dict.fromkeys(rounds.NAMES, update)).weights
    for entry, value in update.items():
        torch.testing.assert_close(found[entry], value, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", RULES, **named)
def test_a_rule_changes_no_update_and_needs_no_order(kind):
    updates = rounds.drawn()
    before = {name: sha256(update) for name, update in updates.items()}
    forwards, backwards = rounds.make_fleet(), rounds.make_fleet(rounds.NAMES[::-1])
    backwards.clients = forwards.clients  # as many pictures each
    found = rounds.play(forwards, kind(), updates)
    other = rounds.play(backwards, kind(), dict(reversed(updates.items())), cohort=rounds.NAMES[::-1])
    assert sha256(found.weights) == sha256(other.weights) and found.reports[0].client == other.reports[0].client == "a"
    assert {name: sha256(update) for name, update in updates.items()} == before


@pytest.mark.parametrize("kind", RULES, **named)
def test_what_a_rule_makes_lies_among_the_updates(kind):
    """Coordinate by coordinate, for updates that agree on their direction and their length."""
    updates = rounds.drawn(size=0.02)
    for update in updates.values():
        update["conv"] = update["conv"] + 1
    found = rounds.play(rounds.make_fleet(), kind(), updates).weights["conv"]
    stacked = torch.stack([update["conv"] for update in updates.values()])
    slack = 0.1 * (stacked.amax(0) - stacked.amin(0))  # for rules that make all equally long
    assert (found >= stacked.amin(0) - slack).all() and (found <= stacked.amax(0) + slack).all()


def test_networks_map_images_to_logits_of_their_size():
    for kind in [
        value
        for value in vars(fedlit.networks).values()
        if inspect.isclass(value) and issubclass(value, torch.nn.Module)
    ]:
        network = kind(in_channels=3, out_channels=2).eval()
        for shape in ((1, 3, 32, 32), (2, 3, 45, 70)):
            assert network(torch.rand(shape)).shape == (shape[0], 2, *shape[2:])


def test_every_file_opens_with_a_sentence():
    for path in (Path(__file__).parents[1] / "fedlit").rglob("*.py"):
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert text and text.splitlines()[0].endswith("."), path
