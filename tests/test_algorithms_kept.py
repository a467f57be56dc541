"""FedBN, SiloBN, FedPer, LG-FedAvg and FedRep: what stays at a site, what is sent, and what an unseen site takes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedlit.algorithms import Ditto, FedAvg, FedBN, FedPer, FedRep, LGFedAvg
from fedlit.errors import BadInput
from fedlit.messages import Expert
from fedlit.resident import Resident
from fedlit.weights import select, sha256
from tests.conftest import fedlit, make_federation, make_network, make_site, run_rounds

SGD = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.05)}
HEAD = ["head.weight", "head.bias"]


def federate(algorithm, sites, *, network=None, **options):
    network = network or make_network()
    return make_federation(sites, network=network, keep_local=algorithm.kept(Resident(network)), **options)


def learnt(algorithm, sites, num_rounds=2, **options) -> str:
    """A hash of the server and of what clients keep."""
    federation, server = federate(algorithm, sites, **options)
    server = run_rounds(federation, server, num_rounds, algorithm)
    return sha256(server.weights, *(federation.fleet.memories[site.name]["kept"] for site in sites))


def odd() -> nn.Sequential:
    """Layers that are not called by what they do."""
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1), nn.InstanceNorm2d(1, affine=True))


def test_normalising_layers_are_found_without_their_names():
    statistics = ("1.running_mean", "1.running_var")
    assert sorted(FedBN().kept(Resident(odd()))) == ["1.bias", *statistics, "1.weight", "3.bias", "3.weight"]
    assert FedBN(keeps="statistics").kept(Resident(odd())) == statistics


@pytest.mark.parametrize("norm", ["group", "batch", "instance"])
def test_fedbn_is_fedavg_that_keeps_what_a_unet_calls_norm(sites, norm):
    algorithm, network = FedBN(), make_network(norm)
    resident = Resident(network)
    assert set(algorithm.kept(resident)) == select(resident.entries, ["*norm*"]).keys()
    plain, server = make_federation(sites, network=make_network(norm), keep_local=["*norm*"])
    wanted = run_rounds(plain, server, 2, FedAvg())
    federation, server = federate(algorithm, sites, network=network)
    assert sha256(run_rounds(federation, server, 2, algorithm).weights) == sha256(wanted.weights)


def test_silobn_sends_scales_and_keeps_statistics(sites):
    algorithm = FedBN(keeps="statistics")
    federation, server = federate(algorithm, sites, network=make_network("batch"))
    server = run_rounds(federation, server, 1, algorithm)
    kept = federation.fleet.memories["a"]["kept"]
    assert kept and all("running" in name for name in kept)
    assert any("norm" in name for name in server.weights) and not any("running" in name for name in server.weights)


@pytest.mark.parametrize("named", [None, ("head.*",)])
def test_fedper_keeps_the_head_and_sends_the_rest(sites, named):
    algorithm = FedPer(head=named)
    federation, server = federate(algorithm, sites)
    assert server.weights.keys() == make_network().state_dict().keys() - set(HEAD)
    plain, first = make_federation(sites, keep_local=["head.*"])
    assert sha256(run_rounds(federation, server, 2, algorithm).weights) == sha256(run_rounds(plain, first, 2).weights)


def test_lgfedavg_shares_what_fedper_keeps():
    resident = Resident(make_network("batch"))
    kept = {kind: set(kind().kept(resident)) for kind in (LGFedAvg, FedPer)}
    assert kept[LGFedAvg] | kept[FedPer] == set(resident.entries) and not kept[LGFedAvg] & kept[FedPer]


def test_sam_names_its_classifier():
    from fedlit.networks import SAM

    resident = Resident(SAM(size="micro", checkpoint=None))
    assert all("output_hypernetworks_mlps" in name for name in FedPer().kept(resident))
    assert FedPer().kept(Resident(SAM(size="micro", checkpoint=None, out_channels=2))) == ("head.weight", "head.bias")


def test_fedrep_without_a_turn_for_the_head_is_fedper(sites):
    assert learnt(FedRep(head_epochs=0), sites) == learnt(FedPer(), sites)
    assert learnt(FedRep(head_epochs=1), sites) != learnt(FedPer(), sites)


def test_a_part_that_is_trained_leaves_the_rest_as_it_is():
    """With and without clipping, which then is by the norm of that part's gradient; the rest costs no backward pass."""
    for clip in (None, 1e-3):
        federation, server = make_federation([make_site("a")], gradient_clip=clip, steps=1, epochs=None, **SGD)
        client = federation.fleet.clients["a"]
        client.load(server.weights)
        before = client.weights()
        client.fit(0, trained=HEAD)
        after = client.weights()
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert changed == set(HEAD)
        assert {name for name, value in client.resident.parameters.items() if value.grad is not None} == set(HEAD)
        assert all(value.requires_grad for value in client.resident.parameters.values())
        if clip:
            moved = torch.cat([(after[name] - before[name]).flatten() for name in HEAD]).norm().item()
            assert moved == pytest.approx(0.05 * clip, rel=1e-3)


