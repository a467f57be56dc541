"""Small federations for `test_placement`: each is run in one process by the test, and in several by this script.

`python -m torch.distributed.run --nproc_per_node=2 tests/scenarios.py OUT`: every scenario in turn, in one pair of
processes, its outcome saved in OUT.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from fedlit.aggregation import Bulyan, Krum, Mean, Median, NormClipping, TrimmedMean, UpdateGuard
from fedlit.algorithms import (
    APFL,
    IOPFL,
    Clock,
    FedAvg,
    FedBuff,
    FedProx,
    FedRep,
    FrequencyMixing,
    HarmoFL,
    Local,
    PFedMe,
    Sampling,
)
from fedlit.attacks import ALittleIsEnough, Attacked
from fedlit.errors import BadInput, ClientFailed
from fedlit.fleet import rows
from fedlit.messages import tensors
from fedlit.metrics import Scoring
from fedlit.networks import SAM, Adapters, DecoderOnly
from fedlit.prediction import BestMember, Chosen, Ensemble, Global, NearestMember, Routing
from fedlit.prediction.adaptation import Adaptation
from fedlit.resident import Resident
from fedlit.sharing import share
from fedlit.transforms import DifferentialPrivacy, LowRank
from fedlit.weights import save, sha256
from tests import components
from tests.components import ALGORITHMS
from tests.conftest import make_federation, make_network, make_site, make_world, run_rounds
from tests.rounds import drawn, make_fleet, play


def sites():
    """Three hospitals of unequal size, whose last batches are uneven."""
    return [make_site("a", (7, 2, 2)), make_site("b", (5, 2, 2)), make_site("c", (9, 2, 3))]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


@dataclass(frozen=True)
class Failing(FedAvg):
    """FedAvg in which client b fails, before it trains or after."""

    late: bool = False

    def local_update(self, client, broadcast):
        result = super().local_update(client, broadcast) if self.late else None
        if client.site.name == "b":
            raise RuntimeError("disk on fire")
        return result or super().local_update(client, broadcast)


@dataclass(frozen=True)
class NotFinite(FedAvg):
    """FedAvg in which client b sends NaN."""

    def local_update(self, client, broadcast):
        update, memory = super().local_update(client, broadcast)
        if client.site.name == "b":
            update = dataclasses.replace(update, weights={**update.weights, "head.bias": torch.tensor([torch.nan])})
        return update, memory


def fedavg(world, team=1, **options):
    federation, server = make_federation(sites(), world=world, processes_per_client=team, **options)
    return dict(run_rounds(federation, server, 2).weights)


def two_of_three(world, team=1):
    return fedavg(world, team, sampling=Sampling(clients_per_round=2, seed=1))


def other_homes(world, team=1):
    return fedavg(world, team, costs={"a": 1, "b": 2, "c": 3})


def with_sgd(world, team=1):
    return fedavg(world, team, optimizer=sgd, gradient_clip=1.0, accumulate_batches=2)


def remembered(world, team=1, algorithm=None):
    """What the clients of this process remember after two rounds that keep the optimizer's state."""
    federation, server = make_federation(
        sites(), world=world, processes_per_client=team, optimizer=sgd, optimizer_state="keep"
    )
    run_rounds(federation, server, 2, algorithm or Local())
    memories = federation.fleet.memories
    return {
        f"{name}/{slot}/{entry}": value
        for name, memory in memories.items()
        for slot, values in memory.items()
        for entry, value in values.items()
    }


def personalised(world, team=1):
    return remembered(world, team, IOPFL(inner=FedProx()))


def mixture(world, team=1):
    return remembered(world, team, APFL(alpha=0.3, alpha_lr=1e-3))


def envelope(world, team=1):
    return remembered(world, team, PFedMe(inner_steps=2))


def in_turns(world, team=1):
    """Head and body."""
    options = {"optimizer": sgd, "keep_local": ["head.*"], "gradient_clip": 1.0}
    federation, server = make_federation(sites(), world=world, processes_per_client=team, **options)
    return dict(run_rounds(federation, server, 2, FedRep(head_epochs=1)).weights)


def buffered(world, team=1):
    """One update a round, of an older version of the model but for the first."""
    algorithm = FedBuff(clock=Clock(seconds={"a": 1.0, "b": 1.5, "c": 2.5}, spread=0.1, dropout=0.1))
    options = {"optimizer": sgd, "sampling": Sampling(clients_per_round=1)}
    federation, server = make_federation(sites(), world=world, processes_per_client=team, **options)
    return dict(run_rounds(federation, server, 5, algorithm).weights)


