"""What every algorithm, rule, predictor and network promises; found by walking the folders, only FedAvg is named."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

import fedlit.networks
from fedlit.aggregation import ROOT, Aggregation
from fedlit.algorithms import Algorithm, FedAvg, Sampling
from fedlit.checkpoint import Checkpoints, State
from fedlit.config import build
from fedlit.errors import ClientFailed
from fedlit.messages import Aggregate, Broadcast, Server, Update, flatten, header, restore, size, tensors
from fedlit.networks import SAM, Adapters
from fedlit.prediction import Predictor
from fedlit.resident import Resident
from fedlit.weights import combine, sha256
from tests import rounds
from tests.components import ALGORITHMS, PREDICTORS, RULES
from tests.conftest import make_federation, make_network, make_site, run_rounds

CONFIGS = Path(__file__).parents[1] / "configs"
VERBS = ("cohort", "broadcast", "older", "local_update", "server_update")
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


SOME = Sampling(clients_per_round=2)
"""Of three: in some rounds a client is missing, and an update may be of an earlier round."""


@pytest.mark.parametrize("kind", ALGORITHMS, **named)
def test_resumed_equals_uninterrupted(kind, sites, tmp_path):
    """Through the files of a checkpoint, which hold nothing but what is named."""

    def begun():
        return federate(kind(), sites, optimizer_state="keep", sampling=SOME)

    whole, server = begun()
    wanted = everything(whole, run_rounds(whole, server, 4, kind()))
    first, server = begun()
    half = run_rounds(first, server, 2, kind())
    Checkpoints(tmp_path, first.fleet).save(State(half, dict(first.fleet.memories), {}))
    again, _ = begun()
    state = Checkpoints(tmp_path, again.fleet).newest(pytest.fail)
    again.fleet.memories = dict(state.memories)
    assert everything(again, run_rounds(again, state.server, 4, kind())) == wanted


@pytest.mark.parametrize("path", sorted((CONFIGS / "algorithm").glob("*.yaml")), ids=lambda path: path.stem)
def test_as_shipped_it_learns_the_same_with_batch_norm_in_two_parts_and_in_another_order(path, sites):
    """Running statistics are averaged, kept or left out, and never lost."""
    algorithm = build(OmegaConf.load(path))

    def begun(some):
        return federate(algorithm, some, network=make_network("batch"), sampling=SOME)

    whole, server = begun(sites)
    wanted = everything(whole, run_rounds(whole, server, 3, algorithm))
    parts, server = begun(sorted(sites, key=lambda site: site.name, reverse=len(algorithm.participants(sites)) > 1))
    half = run_rounds(parts, server, 1, algorithm)
    again, _ = begun(sites)
    again.fleet.memories = parts.fleet.memories
    after = run_rounds(again, restore(Server, header(half), tensors(half)), 3, algorithm)
    assert everything(again, after) == wanted
    assert all((value > 0).all() for name, value in after.weights.items() if name.endswith("running_var"))


@pytest.mark.parametrize("kind", ALGORITHMS, **named)
def test_the_order_of_clients_is_irrelevant(kind, sites):
    forwards, backwards = (federate(kind(), some, sampling=SOME) for some in (sites, sites[::-1]))
    if kind().participants(sites)[0].name == "pooled":
        sites = sorted(sites, key=lambda site: site.name)  # the one client's pictures are in a fixed order by name
        backwards = federate(kind(), sites, sampling=SOME)
    assert everything(forwards[0], run_rounds(*forwards, 3, kind())) == everything(
        backwards[0], run_rounds(*backwards, 3, kind())
    )


@pytest.mark.parametrize("kind", ALGORITHMS, **named)
def test_one_client_is_plain_training(kind):
    """But for what pulls at it, a federation of one learns what FedAvg of one does: nothing but its own training.

    In the second round too, when controls, drifts and moments begin to act; by SGD, as Adam would amplify rounding.
    """
    site = make_site("a")
    algorithm = kind(**kind.neutral)
    federation, server = federate(algorithm, [site], optimizer=sgd)
    after = run_rounds(federation, server, 2, algorithm)
    name = next(iter(federation.fleet.clients))
    learnt = model_of(federation, after, name)
    plain, server = make_federation(
        [dataclasses.replace(site, seed_name=federation.fleet.clients[name].site.seed_name)], optimizer=sgd
    )
    for entry, value in run_rounds(plain, server, 2).weights.items():
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


def called_by(algorithm, call):
    """The algorithm, whose verbs are called by `call(verb, *what it is given)`."""
    other = copy.copy(algorithm)
    for name in VERBS:
        object.__setattr__(other, name, partial(call, getattr(algorithm, name)))
    return other


def run_watched(algorithm, federation, server):
    """Two rounds in which no verb may change what it is given, or what any client remembers."""

    def state(given):
        messages = [each for each in given if isinstance(each, Server | Broadcast | Aggregate)]
        memories = {name: sha256(flatten(memory)) for name, memory in federation.fleet.memories.items()}
        return memories, [(header(each), sha256(tensors(each))) for each in messages]

    def call(verb, *given):
        before = state(given)
        result = verb(*given)
        assert state(given) == before, f"{verb.__name__} has changed what is not its own"
        return result

    return run_rounds(federation, server, 2, called_by(algorithm, call))


@pytest.mark.parametrize("kind", ALGORITHMS, **named)
def test_nothing_that_was_given_is_changed(kind, sites):
    federation, server = federate(kind(), sites)
    before = sha256(server.weights)
    assert run_watched(kind(), federation, server).round == 2
    assert sha256(server.weights) == before and server.round == 0


@dataclasses.dataclass(frozen=True)
class Spoiling(FedAvg):
    """FedAvg that halves in place one thing that it is given, and keeps some for later."""

    part: str = ""

    def spoil(self, **given):
        for values in given.get(self.part, {}).values():
            values["head.bias"] *= 0.5

    def local_update(self, client, broadcast):
        update, memory = super().local_update(client, broadcast)
        self.spoil(memory=client.memory, broadcast={"weights": broadcast.weights})
        return update, {**memory, "last": client.weights()}

    def server_update(self, server, aggregate):
        self.spoil(slots=server.slots, aggregate={"weights": aggregate.weights})
        return dataclasses.replace(
            server, weights=aggregate.weights, slots={"last": combine(torch.clone, server.weights)}
        )


@pytest.mark.parametrize(
    ("part", "verb"),
    [
        *(("memory", "local_update"), ("broadcast", "local_update")),
        *(("slots", "server_update"), ("aggregate", "server_update")),
    ],
)
def test_a_change_in_place_is_noticed(part, verb, sites):
    with pytest.raises(AssertionError if verb == "server_update" else ClientFailed, match=f"{verb} has changed"):
        run_watched(Spoiling(part=part), *make_federation(sites))


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


@pytest.fixture(scope="module")
def micro_sam():
    torch.manual_seed(0)
    return SAM(1, 1, size="micro", tuning=Adapters())


def least_run(kind):
    """An algorithm with this rule, or this one with one pass where it takes several; and as few clients as it needs."""
    if issubclass(kind, Aggregation):
        count, root = getattr(kind(), "least", (2, ""))[0], [ROOT] if kind().needs_root else []
        return FedAvg(aggregate=kind()), [*"abcdefghijkl"[: max(2, count)], *root]
    passes = [each.name for each in dataclasses.fields(kind) if each.name.endswith("epochs")]
    return kind(**dict.fromkeys(passes, 1)), ["a", "b"]


@pytest.mark.parametrize("kind", [*ALGORITHMS, *RULES], **named)
def test_of_a_network_with_adapters_only_what_is_trained_is_sent(kind, micro_sam):
    def call(verb, *given):
        result = verb(*given)
        sent.extend(each for each in (result if isinstance(result, tuple) else ()) if isinstance(each, Update))
        return result

    (algorithm, names), network, sent = least_run(kind), copy.deepcopy(micro_sam), []
    frozen = {name: value for name, value in network.named_parameters() if not value.requires_grad}
    before, trained = sha256(frozen), Resident(network).entries.keys()
    clients = [make_site(name, (1, 1, 1)) for name in names]
    federation, server = federate(algorithm, clients, network=network, epochs=None, steps=1)
    after = run_rounds(federation, server, 2, called_by(algorithm, call))
    memories = federation.fleet.memories
    assert len(sent) == 2 * len(memories) and all(update.weights.keys() <= trained for update in sent)
    assert not [name for update in sent for entries in update.slots.values() for name in entries if name in frozen]
    assert sha256(frozen) == before and trained.isdisjoint(frozen)
    held = [after.weights, flatten(after.slots), *map(flatten, memories.values())]
    assert all(value.isfinite().all() for values in held for value in values.values())
    name, first = next(iter(memories)), Resident(micro_sam).entries
    assert any(not torch.equal(value, first[entry]) for entry, value in model_of(federation, after, name).items())


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
