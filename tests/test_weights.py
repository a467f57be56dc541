"""Weights are values, and their mean does not depend on order or grouping."""

import pytest
import torch

from fedlit import weights
from fedlit.errors import BadInput, ClientFailed
from fedlit.weights import WeightedSum


def random_weights(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    magnitudes = torch.exp(torch.randn(300, generator=generator) * 6)  # from 1e-8 to 1e8, as rounding would show there
    return {
        "w": torch.randn(300, generator=generator) * magnitudes * scale,
        "b": torch.randn(4, 5, generator=generator),
        "n": torch.tensor(seed),
    }


def mean_of(terms, groups):
    """The mean of (weights, coefficient) terms, added in groups as processes would."""
    sums = []
    for group in groups:
        sums.append(WeightedSum())
        for index in group:
            sums[-1].add(*terms[index])
    high, low = (each.double() for each in sums[0].pair())
    for part in sums[1:]:
        high = weights.add_exactly(high, low, part.pair()[0])
        low += part.pair()[1]
    return sums[0].shaped((high + low) / sum(part.coefficient for part in sums))


def test_mean_is_bitwise_independent_of_order_and_grouping():
    terms = [(random_weights(seed), float(seed + 3)) for seed in range(9)]
    reference = mean_of(terms, [range(9)])
    one_by_one = [[index] for index in (3, 1, 4, 0, 5, 8, 2, 6, 7)]
    for groups in ([range(8, -1, -1)], [[4, 0], [7, 2, 1], [8, 3, 5, 6]], one_by_one):
        assert weights.sha256(mean_of(terms, groups)) == weights.sha256(reference)


def test_plain_float64_sums_do_depend_on_grouping():
    """The reason for compensation: without it the terms above give another last bit."""
    terms = [(random_weights(seed)["w"].double() / 3, float(seed + 3)) for seed in range(9)]
    forwards = sum(coefficient * value for value, coefficient in terms)
    backwards = sum(coefficient * value for value, coefficient in reversed(terms))
    assert not torch.equal(forwards, backwards)


def test_mean_is_the_correctly_rounded_one():
    from fractions import Fraction

    terms = [(random_weights(seed), float(seed + 1)) for seed in range(5)]
    mean = mean_of(terms, [range(5)])["w"]
    for place in range(0, 300, 37):
        exact = sum(Fraction(coefficient) * Fraction(value["w"][place].item()) for value, coefficient in terms) / 15
        assert mean[place].item() == torch.tensor(float(exact), dtype=torch.float64).float().item()


def test_mean_of_equal_weights_is_that_weight():
    terms = [(random_weights(1), 2.0), (random_weights(1), 5.0), (random_weights(1), 11.0)]
    mean = mean_of(terms, [range(3)])
    assert torch.equal(mean["w"], random_weights(1)["w"]) and "n" not in mean


def test_integer_entries_are_never_averaged_and_inputs_never_changed():
    left, right = random_weights(1), random_weights(2)
    before = weights.sha256(left, right)
    moved = weights.lerp(left, right, 0.25)
    assert moved["n"] == left["n"]
    torch.testing.assert_close(moved["b"], 0.75 * left["b"] + 0.25 * right["b"])
    torch.testing.assert_close(weights.add(weights.subtract(left, right), right)["b"], left["b"])
    WeightedSum().add(left, 3.0)
    assert weights.sha256(left, right) == before


def test_different_entries_are_refused():
    total = WeightedSum()
    total.add({"w": torch.ones(2)}, 1)
    with pytest.raises(ValueError, match="different entries: v"):
        total.add({"w": torch.ones(2), "v": torch.ones(1)}, 1)
    with pytest.raises(ValueError, match="different entries"):
        weights.subtract({"w": torch.ones(2)}, {})


def test_hash_sees_names_types_shapes_and_bits_but_not_order():
    one = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    assert weights.sha256(one) == weights.sha256(dict(reversed(one.items())))
    changed = [
        {**one, "a": torch.zeros(3, 2)},
        {**one, "a": torch.zeros(2, 3).bfloat16()},
        {**one, "a": -one["a"]},
        {"a": one["a"], "c": one["b"]},
    ]
    assert len({weights.sha256(each) for each in [one, *changed]}) == 5
    apart = {"a": one["a"].to(memory_format=torch.contiguous_format)}, {"b": one["b"]}
    assert weights.sha256(*apart) != weights.sha256(one)


def test_file_brings_back_bits_and_header(tmp_path):
    value = random_weights(3) | {
        "half": torch.randn(4).bfloat16(),
        "last": torch.randn(1, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    weights.save(tmp_path / "w.safetensors", value, {"round": 3})
    back, header = weights.load(tmp_path / "w.safetensors")
    assert weights.sha256(back) == weights.sha256(value) and header == {"round": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_damaged_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "w.safetensors"
    if content is None:
        weights.save(path, random_weights(1))
        content = path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"w.safetensors: damaged"):
        weights.load(path)
    with pytest.raises(BadInput, match="no such file"):
        weights.load(tmp_path / "other")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_are_refused_and_leave_the_sum_alone(bad):
    total = WeightedSum()
    total.add({"a": torch.ones(3), "b": torch.ones(2)}, 1)
    with pytest.raises(ClientFailed, match="NaN or Inf"):
        total.add({"a": torch.ones(3), "b": torch.tensor([1.0, bad])}, 1)
    assert torch.equal(total.mean()["b"], torch.ones(2))
    total.add(
        {"a": torch.full((3,), 6e4).half(), "b": torch.full((2,), 6e4).half()}, 1
    )  # a sum beyond half precision is no Inf


def test_patterns_select_entries():
    entries = {"encoder.norm1.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert weights.select(entries, ["*norm*"]).keys() == {"encoder.norm1.weight"}
    assert weights.select(entries, ["head.*", "*norm*"]).keys() == entries.keys() and not weights.select(entries, [])