def every_algorithm(world, team=1):
    """Of every algorithm, as a hash, what the server and the clients of this process hold after two rounds of one step.

    With the settings that its class has.
    """
    few, found = [make_site(name, (count, 1, 1)) for name, count in {"a": 3, "b": 2, "c": 4}.items()], {}
    for kind in ALGORITHMS:
        algorithm, network = kind(), make_network()
        options = {"optimizer": sgd, "optimizer_state": "keep", "epochs": None, "steps": 1}
        options |= {"network": network, "keep_local": algorithm.kept(Resident(network))}
        clients = algorithm.participants(few)
        federation, server = make_federation(clients, world=world, processes_per_client=team, **options)
        server = run_rounds(federation, server, 2, algorithm)
        scalars = {name: torch.tensor(value, dtype=torch.float64) for name, value in server.scalars.items()}
        found |= hashes(f"{kind.__name__}/server", {"weights": server.weights, "scalars": scalars, **server.slots})
        for name, memory in federation.fleet.memories.items():
            found |= hashes(f"{kind.__name__}/{name}", memory)
    return found


def hashes(name, slots):
    """One of each slot of tensors, as a tensor of bytes."""
    return {
        f"{name}/{slot}": torch.tensor([*bytes.fromhex(sha256(values))], dtype=torch.uint8)
        for slot, values in slots.items()
    }


def uphill(world, team=1):
    federation, server = make_federation(sites(), world=world, processes_per_client=team, optimizer=sgd)
    return dict(run_rounds(federation, server, 1, HarmoFL(alpha=0.5)).weights)


def thin_and_noisy(world, team=1):
    """Changes sent as thin matrices, clipped, and their mean with noise."""
    options = {"optimizer": sgd, "transforms": [LowRank(rank=1), DifferentialPrivacy(noise_multiplier=0.1)]}
    federation, server = make_federation(sites(), world=world, processes_per_client=team, **options)
    return dict(run_rounds(federation, server, 2, FedAvg(aggregate=Mean(by="uniform"))).weights)


def frequencies(world, team=1):
    federation, server = make_federation(sites(), world=world, processes_per_client=team)
    return dict(run_rounds(federation, server, 2, FrequencyMixing()).weights)


def dropped(world, team=1, algorithm=None):
    federation, server = make_federation(
        sites(), world=world, processes_per_client=team, optimizer=sgd, on_client_error="drop"
    )
    return dict(run_rounds(federation, server, 2, algorithm or Failing()).weights)


def dropped_late(world, team=1):
    return dropped(world, team, Failing(late=True))


def dropped_for_nan(world, team=1):
    return dropped(world, team, NotFinite())


def dropped_of_rounded_shares(world, team=1):
    return dropped(world, team, Failing(aggregate=Mean(by="samples_rounded_as_released")))


RULES = {kind.__name__: kind() for kind in components.RULES} | {
    "clipped_median": NormClipping(1.5, rule=Median()),
    "guard": UpdateGuard(num_deviations=0.5),
    "clipping_guard": UpdateGuard("clip", num_deviations=0.5, rule=TrimmedMean()),
}


def robust(world, team=1):
    """What every rule makes of eight updates, which come in many small blocks."""
    fleet, updates, found = make_fleet(world=world, processes_per_client=team), drawn(), {}
    before = rows.SHORTEST, rows.ELEMENTS
    rows.SHORTEST, rows.ELEMENTS = 3, 24
    try:
        for name, rule in RULES.items():
            aggregate = play(fleet, rule, updates)
            found |= {f"{name}/{entry}": value for entry, value in aggregate.weights.items()}
            found[f"{name}/num_dropped"] = torch.tensor(len(aggregate.dropped))
    finally:
        rows.SHORTEST, rows.ELEMENTS = before
    assert found["guard/num_dropped"] and not found["clipping_guard/num_dropped"]
    return found


def robust_in_one_block(world, team=1):
    fleet = make_fleet(world=world, processes_per_client=team)
    return dict(play(fleet, Bulyan(), drawn()).weights)


def colluding(world, team=1):
    algorithm = Attacked(aggregate=Krum(0), attack=ALittleIsEnough(1.0), malicious=("a", "c"))
    federation, server = make_federation(algorithm.participants(sites()), world=world, processes_per_client=team)
    return dict(run_rounds(federation, server, 2, algorithm).weights)


def small_sam(tuning, **settings):
    torch.manual_seed(0)
    return SAM(1, 1, size="micro", tuning=tuning, **settings)


def fedmsa(world, team=1):
    return fedavg(world, team, network=small_sam(Adapters()), optimizer=sgd)


def fedmsa_with_adam(world, team=1):
    return fedavg(world, team, network=small_sam(Adapters()), optimizer_state="keep")


def cached_decoder(world, team=1):
    return fedavg(world, team, network=small_sam(DecoderOnly(), cache="fp32"), optimizer=sgd)


def batch_norm(world, team=1):
    return fedavg(world, team, network=make_network(norm="batch"), optimizer=sgd)


