"""Privacy of every case: what a step draws, clips and adds, what epsilon that comes to, and what cannot have it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from fedlit.algorithms import Scaffold
from fedlit.attacks import Attacked
from fedlit.data.augmentation import Augmentation
from fedlit.data.pictures import Pictures
from fedlit.errors import BadInput
from fedlit.losses import DiceBCE
from fedlit.networks import SAM, UNet
from fedlit.privacy import CaseLevel
from fedlit.privacy.accounting import epsilon, least_noise
from fedlit.privacy.drawing import cases_of
from fedlit.privacy.per_case import clipped_sum, not_told_apart, taken, told_apart
from fedlit.resident import Resident
from fedlit.training import LocalTraining
from fedlit.weights import sha256
from tests.conftest import discs, fedlit, make_federation, make_network, make_site, run_rounds

pytest.importorskip("opacus", reason="the extra `privacy` is not installed")
pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")

QUIET = CaseLevel(clip=math.inf, noise_multiplier=0, epsilon=None)
NUM_CASES, STEPS = 6, 3
CLIP = 0.7


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def patients(name="a", groups=("p", "p", "q", "r", "s", "t", "u", "u", "u")):
    """A site of nine pictures of six patients."""
    pictures = Pictures.from_arrays(*discs(len(groups), seed=3), np.array([[0, 1]]), groups=groups, name=name)
    return replace(make_site(name), train=pictures)


def private(settings, expected=4, steps=STEPS, num_cases=NUM_CASES, **training):
    here = settings.at(num_cases, expected, steps, num_rounds=2)
    return LocalTraining(**{"optimizer": sgd, "batch_size": 2, "privacy": here, **training})


def fitted(plan, site=None, network=None, openings=None):
    """A client after a round of training."""
    federation, server = make_federation([site or patients()], plan=plan, network=network)
    client = federation.fleet.clients["a"]
    client.load(server.weights)
    client.fit(0, **(openings or {}))
    return client


# What is drawn


def test_a_case_is_a_patient_and_gives_one_of_its_pictures():
    site, plan = patients(), private(QUIET)
    cases = cases_of(site.train)
    assert sorted(map(len, cases)) == [1, 1, 1, 1, 2, 3] and sorted(sum(cases, ())) == [*range(9)]
    of_case = {index: number for number, case in enumerate(cases) for index in case}
    seen = set()
    for round in range(20):
        for step in plan.requests(site, round):
            drawn = [index for request in step for index in request.indices]
            assert len({of_case[index] for index in drawn}) == len(drawn)
            assert all(len(request.indices) <= 2 for request in step)
            seen |= set(drawn)
    assert seen == {*range(9)} and plan.num_steps(site) == STEPS


def test_every_case_is_drawn_by_itself_with_the_chance_that_is_counted():
    site, plan = make_site("a", (40, 1, 1)), private(QUIET, expected=10, num_cases=40, steps=100)
    steps = [{index for request in step for index in request.indices} for step in plan.requests(site, 0)]
    assert len(steps) == 100 and plan.privacy.rate == 0.25
    sizes = np.array([len(step) for step in steps])
    assert abs(sizes.mean() - 10) < 4 * math.sqrt(7.5 / 100) and 3 < sizes.var() < 15  # binomial: 7.5
    assert steps == [{index for request in step for index in request.indices} for step in plan.requests(site, 0)]
    assert steps != [{index for request in step for index in request.indices} for step in plan.requests(site, 1)]


def test_draws_of_the_system_are_never_the_same():
    site = make_site("a", (40, 1, 1))
    plan = private(CaseLevel(noise_multiplier=1.0, secure_noise=True), expected=10, num_cases=40, steps=50)
    one, two = (
        [sorted(index for request in step for index in request.indices) for step in plan.requests(site, 0)]
        for _ in range(2)
    )
    assert one != two and abs(np.mean([len(step) for step in one]) - 10) < 2


def test_with_secure_noise_nothing_of_a_step_follows_from_the_seed(monkeypatch):
    """By address the pictures, augmentations and dropout of all would change with one case that is there or not."""

    def address(*place):
        raise AssertionError(f"{place} is drawn by address")

    monkeypatch.setattr("fedlit.privacy.drawing.address", address)
    monkeypatch.setattr("fedlit.training.address", address)
    site = patients()
    site.train.augmentation = Augmentation(())
    plan = private(CaseLevel(noise_multiplier=1.0, secure_noise=True), expected=6)
    drawn = [[request for step in plan.requests(site, 0) for request in step] for _ in range(2)]
    assert drawn[0] != drawn[1] and len({seed for request in drawn[0] for seed in request.seeds}) == 3 * NUM_CASES
    fitted(plan, network=make_network(dropout=0.5))


# What becomes of the gradients


@pytest.mark.parametrize("norm", ["group", "instance"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradients_by_case_are_those_of_cases_one_by_one(norm, memory_format):
    network, loss, batch = make_network(norm), DiceBCE(), make_site("a").train.batch([0, 1, 2])
    network.to(memory_format=memory_format)
    parameters = dict(network.named_parameters())
    with told_apart(network):
        loss(network(batch["image"]), batch["target"]).backward()
        found = taken(parameters, 3)
    for place in range(3):
        network.zero_grad()
        loss(network(batch["image"][place : place + 1]), batch["target"][place : place + 1]).backward()
        for name, parameter in parameters.items():
            torch.testing.assert_close(found[name][place], parameter.grad, atol=1e-6, rtol=1e-5)
    assert not [module for module in network.modules() if module._forward_hooks or module._backward_hooks]


def test_every_case_is_clipped_as_one_vector():
    gradients = {"a": torch.tensor([[3.0, 0.0], [0.3, 0.0]]), "b": torch.tensor([[4.0], [0.4]])}  # norms 5 and 0.5
    found = clipped_sum(gradients, 1.0)
    torch.testing.assert_close(found["a"], torch.tensor([0.6 + 0.3, 0.0]))
    torch.testing.assert_close(found["b"], torch.tensor([0.8 + 0.4]))
    assert all(torch.equal(clipped_sum(gradients, math.inf)[name], value.sum(0)) for name, value in gradients.items())


def test_a_step_is_that_of_opacus_own_optimizer():
    """The sum of the clipped gradients of a step's cases, divided by how many it draws on average."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    site, plan = patients(), private(replace(QUIET, clip=CLIP), steps=1, batch_size=NUM_CASES)
    ((request,),) = plan.requests(site, 0)
    found = {}
    fitted(plan, site, openings={"correct": lambda network: found.update(gradients_of(network))})
    network, batch = make_network(), site.train.batch(request.indices, request.seeds)
    module = GradSampleModule(network)
    optimizer = DPOptimizer(sgd(network.parameters()), noise_multiplier=0.0, max_grad_norm=CLIP, expected_batch_size=4)
    DiceBCE()(module(batch["image"].requires_grad_()), batch["target"]).backward()
    norms = torch.cat([value.flatten(1) for value in optimizer.grad_samples], dim=1).norm(dim=1)
    assert norms.min() < CLIP < norms.max()
    assert optimizer.pre_step()
    for name, value in gradients_of(network).items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6)