def test_fedrep_trains_the_head_then_the_body_under_it():
    algorithm = FedRep(head_epochs=2)
    federation, server = federate(algorithm, [make_site("a")], **SGD)
    after = run_rounds(federation, server, 1, algorithm)
    by_hand, first = federate(algorithm, [make_site("a")], **SGD)
    client = by_hand.fleet.clients["a"]
    client.load(first.weights)
    client.fit(0, plan=replace(client.plan, epochs=2), trained=HEAD)
    head = {name: client.weights()[name] for name in HEAD}
    client.fit(0, trained=[name for name in client.resident.parameters if name not in HEAD])
    assert sha256(after.weights) == sha256(client.update().weights)
    assert sha256(federation.fleet.memories["a"]["kept"]) == sha256(head)


def test_fedrep_keeps_the_optimizers_of_both_turns(sites):
    algorithm = FedRep(head_epochs=1)
    federation, server = federate(algorithm, sites, optimizer_state="keep")
    run_rounds(federation, server, 2, algorithm)
    state = federation.fleet.memories["a"]["optimizer"]
    assert {name.partition("/")[2] for name in state} == Resident(make_network()).parameters.keys()
    assert state["step/head.bias"] == state["step/encoders.0.conv1.weight"] == 4  # 7 pictures, batches of 4, 2 rounds


def test_a_personal_model_beside_it_keeps_as_much(sites):
    resident = Resident(make_network())
    assert Ditto(inner=FedBN()).kept(resident) == FedBN().kept(resident)


@pytest.mark.parametrize(
    ("algorithm", "network", "words"),
    [
        (FedPer(head=("top.*",)), make_network, "algorithm.head: 'top.\\*' matches none of the network's"),
        (FedRep(head=("*",)), make_network, r"algorithm.head: \['\*'\] is all that is trained of UNet"),
        (FedRep(head=()), make_network, r"algorithm.head: \[\] is nothing that is trained of UNet"),
        (LGFedAvg(head=("*",)), make_network, "is all that is trained"),
        (FedPer(), odd, "is not set, and no `classifier` is named by Sequential; give patterns"),
        (FedBN(), lambda: nn.Conv2d(1, 1, 1), "Conv2d has no normalising layer"),
        (FedBN(keeps="statistics"), make_network, "normalising layers of UNet has running statistics; choose"),
    ],
)
def test_what_fits_no_part_of_the_network_is_refused(algorithm, network, words):
    with pytest.raises(BadInput, match=words):
        algorithm.kept(Resident(network()))


@pytest.mark.parametrize("make", [lambda: FedBN(keeps="all"), lambda: FedRep(head_epochs=-1)])
def test_wrong_arguments_are_refused(make):
    with pytest.raises(ValueError, match="is not allowed; use"):
        make()


def test_an_unseen_site_takes_the_mean_of_what_members_share(sites):
    algorithm = FedBN()
    federation, server = federate(algorithm, [*sites, make_site("u", role="unseen")])
    server = run_rounds(federation, server, 1, algorithm)
    kept = {name: memory["kept"] for name, memory in federation.fleet.memories.items()}
    experts = {name: Expert(name, {**server.weights, **entries}) for name, entries in kept.items()}
    assert federation.learnt(server, "u", num_classes=1).shared is None
    shared = federation.learnt(server, "u", num_classes=1, experts=experts).shared
    for name in kept["a"]:
        mean = torch.stack([entries[name] for entries in kept.values()]).mean(0)
        torch.testing.assert_close(shared[name], mean)
    own = federation.learnt(server, "a", num_classes=1, experts=experts).shared
    assert sha256(select(own, ["*norm*"])) == sha256(kept["a"])


@pytest.mark.parametrize("shares", [True, False])
def test_a_run_names_what_an_unseen_site_has_taken(config_file, tmp_path, shares):
    words = ["algorithm=fedbn", "num_rounds=1", "local_epochs=1", f"share_personal={str(shares).lower()}"]
    assert fedlit("run", config_file, *words) == 0
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    tested = [
        line for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines() if ",u,unseen,global,test" in line
    ]
    assert bool(tested) is shares
    if shares:
        assert found["shared"]["for"] == ["the global model of u"] and found["shared"]["members"] == ["a", "b", "c"]
        assert "the global model of u takes the mean over members of the entries that they keep" in found["warnings"]
    else:
        assert found["shared"] is None and "there is no global model for u: it is not scored there" in found["warnings"]