def scores(world, team=1):
    """The test scores after one round, as a tensor."""
    federation, server = make_federation(sites(), world=world, processes_per_client=team, optimizer=sgd)
    server = run_rounds(federation, server, 1)
    rows = federation.score(
        {"global": Global()},
        server,
        scoring=Scoring(),
        metrics=["dice", "dice_fedfms_thresholds"],
        classes=["disc"],
        split="test",
    )
    return {f"{row.site}/{row.case}/{row.metric}": torch.tensor(row.value, dtype=torch.float64) for row in rows.cases}


def at_unseen_sites(world, team=1):
    """What members share once, and what predictors make of it at two sites that took no part."""
    federation, server = make_federation(sites(), world=world, processes_per_client=team, optimizer=sgd)
    server = run_rounds(federation, server, 2, IOPFL())
    unseen = {name: make_site(name, (0, 0, count), role="unseen") for name, count in (("u", 3), ("v", 2))}
    federation.fleet.desks.update(u=0, v=world.size - 1)
    federation = dataclasses.replace(federation, sites={**federation.sites, **unseen})
    routing = Routing(adaptation=Adaptation(lr=1e-2, max_steps=2))
    candidates = {"global": Global(), "ensemble": Ensemble(), "nearest": NearestMember(), "routing": routing}
    asked = {"scoring": Scoring(), "classes": ["disc"]}
    experts = share(federation, server, {"features", "scores", "trials"}, candidates=candidates, **asked)
    predictors = {**candidates, "best": BestMember(), "chosen": Chosen(candidates)}
    rows, gates = federation.score(predictors, server, metrics=["dice"], split="test", experts=experts, **asked)
    numbers = {f"{row.model}/{row.site}/{row.case}": row.value for row in rows}
    numbers |= {f"{row.site}/{row.case}/{row.layer}/{row.member}": row.value for row in gates}
    numbers |= {f"{name} {told}": value for name, expert in experts.items() for told, value in expert.scalars.items()}
    shared = {f"{name}/{entry}": value for name, expert in experts.items() for entry, value in tensors(expert).items()}
    return shared | {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}


class Unreached(torch.nn.Module):
    """A network with a parameter that no loss reaches."""

    def __init__(self):
        super().__init__()
        self.inner = make_network()
        self.idle = torch.nn.Parameter(torch.zeros(3))

    def forward(self, image):
        return self.inner(image)


def message_of(function):
    try:
        function()
    except (BadInput, ClientFailed) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def unreached(world, team):
    return message_of(lambda: fedavg(world, team, network=Unreached(), optimizer=sgd))


def failing(world, team):
    federation, server = make_federation(sites(), world=world, processes_per_client=team, optimizer=sgd)
    return message_of(lambda: run_rounds(federation, server, 1, Failing()))


def in_sync(world, team):
    """Whether all processes of the team hold the same bits after a client's steps."""
    federation, server = make_federation(sites(), world=world, processes_per_client=team, optimizer=sgd)
    client = federation.fleet.clients["a"]
    client.load(server.weights)
    client.fit(0)
    states = federation.fleet.workbench.team.share(client.resident.read())
    moved = any(not torch.equal(states[0][name], server.weights[name]) for name in server.weights)
    return moved and all(torch.equal(states[0][name], state[name]) for state in states for name in state)


SIDE_BY_SIDE = (
    *(fedavg, two_of_three, other_homes, with_sgd, remembered, personalised, dropped, dropped_late, dropped_for_nan),
    *(dropped_of_rounded_shares, scores, at_unseen_sites, fedmsa, fedmsa_with_adam, cached_decoder),
    *(robust, robust_in_one_block, colluding),
    *(mixture, envelope, in_turns, buffered, frequencies),
    *(every_algorithm, uphill, thin_and_noisy),
)
WITH_BATCH_NORM = (batch_norm,)
TOGETHER = (
    *(with_sgd, remembered, personalised, dropped, dropped_late, dropped_for_nan),
    *(scores, fedmsa, cached_decoder, robust),
    *(mixture, envelope, in_turns, buffered, uphill),
)
WORDS = (unreached, failing, in_sync)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    world, words = make_world(), {}
    with world:
        for scenario in (*SIDE_BY_SIDE, *WITH_BATCH_NORM):
            save(out / f"{scenario.__name__}-1-{world.place}.safetensors", scenario(world))
        for scenario in TOGETHER:
            save(out / f"{scenario.__name__}-{world.size}-{world.place}.safetensors", scenario(world, world.size))
        for scenario in WORDS:
            words[scenario.__name__] = scenario(world, world.size)
    (out / f"words-{world.place}.json").write_text(json.dumps(words))


if __name__ == "__main__":
    gc.freeze()  # what is imported is no garbage
    main(Path(sys.argv[1]))
    gc.unfreeze()