def gradients_of(network):
    return {name: value.grad.clone() for name, value in network.named_parameters()}


def by_hand(plan, site, penalty=None):
    """The weights after the same steps without privacy: losses added up and divided by the expected number."""
    network, loss = make_network(), DiceBCE()
    optimizer = plan.optimizer(network.parameters())
    for step in plan.requests(site, 0):
        optimizer.zero_grad()
        for request in step:
            batch = site.train.batch(request.indices)
            (loss(network(batch["image"]), batch["target"]) * len(request.indices) / 4).backward()
        if penalty is not None:
            penalty(network).backward()
        for value in network.parameters():
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad
        optimizer.step()
    return dict(network.named_parameters())


def squares(network):
    return 0.5 * sum(value.square().sum() for value in network.parameters())


@pytest.mark.parametrize("penalty", [None, squares], ids=["plain", "penalty"])
def test_without_noise_and_clipping_it_is_training_on_the_same_batches(penalty):
    site, plan = patients(), private(QUIET)
    assert {sum(len(request.indices) for request in step) for step in plan.requests(site, 0)} - {4}
    client = fitted(plan, site, openings={"penalty": penalty})
    for name, value in by_hand(plan, site, penalty).items():
        torch.testing.assert_close(client.weights()[name], value.detach(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("secure", [False, True])
def test_the_noise_of_steps_has_the_deviation_that_is_counted(secure, steps):
    """A gradient that is clipped to next to nothing leaves the noise, drawn anew in each step: z C / L in every entry,
    by a step of SGD."""
    settings = CaseLevel(clip=1e-3, noise_multiplier=50.0, epsilon=None, secure_noise=secure)
    plan = private(settings, steps=steps, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0))
    client = fitted(plan)
    first = client.resident.first
    moved = torch.cat([(value - first[name]).flatten() for name, value in client.weights().items()]).double()
    assert kstest((moved / (steps**0.5 * 50.0 * 1e-3 / 4)).numpy(), "norm").pvalue > 1e-4 and len(moved) > 1000


def test_seeded_noise_is_addressed_and_a_step_without_a_case_is_noise_alone():
    settings = CaseLevel(noise_multiplier=1.0, epsilon=None)
    one, again = (sha256(fitted(private(settings)).weights()) for _ in range(2))
    assert one == again != sha256(fitted(private(settings, seed=1)).weights())
    rare = private(settings, expected=1, num_cases=10**9, steps=1)
    client = fitted(rare)
    assert math.isnan(client.report["loss"]) and not next(iter(rare.requests(patients(), 0)))
    assert sha256(client.weights()) != sha256(client.resident.first)


def test_a_client_learns_the_same_whoever_trains_in_its_process_before():
    plan, updates = private(CaseLevel(noise_multiplier=1.0), steps=2), []
    for names in ("b", "ab"):
        federation, server = make_federation([patients(name) for name in names], plan=plan)
        for client in federation.fleet.clients.values():
            client.load(server.weights)
            client.fit(0)
        updates.append(sha256(client.weights()))
    assert updates[0] == updates[1]


def test_rounds_resume_to_the_bit():
    algorithm, plan = Scaffold(), private(CaseLevel(noise_multiplier=1.0), steps=2, optimizer_state="keep")

    def federate():
        return make_federation([patients()], plan=plan)

    whole = run_rounds(*federate(), 2, algorithm)
    first, server = federate()
    half = run_rounds(first, server, 1, algorithm)
    again, _ = federate()
    again.fleet.memories = first.fleet.memories
    assert sha256(run_rounds(again, half, 2, algorithm).weights) == sha256(whole.weights)


# What epsilon it comes to


@pytest.mark.parametrize("rate, noise, steps", [(0.1, 1.0, 200), (0.3, 1.5, 60), (1.0, 4.0, 20), (0.01, 0.7, 2000)])
def test_epsilon_is_that_of_opacus_own_accountant(rate, noise, steps):
    from opacus.accountants import RDPAccountant

    other = RDPAccountant()
    other.history = [(noise, rate, steps)]
    wanted = other.get_epsilon(1e-5)
    assert epsilon(noise, rate, steps, 1e-5, "rdp") == pytest.approx(wanted, rel=0.01)


def test_the_distribution_of_the_loss_gives_a_lower_epsilon_and_that_of_one_gaussian():
    from tests.test_transforms_privacy import gaussian_epsilon

    assert epsilon(4.0, 1.0, 20, 1e-5, "pld") == pytest.approx(gaussian_epsilon(4 / math.sqrt(20), 1e-5), rel=1e-3)
    assert epsilon(1.5, 0.3, 60, 1e-5, "pld") < epsilon(1.5, 0.3, 60, 1e-5, "rdp")
    assert epsilon(0.0, 0.3, 1, 1e-5, "rdp") == math.inf and epsilon(1.0, 0.3, 0, 1e-5, "rdp") == 0


def test_the_noise_of_a_site_is_the_least_that_keeps_to_epsilon():
    here = CaseLevel(epsilon=3.0).at(40, expected=4, steps_per_round=10, num_rounds=5)
    assert 0.99 * 3 < here.epsilon_after(5) <= 3 and not [*here.unmet()]
    assert here.noise_multiplier == least_noise(3.0, 0.1, 50, 1e-5, "rdp")
    for given in (None, 1.0):
        (told,) = CaseLevel(epsilon=1e-9, noise_multiplier=given).at(40, 4, 10, 5).unmet()
        assert "would need a noise_multiplier above 1000" in told
    (told,) = CaseLevel(epsilon=1.0, noise_multiplier=0.5).at(40, 4, 10, 5).unmet()
    assert "5 rounds of 10 steps (40 cases, about 4 in a step) have epsilon" in told and "noise_multiplier=" in told


# What cannot have it


@pytest.mark.parametrize(
    "network, text",
    [
        (lambda: UNet(1, 1, base_channels=4, depth=1, norm="batch"), "batch normalisation (encoders.0.norm1, "),
        (lambda: UNet(1, 1, base_channels=4, depth=1, amplitude_norm=2), "remembers amplitude_norm.amplitudes"),
        (lambda: SAM(1, 1, size="micro"), "and gradients are told apart by case in Conv2d, ConvTranspose2d, Linear"),
    ],
    ids=["batch norm", "amplitudes", "sam"],
)
def test_a_network_whose_cases_cannot_be_told_apart_is_refused(network, text):
    (told,) = not_told_apart(Resident(network()))
    assert told.startswith("privacy: ") and text in told


def test_a_unet_is_not_refused_and_what_is_passed_twice_is():
    assert not [*not_told_apart(Resident(make_network()))]

    def twice(network, batch):
        halves = (network(half).mean() for half in batch["image"].split([1, len(batch["image"]) - 1]))
        return sum(halves)

    with pytest.raises(BadInput, match="not picture by picture"):
        fitted(private(QUIET, expected=6), openings={"objective": twice})


def test_lightning_s_trainer_is_refused():
    client = fitted(private(QUIET, steps=1))
    with pytest.raises(BadInput, match=r"lightning\.Trainer adds no noise"):
        client.configure_optimizers()


def test_a_study_of_attacks_is_refused():
    """Colluders train on each other's cases too."""
    (told,) = CaseLevel().problems(Attacked(), {"share_personal": False}, {})
    assert told.startswith("Attacked lets sites tell")


PRIVATE = "privacy=case_level"


@pytest.mark.parametrize(
    "words, text",
    [
        (["network.norm=batch"], "use network.norm=group"),
        (["algorithm=qfedavg"], "QFedAvg lets sites tell what no noise is added to"),
        (["algorithm=fedrep"], "or trains more than once a round"),
        (["algorithm=iopfl"], "so that epsilon would not hold"),
        (["algorithm.aggregate.by=loss"], "Mean(by='loss') weighs updates by losses"),
        (["algorithm.aggregate=update_guard", "algorithm.aggregate.rule={_target_: fedlit.aggregation.Mean, "
          "by: validation_loss}"], "weighs updates by losses"),
        (["share_personal=true"], "share_personal=true is not allowed"),
        (["transform=differential_privacy", "algorithm.aggregate=uniform"], "choose one of the two"),
        (["precision=bf16-mixed"], "use precision=32-true"),
        (["loss={_target_: fedlit.losses.SoftDice}", "activation=softmax"], "is no mean over pictures"),
        (["loss={_target_: torch.nn.BCEWithLogitsLoss}"], "or does not say so by `is_mean_over_pictures`"),
        (["privacy.noise_multiplier=0.5", "privacy.epsilon=1"], "privacy: a: epsilon=1 cannot be met: 4 rounds of 6"),
        (["privacy.epsilon=null"], "noise_multiplier and epsilon are both null; give one of them"),
        (["privacy.clip=0"], "clip=0 is not allowed; use one above 0"),
        (["privacy.clip=.inf"], "clip=.inf is not allowed with noise"),
        (["privacy.accountant=x"], "expected Literal['rdp', 'pld'], got 'x'"),
        (["privacy.noise=1"], "has no such argument"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_the_run(config_file, capsys, words, text):
    assert fedlit("check", config_file, PRIVATE, *words) == 2
    assert text in capsys.readouterr().err


def test_a_run_says_what_every_site_has_spent(config_file, tmp_path, capsys):
    words = [PRIVATE, "privacy.epsilon=20", "num_rounds=2", "clients_per_round=2", "local_epochs=1", "precision=auto"]
    assert fedlit("run", config_file, *words) == 0
    out = capsys.readouterr().out
    assert "round 2: epsilon of a case at most" in out and "(simulation only)" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    found = summary["privacy"]
    assert summary["precision"] == "32-true" and 0 < found["epsilon"] <= 20 and found["sites"].keys() == {"a", "b", "c"}
    assert [site["num_cases"] for site in found["sites"].values()] == [7, 5, 4]
    assert [site["steps_per_round"] for site in found["sites"].values()] == [2, 2, 1]
    assert found["noise"].startswith("simulation only") and found["sites"]["c"]["sampling_rate"] == 1
    after = [site["epsilon_per_round"] for site in found["sites"].values()]
    assert sum(one == 0 for one, _ in after) == 1 and all(one <= two for one, two in after)
    assert found["epsilon_per_round"] == [max(column) for column in zip(*after, strict=True)]
    assert fedlit("plan", config_file, *words) == 0
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Differential privacy: epsilon" in report and "simulation only" in report
    assert fedlit("run", config_file, *words, "num_rounds=3") == 2
    assert "further ones would go beyond privacy.epsilon" in capsys.readouterr().err
