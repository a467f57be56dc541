"""IOP-FL inside: the published average, the mixture chosen on validation cases, and what both leave alone."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedlit import algorithms
from fedlit.algorithms import IOPFL, Algorithm, Centralized, FedAvg, Local
from fedlit.algorithms.iopfl import best_share
from fedlit.data.pictures import Case
from fedlit.local_score import dice_of_cases
from fedlit.losses import overlaps
from fedlit.messages import Broadcast, Update
from fedlit.metrics import Scoring
from fedlit.networks import SAM, Adapters
from fedlit.prediction import Global, Learnt, Personal
from fedlit.resident import Resident
from fedlit.weights import lerp, sha256
from tests.conftest import fedlit, make_federation, make_network, make_site, run_rounds

PUBLISHED = IOPFL(alpha=0.1, mixing=None)


def personal_of(federation, name="a"):
    return federation.fleet.memories[name]["personal"]


def used_by(federation, server, name="a"):
    """The personal model that a member predicts with."""
    learnt = federation.learnt(server, name, num_classes=1)
    Personal().prepare(learnt, None)
    return learnt.resident.read()


class Told(FedAvg):
    """FedAvg whose local models are given, one a round, as the entry `w`."""

    def local_update(self, client, broadcast):
        client.local = client.rounds[broadcast.round]
        return Update(client.site.name, 1, {}), client.memory


class Stub:
    """A client as far as a personal model needs one."""

    def __init__(self, rounds):
        self.rounds, self.memory, self.site = rounds, {}, make_site("a")
        self.resident = Resident(nn.Identity())

    def weights(self):
        return {name: value.clone() for name, value in self.local.items()}


def test_the_trajectory_is_the_published_one():
    golden = load_file(Path(__file__).parent / "golden" / "iopfl_trajectory.safetensors")
    client = Stub([{"w": local, "counter": torch.tensor(number)} for number, local in enumerate(golden["local"])])
    for round, wanted in enumerate(golden["trajectory"]):
        _, client.memory = IOPFL(inner=Told(), alpha=0.1, mixing=None).local_update(client, Broadcast(round, {}))
        assert torch.allclose(client.memory["personal"]["w"], wanted, atol=1e-6, rtol=0)
        assert client.memory["personal"]["counter"] == round  # integers are those of the local model


def test_the_first_personal_model_is_a_copy_of_the_local_one(sites):
    federation, server = make_federation(sites)
    client = federation.fleet.clients["a"]
    update, memory = PUBLISHED.local_update(client, PUBLISHED.broadcast(server))
    before = sha256(memory["personal"])
    assert before == sha256(update.weights)
    for value in (*update.weights.values(), *client.resident.entries.values()):
        value.data.fill_(7)
    assert sha256(memory["personal"]) == before


KINDS = [kind for kind in vars(algorithms).values() if inspect.isclass(kind) and issubclass(kind, Algorithm)]
INNERS = [
    kind() for kind in KINDS if not inspect.isabstract(kind) and kind().models == ("global",) and kind().sends_updates
]


@pytest.mark.parametrize("inner", INNERS, ids=lambda inner: type(inner).__name__)
@pytest.mark.parametrize("mixing", [None, (0.0, 0.5, 1.0)], ids=["published", "mixed"])
def test_the_federation_is_that_of_the_inner_algorithm_bit_for_bit(inner, mixing):
    options = {"optimizer_state": "keep", "keep_local": ["*norm*"]}
    sites = inner.participants([make_site("a", (5, 2, 2)), make_site("b", (4, 2, 2))])
    alone, server = make_federation(sites, **options)
    wanted = run_rounds(alone, server, 3, inner).weights
    federation, server = make_federation(sites, **options)
    assert sha256(run_rounds(federation, server, 3, IOPFL(inner=inner, mixing=mixing)).weights) == sha256(wanted)
    for name, memory in alone.fleet.memories.items():
        assert all(sha256(federation.fleet.memories[name][slot]) == sha256(values) for slot, values in memory.items())


def test_without_a_past_the_published_model_is_the_local_one(sites):
    federation, server = make_federation(sites)
    run_rounds(federation, server, 2, IOPFL(alpha=0, mixing=None))
    alone, server = make_federation(sites)
    server = run_rounds(alone, server, 1)
    update, _ = FedAvg().local_update(alone.fleet.clients["a"], FedAvg().broadcast(server))
    assert sha256(personal_of(federation)) == sha256(update.weights)


def test_a_personal_model_is_whole_with_entries_that_stay_and_with_buffers(sites):
    federation, server = make_federation(sites, network=make_network(norm="batch"), keep_local=["*norm1*"])
    server = run_rounds(federation, server, 2, PUBLISHED)
    personal = personal_of(federation)
    assert personal.keys() == federation.fleet.workbench.resident.entries.keys() > server.weights.keys()
    assert all((value > 0).all() for name, value in personal.items() if name.endswith("running_var"))


@pytest.mark.parametrize("kept", [(), ("*norm*",)], ids=str)
def test_with_a_share_of_nothing_it_is_the_global_model_of_the_site(sites, kept):
    """The newest one, kept entries and all; so that a member can lose nothing by it, whatever round is the last."""
    federation, server = make_federation(sites, keep_local=kept)
    before = server
    for num_rounds in (1, 2):
        server = run_rounds(federation, server, num_rounds, IOPFL(mixing=(0.0,)))
        wanted = {**server.weights, **federation.fleet.memories["a"].get("kept", {})}
        assert sha256(used_by(federation, server)) == sha256(wanted) != sha256(used_by(federation, before))


def test_with_adapters_a_personal_model_is_adapters(sites):
    torch.manual_seed(0)
    network = SAM(1, 1, size="micro", tuning=Adapters())
    federation, server = make_federation(sites[:1], network=network)
    server = run_rounds(federation, server, 1, IOPFL())
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert (
        set(used_by(federation, server))
        == set(federation.fleet.memories["a"]["average"])
        == trained
        < {name for name, _ in network.named_parameters()}
    )


@pytest.mark.parametrize("kept", [(), ("*norm*",)], ids=str)
def test_the_mixture_lies_between_the_newest_global_model_and_the_average(sites, kept):
    federation, server = make_federation(sites, keep_local=kept)
    server = run_rounds(federation, server, 2, IOPFL(mixing=(0.25,)))
    for name, memory in federation.fleet.memories.items():
        whole = {**server.weights, **memory.get("kept", {})}
        assert sha256(used_by(federation, server, name)) == sha256(lerp(whole, memory["average"], 0.25))
        assert memory["mixture"]["share"] == 0.25


def test_the_average_is_the_published_personal_model(sites):
    mixed, published = make_federation(sites), make_federation(sites)
    run_rounds(*mixed, 2, IOPFL(alpha=0.1))
    run_rounds(*published, 2, PUBLISHED)
    assert sha256(mixed[0].fleet.memories["a"]["average"]) == sha256(personal_of(published[0]))


class Dial(nn.Module):
    """A network of one number: the logit of every pixel."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))

    def forward(self, image):
        return self.value.view(1, 1, 1, 1).expand(len(image), 1, *image.shape[2:])


