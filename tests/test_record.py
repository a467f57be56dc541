"""The result tables keep what they are given, through replacement, resume and kill -9."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from fedlit.errors import BadInput
from fedlit.record import CaseRow, GateRow, MetricRow, Record


def metric(round: int, site: str = "a", value: float = 0.5, **other) -> MetricRow:
    fields = {"role": "member", "model": "global", "split": "val", "metric": "dice", "num_cases": 3} | other
    return MetricRow(round=round, site=site, value=value, **fields)


def case(site: str, name: str, value: float | None, **other) -> CaseRow:
    fields = {"round": 1, "model": "global", "split": "test", "class_name": "lung", "metric": "dice"} | other
    return CaseRow(site=site, case=name, value=value, **fields)


def test_floats_and_awkward_names_come_back_to_the_bit(tmp_path):
    values = [0.1 + 0.2, 1 / 3, 5e-324, 1e308, math.inf, 0.0, float(np.float32(0.7)), np.float64(2 / 3)]
    rows = [metric(1, f'site "{index}", <b>', value) for index, value in enumerate(values)]
    cases = [case("ü,;\t", f"case {index}", value) for index, value in enumerate([*values, None])]
    Record(tmp_path).add(rows, cases)
    assert list(Record(tmp_path).metrics()) == rows
    assert list(Record(tmp_path).cases()) == cases
    assert (tmp_path / "metrics.csv").read_text().startswith("round,site,role,model,split,metric,value,num_cases\n")
    assert (tmp_path / "cases.csv").read_text().startswith("round,site,case,model,split,class,metric,value\n")


def test_an_excluded_value_is_an_empty_cell(tmp_path):
    Record(tmp_path).add([metric(1, value=math.nan, num_cases=0)], [case("a", "1", math.nan)])
    assert (tmp_path / "cases.csv").read_text().endswith("dice,\n")
    assert math.isnan(next(Record(tmp_path).metrics()).value)
    assert next(Record(tmp_path).cases()).value is None


@pytest.mark.parametrize("reopen", [False, True])
def test_an_equal_key_is_replaced_in_its_place(tmp_path, reopen):
    table = Record(tmp_path)
    for round in (1, 2, 3):
        table.add([metric(round, "a", 0.1), metric(round, "b", 0.2)])
    for round in (3, 1):
        if reopen:
            table = Record(tmp_path)
        table.add([metric(round, "b", 0.9, num_cases=7), metric(round, "c", 0.3)])
    found = {(row.round, row.site): (row.value, row.num_cases) for row in table.metrics()}
    assert len(found) == len(list(table.metrics())) == 8
    assert found[1, "b"] == found[3, "b"] == (0.9, 7) and found[2, "b"] == (0.2, 3)
    assert [row.site for row in table.metrics()][:2] == ["a", "b"]
    table.add([metric(1, "b", 0.4, model="ensemble")])
    assert len(list(table.metrics())) == 9, "another model is another key"


@pytest.mark.parametrize("reopen", [False, True])
def test_new_gates_of_a_site_take_the_place_of_all_that_it_had(tmp_path, reopen):
    """Another form of the same predictor may have other members and other layers, and pictures may have gone."""

    def gate(name: str, member: str, value: float, site: str = "u", model: str = "routing") -> GateRow:
        return GateRow(1, site, name, model, "test", "conv", member, value)

    table = Record(tmp_path)
    others = [gate("1", "global", 0.7, model="softmax"), gate("1", "global", 0.4, site="v")]
    table.add([], [], [gate("1", "a", 0.1), gate("1", "global", 0.2), gate("2", "a", 0.3), *others])
    if reopen:
        table = Record(tmp_path)
    table.add([], [], [gate("1", "a", 0.9), gate("1", "b", 0.8)])
    assert sorted(table.gates()) == sorted([gate("1", "a", 0.9), gate("1", "b", 0.8), *others])


@pytest.mark.parametrize("reopen", [False, True])
def test_new_cases_of_a_site_take_the_place_of_all_that_it_had(tmp_path, reopen):
    table = Record(tmp_path)
    others = [
        case("a", "gone", 0.1, model="tent"),
        case("a", "gone", 9.0, metric="hd95"),
        case("a", "gone", 0.2, split="val"),
        case("a", "gone", 0.3, round=2),
        case("b", "gone", 0.4),
    ]
    table.add([], [case("a", "stays", 0.5), case("a", "gone", 0.6), *others])
    if reopen:
        table = Record(tmp_path)
    table.add([], [case("a", "stays", 0.7), case("a", "new", None)])
    assert [row for row in table.cases() if row not in others] == [case("a", "stays", 0.7), case("a", "new", None)]
    assert [row for row in table.cases() if row in others] == others


def test_appending_a_round_leaves_the_file_in_place(tmp_path):
    table = Record(tmp_path)
    table.add([metric(1, f"site{index}") for index in range(64)])
    inode, before = os.stat(tmp_path / "metrics.csv").st_ino, (tmp_path / "metrics.csv").read_bytes()
    for round in range(2, 6):
        table.add([metric(round, f"site{index}") for index in range(64)])
    assert os.stat(tmp_path / "metrics.csv").st_ino == inode
    assert (tmp_path / "metrics.csv").read_bytes().startswith(before)
    assert len(table._metrics.tail[1]) == 64, "only the last round is remembered"


def test_truncate_then_add_equals_never_interrupted(tmp_path):
    def rows(round):
        return [metric(round, site, 0.1 * round) for site in "ab"], [case("a", "1", 0.5, round=round, split="val")]

    whole, resumed = Record(tmp_path / "whole"), Record(tmp_path / "resumed")
    for round in range(1, 5):
        whole.add(*rows(round))
    for round in range(1, 4):
        resumed.add(*rows(round))
    resumed = Record(tmp_path / "resumed")
    resumed.truncate(2)
    assert {row.round for row in resumed.metrics()} == {row.round for row in resumed.cases()} == {1, 2}
    for round in range(3, 5):
        resumed.add(*rows(round))
    for name in ("metrics.csv", "cases.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
    Record(tmp_path / "empty").truncate(3)


def test_a_file_torn_anywhere_is_read_up_to_its_last_whole_line_and_mended(tmp_path):
    rows = [metric(1, "a"), metric(1, "ü"), metric(2, "a", 1 / 3)]
    Record(tmp_path / "whole").add(rows)
    content = (tmp_path / "whole" / "metrics.csv").read_bytes()
    path = tmp_path / "torn" / "metrics.csv"
    path.parent.mkdir()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole = max(0, content[:length].count(b"\n") - 1)
        assert list(Record(path.parent).metrics()) == rows[:whole]
        assert path.read_bytes() == content[:length], "reading changes nothing"
        Record(path.parent).add([metric(9)])
        assert list(Record(path.parent).metrics()) == [*rows[:whole], metric(9)]


def test_damage_before_the_last_line_is_named(tmp_path):
    Record(tmp_path).add([metric(1), metric(2)])
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text().replace("1,a,", "one,a,"))
    with pytest.raises(BadInput, match=r"metrics\.csv, line 2: .*one,a.* overwrite=true"):
        list(Record(tmp_path).metrics())
    path.write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="line 1"):
        list(Record(tmp_path).metrics())
    with pytest.raises(BadInput, match="line break"):
        Record(tmp_path / "other").add([metric(1, "two\nlines")])


def test_a_failed_write_is_mended_by_the_next_one(tmp_path, monkeypatch):
    table = Record(tmp_path)
    table.add([metric(1)])

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="space"):
            table.add([metric(2)])
        with pytest.raises(OSError, match="space"):
            table.truncate(0)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("2,b,mem")
    table.add([metric(2), metric(3)])
    assert [row.round for row in table.metrics()] == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv"]
