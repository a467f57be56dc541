"""Secure aggregation: the sum is exact, who drops out does no harm, and nothing that is sent is an update."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("cryptography", reason="the extra `privacy` is not installed")

from fedlit.aggregation import Mean
from fedlit.algorithms import FedAvg, Scaffold
from fedlit.errors import ClientFailed
from fedlit.fleet.processes import Processes
from fedlit.messages import Update
from fedlit.transforms import Channel, DifferentialPrivacy, SecureAggregation
from fedlit.transforms.masking import Member, unmask
from fedlit.transforms.shamir import join, split
from fedlit.weights import load, sha256
from tests import eavesdropped, rounds
from tests.conftest import fedlit, make_federation, make_network, make_world, run_rounds

ROOT = Path(__file__).parents[1]
NAMES = tuple("abcde")
STEP = 2.0**-32


def play(transform, updates, rule=None, *, slots=None, cohort=None, **options):
    fleet = rounds.make_fleet(NAMES, transforms=[transform], **options)
    return rounds.play(fleet, rule or Mean(), updates, slots=slots, cohort=cohort)


def flat(weights):
    return torch.cat([value.double().flatten() for value in weights.values()])


# secrets in shares


@pytest.mark.parametrize(("num_shares", "threshold"), [(1, 1), (3, 2), (5, 4), (5, 5)])
def test_any_shares_that_suffice_make_the_secret(num_shares, threshold):
    secret = bytes(range(256))[-32:]
    shares = dict(enumerate(split(secret, num_shares, threshold), start=1))
    for chosen in combinations(shares, threshold):
        assert join({place: shares[place] for place in chosen}, 32) == secret
    assert join(shares, 32) == secret and len({len(share) for share in shares.values()}) == 1


def test_too_few_shares_make_nothing():
    shares = dict(enumerate(split(b"x" * 32, 5, 3), start=1))
    with pytest.raises(ValueError, match="too few of them"):
        join({1: shares[1], 4: shares[4]}, 32)
    others = dict(enumerate(split(b"x" * 32, 5, 3), start=1))
    assert shares != others  # drawn anew each time


# the protocol among members


def met(threshold=3, names=NAMES):
    members = {name: Member(name, threshold, "round 0") for name in names}
    keys = {name: member.public_keys() for name, member in members.items()}
    sealed = {name: member.seal(keys) for name, member in members.items()}
    for name, member in members.items():
        member.open({sender: shares[name] for sender, shares in sealed.items() if sender != name})
    return members, keys, sealed


@pytest.mark.parametrize("present", [NAMES, NAMES[1:], ("a", "c", "e")], ids="".join)
def test_masks_come_off_the_sum_of_those_that_are_left(present):
    members, keys, _ = met()
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randint(-(2**40), 2**40, (500,), generator=generator) for name in NAMES}
    masked = {name: members[name].mask(values[name]) for name in NAMES}
    total = sum(masked[name] for name in present)
    wanted = sum(values[name] for name in present)
    assert not (total == wanted).any()
    unmask(total, keys, present, {name: members[name].reveal(present) for name in present}, 3, "round 0")
    assert torch.equal(total, wanted)


def test_who_has_sent_and_is_gone_before_shares_are_told_is_in_the_sum():
    members, keys, _ = met()
    values = {name: torch.full((4,), place) for place, name in enumerate(NAMES, start=1)}
    present, tellers = NAMES[:4], ("a", "c", "d")  # e has sent nothing, b is gone since
    total = sum(members[name].mask(values[name]) for name in present)
    told = {name: members[name].reveal(present) for name in tellers}
    masked = total.clone()
    with pytest.raises(ClientFailed, match="2 of 5 members have told their shares, fewer than the threshold of 3"):
        unmask(masked, keys, present, {name: told[name] for name in "ac"}, 3, "round 0")
    assert torch.equal(masked, total)
    unmask(total, keys, present, told, 3, "round 0")
    assert torch.equal(total, sum(values[name] for name in present))


def test_a_masked_vector_looks_like_chance():
    members, _, _ = met()
    masked = members["a"].mask(torch.zeros(20000, dtype=torch.int64))
    bits = np.unpackbits(masked.numpy().view(np.uint8)).reshape(20000, 64).mean(0)
    assert abs(bits - 0.5).max() < 6 * 0.5 / math.sqrt(20000)
    assert not torch.equal(masked, met()[0]["a"].mask(torch.zeros(20000, dtype=torch.int64)))


def test_below_the_threshold_members_tell_nothing():
    members, _, _ = met(threshold=4)
    for name in NAMES[:3]:
        with pytest.raises(ClientFailed, match="3 of 5 members have sent an update, fewer than the threshold of 4"):
            members[name].reveal(NAMES[:3])


def test_shares_are_sealed_for_one_member_each():
    from cryptography.exceptions import InvalidTag

    members, _, sealed = met()
    with pytest.raises(InvalidTag):
        members["c"].open({"a": sealed["a"]["b"]})
    with pytest.raises(InvalidTag):
        members["b"].open({"c": sealed["a"]["b"]})


def test_a_member_never_tells_shares_of_both_secrets():
    members, _, _ = met()
    told = members["a"].reveal(("a", "b", "c"))
    assert told.seeds.keys() == {"a", "b", "c"} and told.masking.keys() == {"d", "e"}
    with pytest.raises(AssertionError, match="shares of both secrets"):
        members["a"].reveal(NAMES)


# rounds


@pytest.mark.parametrize("by", ["samples", "sqrt_samples", "uniform", "samples_rounded_as_released"])
def test_the_mean_is_the_plain_one_in_fixed_point(by):
    """Number by number: the sum of the fixed-point numbers, and so the mean to half a step for each client."""
    updates, rule = rounds.drawn(NAMES), Mean(by=by)
    found = play(SecureAggregation(), updates, rule).weights
    coefficient = rule.coefficients({name: place + 1 for place, name in enumerate(NAMES)})
    weights = {name: coefficient(Update(name, place + 1, {})) for place, name in enumerate(NAMES)}
    start = flat(rounds.START)
    total = sum(torch.round((flat(updates[name]) - start) * weights[name] / STEP) for name in NAMES)
    exact = (start + total * STEP / math.fsum(weights.values())).float()
    assert torch.equal(flat(found).float(), exact)
    plain = rounds.play(rounds.make_fleet(NAMES), rule, updates).weights
    slack = 5 * STEP / 2 / math.fsum(weights.values()) + 2e-7
    torch.testing.assert_close(flat(found), flat(plain), atol=slack, rtol=0)


def test_slots_are_masked_too():
    slots = {"control": {"conv": torch.linspace(0, 1, 7)}}
    found = play(SecureAggregation(), rounds.drawn(NAMES), slots=slots).slots
    torch.testing.assert_close(found["control"]["conv"], slots["control"]["conv"], atol=1e-6, rtol=0)


def broken(*names):
    return {name: {entry: value * math.nan for entry, value in rounds.START.items()} for name in names}


def test_the_others_carry_on_without_those_that_drop_out():
    updates, options = rounds.drawn(NAMES) | broken("b", "e"), {"on_client_error": "drop"}
    aggregate = play(SecureAggregation(threshold=3), updates, **options)
    assert [*aggregate.dropped] == ["b", "e"] and len(aggregate.reports) == 3
    plain = rounds.play(rounds.make_fleet(NAMES, **options), Mean(), updates).weights
    torch.testing.assert_close(flat(aggregate.weights), flat(plain), atol=3e-7, rtol=0)


def test_below_the_threshold_the_round_fails_and_nothing_is_told(monkeypatch):
    told = []
    monkeypatch.setattr("fedlit.transforms.masking.Member.reveal", lambda member, present: told.append(member))
    with pytest.raises(ClientFailed, match="3 of 5 clients have sent an update, fewer than the threshold of 4"):
        play(SecureAggregation(), rounds.drawn(NAMES) | broken("b", "e"), on_client_error="drop")
    with pytest.raises(ClientFailed, match="client 'b' failed"):
        play(SecureAggregation(), rounds.drawn(NAMES) | broken("b"))
    assert not told


def test_what_does_not_fit_into_fixed_point_fails_its_client():
    updates = rounds.drawn(NAMES) | {"b": {name: value + 1e10 for name, value in rounds.START.items()}}
    with pytest.raises(
        ClientFailed, match="its largest change is 1e\\+10, too much for fraction_bits=32 and 5 clients"
    ):
        play(SecureAggregation(), updates)


@pytest.mark.parametrize("algorithm", [FedAvg(), Scaffold()], ids=["FedAvg", "Scaffold"])
def test_a_run_under_masks_is_the_plain_one_but_for_rounding_and_can_be_repeated(algorithm, sites):
    options = {"network": make_network("batch"), "optimizer": sgd}
    plain = run_rounds(*make_federation(sites, **options), 2, algorithm)
    one, two = (run_rounds(*make_federation(sites, **options | {"network": make_network("batch")},
                                            transforms=[SecureAggregation()]), 2, algorithm) for _ in "12")  # fmt: skip
    assert sha256(one.weights) == sha256(two.weights)  # keys differ, masks leave no trace
    for name, value in plain.weights.items():
        torch.testing.assert_close(one.weights[name], value, atol=1e-5, rtol=1e-5)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def test_with_privacy_updates_are_clipped_before_they_are_masked():
    quiet = DifferentialPrivacy(clip=0.5, noise_multiplier=0)
    updates, uniform = rounds.drawn(NAMES), Mean(by="uniform")
    both, clipped = (
        rounds.play(rounds.make_fleet(NAMES, transforms=transforms), uniform, updates).weights
        for transforms in ([quiet, SecureAggregation()], [quiet])
    )
    torch.testing.assert_close(flat(both), flat(clipped), atol=3e-7, rtol=0)


def test_bytes_are_those_of_all_phases():
    aggregate = play(SecureAggregation(), rounds.drawn(NAMES))
    keys, sealed, told = 64, 4 * (12 + 2 * 66 + 16), 5 * 66
    assert {report.num_bytes for report in aggregate.reports} == {keys + sealed + 8 * 33 + told}
    channel = Channel((SecureAggregation(),))
    blank = {name: value.to("meta") for name, value in rounds.START.items()}
    assert channel.num_bytes(Update("a", 1, blank), (), 5) == aggregate.reports[0].num_bytes
    assert channel.num_bytes_forwarded(5) == 4 * (64 + 160) and Channel().num_bytes_forwarded(5) == 0


# what can be overheard


def test_what_a_process_shares_is_masked(monkeypatch):
    """What the server has before the masks come off: public keys, sealed shares, one masked sum."""
    shared, before = [], []
    share, add_up = Processes.share, Processes.add_up
    monkeypatch.setattr(Processes, "share", lambda self, value: (shared.append(value), share(self, value))[1])
    monkeypatch.setattr(Processes, "add_up", lambda self, value: (before.append(value.clone()), add_up(self, value))[1])
    updates = rounds.drawn(NAMES)
    aggregate = play(SecureAggregation(), updates)
    (total,) = before
    wanted = (flat(aggregate.weights) - flat(rounds.START)) * 15 / STEP
    assert ((total.double() - wanted).abs() > 2.0**48).all() and total.double().abs().median() > 2.0**60
    assert shared and not [value for value in leaves(shared) if isinstance(value, torch.Tensor) and not value.is_meta]


def leaves(value):
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


@pytest.fixture(scope="module")
def overheard(tmp_path_factory):
    out = tmp_path_factory.mktemp("overheard")
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [*words, "tests/eavesdropped.py", str(out)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("scenario", eavesdropped.SCENARIOS, ids=lambda each: each.__name__)
def test_two_processes_equal_one_bit_for_bit(overheard, scenario):
    wanted = sha256(scenario(make_world()))
    assert all(sha256(load(overheard / f"{scenario.__name__}-{place}.safetensors")[0]) == wanted for place in (0, 1))


def test_noise_of_the_system_is_one_process_s_and_known_in_all(overheard):
    one, two = (sha256(load(overheard / f"private_in_earnest-{place}.safetensors")[0]) for place in (0, 1))
    seeded = sha256(load(overheard / "private-0.safetensors")[0])
    assert one == two != seeded != sha256(eavesdropped.private_in_earnest(make_world()))


def pieces(updates):
    """Every two neighbouring numbers of what tells of fewer than all clients, in their bytes.

    That is of every update and of the sum of any of them, as they are and times the number of pictures, of their
    changes, and of these in fixed point.
    """
    start, values = flat(rounds.START), [flat(update) for update in updates.values()]
    for count in range(1, len(values)):
        for places in combinations(range(len(values)), count):
            for weights in ([1] * len(values), range(1, len(values) + 1)):
                whole = sum(weights[place] * values[place] for place in places)
                changes = [weights[place] * (values[place] - start) for place in places]
                fixed = sum(torch.round(change / STEP).long() for change in changes)
                for vector in (whole, whole.float(), sum(changes), sum(changes).float(), fixed):
                    yield from (vector[first : first + 2].numpy().tobytes() for first in range(0, len(vector) - 1, 2))


@pytest.mark.parametrize(
    ("scenario", "is_heard"),
    [("plain", True), ("summed", True), ("masked", False), ("masked_without_one", False), ("private", False)],
)
def test_nothing_that_processes_send_each_other_is_a_piece_of_an_update(overheard, scenario, is_heard):
    """Each of two processes has one client in `plain`, and some in `summed`: what it sends is its client's update, or
    the sum of several, which shows that we hear these."""
    heard = [
        message for place in (0, 1) for message in pickle.loads((overheard / f"{scenario}-{place}.heard").read_bytes())
    ]
    sent = rounds.drawn(NAMES[:2] if scenario == "plain" else NAMES)
    assert len(heard) > 4 and any(piece in message for message in heard for piece in pieces(sent)) is is_heard


MASKED = "transform=secure_aggregation"


@pytest.mark.parametrize(
    "words, text",
    [
        (["algorithm.aggregate=median"], "FedAvg with Median() needs to know each update"),
        (["algorithm.aggregate=krum"], "needs to know each update"),
        (["algorithm.aggregate=norm_clipping"], "needs to know each update"),
        (["algorithm.aggregate=update_guard"], "needs to know each update"),
        (["algorithm=qfedavg"], "QFedAvg with Mean(by='reported') needs to know each update"),
        (["algorithm=afl"], "AFL with Mean(by='reported') needs to know each update"),
        (["share_personal=true"], "share_personal=true is not allowed: members would send models that are not masked"),
        (["transform=[top_k, secure_aggregation]"], "TopK saves nothing here"),
        (["transform.secure_aggregation.threshold=1"], "threshold=1 is not allowed; use 2 or more"),
        (["transform.secure_aggregation.fraction_bits=60"], "fraction_bits=60 is not allowed; use 8 to 48"),
        (["clients_per_round=2"], "2 clients of a round are too few for secure aggregation"),
        (["clients_per_round=3", "transform.secure_aggregation.threshold=4"], "threshold=4 is more than the 3 clients"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_run(config_file, capsys, words, text):
    assert fedlit("check", config_file, MASKED, *words) == 2
    assert text in capsys.readouterr().err


def test_a_threshold_that_the_members_decide_is_refused_at_the_start(config_file, capsys):
    assert fedlit("run", config_file, MASKED, "transform.secure_aggregation.threshold=4") == 2
    assert "threshold=4 is more than the 3 clients of a round" in capsys.readouterr().err
    problems = SecureAggregation(threshold=2).problems(FedAvg(), {"clients_per_round": None, "fraction_train": None,
                                                                  "share_personal": False}, (), 4)  # fmt: skip
    assert "not more than half of the 4 clients" in next(iter(problems))


def test_a_run_says_what_the_server_knows(config_file, tmp_path):
    assert fedlit("run", config_file, MASKED, "num_rounds=2") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["secure_aggregation"]["threshold"] == 3
    assert fedlit("run", config_file, "num_rounds=2", f"run_dir={tmp_path / 'plain'}") == 0
    plain = json.loads((tmp_path / "plain" / "summary.json").read_text())
    assert summary["bytes_down"] - plain["bytes_down"] == 2 * 3 * 2 * (64 + 160)
    assert 2 * plain["bytes_up"] < summary["bytes_up"] < 2 * plain["bytes_up"] + 5000