def test_the_share_is_the_least_that_is_nearly_best_on_validation_cases_and_on_no_others():
    site = make_site("a")
    federation, _ = make_federation([site], network=Dial())
    client = federation.fleet.clients["a"]
    shares = (1.0, 0.0, 0.75, 0.25, 0.5)
    ends = {"value": torch.tensor([-3.0])}, {"value": torch.tensor([5.0])}
    target = site.val.batch([0, 1])["target"]
    all_of_it = (2 * target.mean((1, 2, 3)) / (1 + target.mean((1, 2, 3)))).mean().item()
    found = [client.validation_dice(lerp(*ends, share)) for share in shares]
    assert found == pytest.approx([all_of_it, 0, all_of_it, 0, all_of_it]) and 0.1 < all_of_it < 0.9
    assert best_share(client, *ends, shares, 0.003) == 0.5
    assert best_share(client, *ends, shares, 0.95) == 0.0, "of equal worth, the nearest to the global model"
    empty = replace(site, train=site.val, test=site.val)
    other, _ = make_federation([empty], network=Dial())
    assert best_share(other.fleet.clients["a"], *ends, shares, 0.003) == 0.5


def volumes_of(*depths):
    starts = [sum(depths[:place]) for place in range(len(depths))]
    return [
        Case(f"v{place}", tuple(range(start, start + depth)), f"p{place}", is_volume=True)
        for place, (start, depth) in enumerate(zip(starts, depths, strict=True))
    ]


def test_validation_dice_is_that_by_which_runs_are_judged():
    """Volumes as one body, what is empty in both masks left out, also slices and classes of others that are not."""
    random = torch.Generator().manual_seed(1)
    cases, target = volumes_of(1, 4, 3, 2), (torch.rand(10, 2, 5, 5, generator=random) > 0.6).float()
    logits = torch.randn(10, 2, 5, 5, generator=random)
    target[2:4], logits[3] = 0, -1.0  # an empty slice that is found so, one that is not
    target[5:8, 1], logits[5:8, 1] = 0, -1.0  # a class that is nowhere in its volume
    target[8:], logits[8:] = 0, -1.0  # a volume of nothing
    means = []
    for case in cases:
        found, there = (planes[[*case.indices]].transpose(0, 1).numpy() for planes in (logits > 0, target.bool()))
        scores = [value for _, _, value in Scoring().score(found, there, names=["dice"])]
        means += [np.nanmean(scores)] if not np.isnan(scores).all() else []
    assert len(means) == 3
    assert dice_of_cases(cases, overlaps(logits, target)) == pytest.approx(np.mean(means), abs=1e-12)
    assert dice_of_cases(cases[3:], overlaps(logits, target)) == 1.0, "who finds nothing where nothing is, is right"


