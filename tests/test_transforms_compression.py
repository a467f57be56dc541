"""Compression: what arrives, what it costs, and what error feedback makes up for."""

from __future__ import annotations

import json

import pytest
import torch

from fedlit.aggregation import Median
from fedlit.algorithms import FedAvg, Scaffold
from fedlit.errors import ClientFailed
from fedlit.messages import Broadcast, Update, size, tensors
from fedlit.transforms import Channel, DifferentialPrivacy, LowPrecision, LowRank, TopK
from fedlit.weights import flattened, num_bytes, sha256
from tests.conftest import fedlit, make_federation, make_network, run_rounds
from tests.test_contracts import ALGORITHMS

SHAPES = {"conv": (8, 4, 3, 3), "bias": (8,), "wide": (40, 50)}
ALL = [TopK(), TopK(share=1), LowPrecision("bf16"), LowPrecision("fp16"), LowPrecision("int8"), LowRank()]


def drawn(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def sent_by(transforms, changes, *, memory=None, round=0, buffers=()):
    start = {name: torch.zeros_like(value) for name, value in changes.items()}
    update = Update("a", 3, changes, {}, {"loss": 1.0})
    return Channel(tuple(transforms)).send(update, Broadcast(round, start), memory or {}, buffers, 3)


@pytest.mark.parametrize("transform", ALL, ids=str)
def test_names_shapes_and_dtypes_come_back_and_nothing_given_is_changed(transform):
    changes = drawn()
    before = sha256(changes)
    sent = sent_by([transform], changes)
    assert sha256(changes) == before
    for name, value in changes.items():
        came = sent.update.weights[name]
        assert (came.shape, came.dtype) == (value.shape, value.dtype)
    assert (sent.update.client, sent.update.num_samples, sent.update.scalars) == ("a", 3, {"loss": 1.0})


@pytest.mark.parametrize("transform", ALL, ids=str)
def test_what_arrives_and_what_is_left_are_what_was_to_be_sent(transform):
    changes = drawn()
    sent = sent_by([transform], changes)
    for name, value in changes.items():
        left = sent.memory["unsent"][f"weights/{name}"]
        torch.testing.assert_close(sent.update.weights[name] + left, value, atol=1e-6, rtol=1e-6)
    without = sent_by([type(transform)(**{**vars(transform), "feedback": False})], changes)
    assert without.memory == {} and sha256(without.update.weights) == sha256(sent.update.weights)


@pytest.mark.parametrize("transform", [*ALL[:1], *ALL[2:]], ids=str)
def test_with_feedback_everything_arrives_in_the_end(transform):
    """The sum of what arrives stays near the sum of what was to be sent: the rest does not grow with the rounds."""
    memory, wanted, came = {}, 0, 0
    for round in range(60):
        changes = {"wide": drawn(seed=5)["wide"]}
        sent = sent_by([transform], changes, memory=memory, round=round)
        memory, wanted, came = sent.memory, wanted + changes["wide"], came + sent.update.weights["wide"]
    assert (wanted - came).norm() < 0.6 * wanted.norm()  # without feedback top-k would lose 0.75 of it
    torch.testing.assert_close(came + memory["unsent"]["weights/wide"], wanted, atol=1e-3, rtol=1e-3)


def test_bytes_are_those_of_what_is_sent():
    changes, count = drawn(), sum(value.numel() for value in drawn().values())
    assert sent_by([], changes).num_bytes == 4 * count
    assert sent_by([LowPrecision("bf16")], changes).num_bytes == 2 * count
    assert sent_by([LowPrecision("int8")], changes).num_bytes == count + 3 * 4  # a scale for each tensor
    assert sent_by([TopK(share=0.1)], changes).num_bytes == 8 * -(-count // 10)  # a value and a place
    rank = 2 * (8 + 36) + 8 + 2 * (40 + 50)
    assert sent_by([LowRank(rank=2)], changes).num_bytes == 4 * rank
    both = sent_by([TopK(share=0.1), LowPrecision("int8")], changes)
    assert both.num_bytes == 5 * -(-count // 10) + 4


def test_what_is_planned_without_values_is_what_is_sent():
    for transforms in [[], [TopK(share=0.1)], [LowRank(), LowPrecision("int8")], [LowPrecision("fp16")]]:
        changes = drawn()
        sent = sent_by(transforms, changes, buffers=["bias"])
        blank = {name: value.to("meta") for name, value in changes.items()}
        planned = Channel(tuple(transforms)).num_bytes(Update("a", 1, blank), ["bias"], 3)
        assert planned == sent.num_bytes


def test_top_k_sends_the_largest():
    sent = sent_by([TopK(share=0.5)], {"w": torch.tensor([3.0, -4.0, 1.0, 0.5])}).update.weights["w"]
    assert sent.tolist() == [3, -4, 0, 0]


def test_int8_is_within_half_a_level_and_exact_at_the_largest():
    value = drawn()["wide"]
    came = sent_by([LowPrecision("int8")], {"w": value}).update.weights["w"]
    assert (came - value).abs().max() <= value.abs().max() / 127 / 2 * 1.001
    torch.testing.assert_close(came.abs().max(), value.abs().max())
    assert (sent_by([LowPrecision("int8")], {"w": torch.zeros(3)}).update.weights["w"] == 0).all()


def test_a_matrix_of_that_rank_arrives_whole():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(30, 2, generator=generator) @ torch.randn(2, 40, generator=generator)
    torch.testing.assert_close(sent_by([LowRank(rank=2)], {"w": matrix}).update.weights["w"], matrix, atol=1e-4, rtol=0)


def test_buffers_are_sent_whole():
    changes = drawn()
    sent = sent_by([TopK(share=0.01)], changes, buffers=["bias"])
    assert torch.equal(sent.update.weights["bias"], changes["bias"]) and "weights/bias" not in sent.memory["unsent"]


def test_what_cannot_be_sent_fails_its_client():
    with pytest.raises(ClientFailed, match="NaN or Inf"):
        sent_by([TopK()], {"w": torch.tensor([1.0, float("nan")])})
    with pytest.raises(ClientFailed, match="too large for fp16; use precision=bf16 or int8"):
        sent_by([LowPrecision("fp16")], {"w": torch.tensor([1e6])})


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


@pytest.mark.parametrize("kind", ALGORITHMS, ids=lambda kind: kind.__name__)
def test_every_algorithm_goes_on_by_what_arrives(kind, sites):
    """All numbers sent, it learns what it learns without a transform, but for rounding."""
    algorithm, found = kind(), []
    if getattr(algorithm, "exchanged", ""):
        return  # refused with transforms
    for transforms in [], [TopK(share=1)]:
        federation, server = make_federation(algorithm.participants(sites), transforms=transforms, optimizer=sgd)
        found.append(run_rounds(federation, server, 2, algorithm).weights)
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-5, rtol=1e-4)


LOSSY = [LowRank(rank=1), TopK(share=0.05, feedback=False), DifferentialPrivacy(clip=0.05, noise_multiplier=0.0)]


@pytest.mark.parametrize("transform", LOSSY, ids=lambda transform: type(transform).__name__)
def test_what_does_not_arrive_of_a_control_is_no_change_of_it(transform, sites):
    """SCAFFOLD's server goes on by changes of the clients' controls; what is lost of them is not its own control."""
    federation, server = make_federation(sites, transforms=[transform], optimizer=sgd)
    server = run_rounds(federation, server, 10, Scaffold())
    controls = [flattened(memory["control"]).norm() for memory in federation.fleet.memories.values()]
    assert 0 < flattened(server.slots["control"]).norm() < 1.5 * max(controls)


@pytest.mark.parametrize("algorithm", [FedAvg(), Scaffold(), FedAvg(aggregate=Median())], ids=["mean", "slots", "rows"])
def test_resumed_equals_uninterrupted(algorithm, sites):
    def federate():
        return make_federation(sites, transforms=[TopK(share=0.1), LowPrecision("int8")])

    whole, server = federate()
    wanted = run_rounds(whole, server, 3, algorithm)
    first, server = federate()
    half = run_rounds(first, server, 1, algorithm)
    again, _ = federate()
    again.fleet.memories = first.fleet.memories
    assert sha256(run_rounds(again, half, 3, algorithm).weights) == sha256(wanted.weights)
    assert sha256(again.fleet.memories["a"]["unsent"]) == sha256(whole.fleet.memories["a"]["unsent"])


def test_a_dropped_client_keeps_what_it_had_not_sent(sites):
    federation, server = make_federation(sites, transforms=[TopK(share=0.1)], on_client_error="drop")
    server = run_rounds(federation, server, 1)
    before = federation.fleet.memories["b"]
    federation.fleet.clients["b"].loss = lambda logits, target: logits.mean() * float("nan")
    run_rounds(federation, server, 2)
    assert federation.fleet.memories["b"] is before


def test_the_round_counts_what_is_sent(sites):
    federation, server = make_federation(sites, transforms=[LowPrecision("bf16")], network=make_network("batch"))
    round = next(federation.run(FedAvg(), server, 1))
    buffers = num_bytes([value for name, value in server.weights.items() if name in server.buffers])
    assert buffers and round.bytes_up == 3 * (buffers + (size(server) - buffers) // 2)
    assert num_bytes(tensors(server)) == size(server)


@pytest.mark.parametrize(
    "words, text",
    [
        (["transform=top_k", "transform.top_k.share=0"], "share=0 is not allowed; use one above 0, at most 1"),
        (["transform=low_rank", "transform.low_rank.rank=0"], "rank=0 is not allowed; use 1 or more"),
        (
            ["transform=low_precision", "transform.low_precision.precision=int4"],
            "expected Literal['bf16', 'fp16', 'int8'], got 'int4'",
        ),
        (["transform=[top_k, low_rank]"], "LowRank and TopK do the same kind of thing (compression)"),
        (["transform=[low_precision, top_k]"], "are in the wrong order; list them as TopK, LowPrecision"),
        (["transform={x: {_target_: fedlit.losses.DiceBCE}}"], "DiceBCE is no transform of updates"),
        (["transform=zip"], "zip: no such file, and fedlit ships none of that name"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_run(config_file, capsys, words, text):
    assert fedlit("check", config_file, *words) == 2
    assert text in capsys.readouterr().err


def test_a_run_plans_and_counts_its_bytes(config_file, tmp_path, capsys):
    words = ["transform=[top_k, low_precision]", "num_rounds=2"]
    assert fedlit("run", config_file, *words) == 0
    compressed = json.loads((tmp_path / "run" / "summary.json").read_text())
    capsys.readouterr()
    assert fedlit("run", config_file, "num_rounds=2", f"run_dir={tmp_path / 'plain'}") == 0
    plain = json.loads((tmp_path / "plain" / "summary.json").read_text())
    assert compressed["bytes_down"] == plain["bytes_down"] and 12 * compressed["bytes_up"] < plain["bytes_up"]
    assert fedlit("run", config_file, *words, "num_rounds=3", "transform.top_k.share=0.1") == 2
    assert "transform.top_k.share: not there -> 0.1" in capsys.readouterr().err