def test_to_find_nothing_in_a_volume_is_nothing_however_many_slices_are_empty():
    empty, there = torch.zeros(10, 1, 8, 8), torch.zeros(10, 1, 8, 8)
    there[:3] = 1
    nearly = there.clone()
    nearly[:, :, 0, 0] = 1
    nothing, most = (dice_of_cases(volumes_of(10), overlaps(found - 0.5, there)) for found in (empty, nearly))
    assert nothing == 0 and most > 0.98


def test_a_site_without_validation_cases_takes_the_mean_of_the_shares():
    federation, server = make_federation([make_site("a", (4, 0, 2))])
    run_rounds(federation, server, 1, IOPFL(mixing=(0.0, 0.25, 1.0)))
    assert federation.fleet.memories["a"]["mixture"]["share"] == pytest.approx(1.25 / 3)


def test_predictors_find_the_personal_and_the_global_model(sites):
    federation, server = make_federation(sites)
    server = run_rounds(federation, server, 1, IOPFL())
    bench = federation.fleet.workbench
    learnt = Learnt(server, bench.network, bench.resident, federation.fleet.memories["a"])
    mixed = lerp(server.weights, learnt.memory["average"], learnt.memory["mixture"]["share"].item())
    for predictor, wanted in ((Personal(), mixed), (Global(), server.weights)):
        predictor.prepare(learnt, None)
        assert sha256(Resident(bench.resident.network).read()) == sha256(wanted)


def test_a_client_is_on_the_device_of_its_workbench(sites):
    client = make_federation(sites)[0].fleet.clients["a"]

    class Elsewhere:
        class fabric:
            device = torch.device("meta")

    client.workbench = Elsewhere
    assert client.device.type == "meta"


def test_the_rule_of_the_inner_algorithm_is_used_and_can_be_replaced():
    from fedlit.aggregation import Mean

    uniform = Mean(by="uniform")
    assert IOPFL(inner=FedAvg(aggregate=uniform)).aggregate == uniform
    assert IOPFL(aggregate=uniform).inner == FedAvg(aggregate=uniform)


@pytest.mark.parametrize("alpha", [-0.1, 1, float("nan")])
def test_alpha_is_a_share(alpha):
    with pytest.raises(ValueError, match=r"^alpha=.* is not allowed; use (a finite number, )?0 or more, below 1$"):
        IOPFL(alpha=alpha)


@pytest.mark.parametrize("mixing", [(), (0.5, 1.5), (float("nan"),)])
def test_mixing_is_shares(mixing):
    with pytest.raises(ValueError, match=r"^mixing=\[.* is not allowed; use shares from 0 to 1, or null$"):
        IOPFL(mixing=mixing)


@pytest.mark.parametrize("inner", [Local(), Centralized(), IOPFL()])
def test_the_inner_algorithm_learns_a_global_model_alone(inner):
    with pytest.raises(ValueError, match=f"^inner={type(inner).__name__} learns no global model"):
        IOPFL(inner=inner)


def test_an_experiment_names_the_inner_algorithm_and_scores_both_models(config_file, tmp_path):
    words = ["algorithm=iopfl", "algorithm.inner=fedprox", "algorithm.inner.mu=0.1", "num_rounds=2"]
    assert fedlit("run", config_file, *words) == 0
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert {row.split(",")[3] for row in rows if ",test," in row and ",u," not in row} >= {"personal", "global"}
    shares = json.loads((tmp_path / "run" / "summary.json").read_text())["own_share"]
    assert sorted(shares) == ["a", "b", "c"] and set(shares.values()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    told = ", ".join(f"{name} {shares[name]:.2f}" for name in "abc")
    assert f"<dd>{told}</dd>" in (tmp_path / "run" / "report.html").read_text()
    assert fedlit("export", tmp_path / "run", tmp_path / "model") == 2  # whose?
    assert fedlit("export", tmp_path / "run", tmp_path / "model", "--site", "a") == 0
    config_file.write_text(config_file.read_text().replace("num_rounds: 4", "num_rounds: 3"))
    assert fedlit("run", config_file, *words[:3]) == 0  # goes on
