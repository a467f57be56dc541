"""The result table keeps what it is given, through replacement, resume and kill -9."""

from __future__ import annotations

import json
import math
import os
import subprocess

import numpy as np
import pytest

from fedlit import record
from fedlit.errors import BadInput
from fedlit.record import (
    CaseRow,
    MetricRow,
    Record,
    bootstrap_interval,
    save_picture,
    site_metrics,
    summarise,
    write_json,
)


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
        return [metric(round, site, 0.1 * round) for site in "ab"], [case("a", "1", 0.5, round=round)]

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


def test_a_site_value_is_the_mean_over_cases_of_the_mean_over_classes():
    cases = [
        case("a", "1", 0.2, class_name="disc"),
        case("a", "1", 0.4, class_name="cup"),
        case("a", "2", 0.9, class_name="disc"),
        case("a", "2", None, class_name="cup"),
        case("a", "3", None, class_name="disc"),
        case("a", "3", math.nan, class_name="cup"),
        case("b", "1", None),
    ]
    first, second = site_metrics(cases, {"a": "member", "b": "unseen"})
    assert first == MetricRow(1, "a", "member", "global", "test", "dice", pytest.approx((0.3 + 0.9) / 2), 2)
    assert (second.site, second.role, second.num_cases) == ("b", "unseen", 0) and math.isnan(second.value)
    summary = summarise(cases, [first, second], round=1, model="global")
    assert summary["sites"]["a"]["dice"]["mean"] == first.value
    assert summary["sites"]["a"]["dice"]["num_excluded"] == 3
    assert (
        summary["sites"]["b"]["dice"] | {"mean": None, "num_cases": 0, "num_excluded": 1}
        == summary["sites"]["b"]["dice"]
    )


def test_the_interval_holds_the_mean_and_equal_cases_have_no_width():
    generator = np.random.default_rng(0)
    for size in (2, 3, 10, 1000):
        values = generator.beta(8, 2, size).tolist()
        low, high = bootstrap_interval(values, seed=1)
        assert min(values) <= low <= np.mean(values) <= high <= max(values)
        assert (low, high) == bootstrap_interval(values, seed=1), "seeded"
    for value in (0.1, 1 / 3, 0.9):
        assert bootstrap_interval([value] * 7, seed=1) == pytest.approx((value, value), abs=1e-15)
        low, high = bootstrap_interval([value] * 7, seed=1)
        assert high - low == 0


def test_the_interval_agrees_with_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).beta(8, 2, 40)
    expected = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=3
    ).confidence_interval
    assert bootstrap_interval(values.tolist(), seed=2, num_resamples=20_000) == pytest.approx(tuple(expected), abs=2e-3)


def test_one_case_has_no_interval():
    rows = site_metrics([case("a", "1", 0.7)], {"a": "member"})
    spread = summarise([case("a", "1", 0.7)], rows, round=1, model="global")["sites"]["a"]["dice"]
    assert spread == {"mean": 0.7, "std": None, "ci_low": None, "ci_high": None, "num_cases": 1, "num_excluded": 0}


def test_the_summary_is_about_members_worst_first_and_ignores_the_order_of_rows():
    values = {"good": 0.9, "bad": 0.6, "mid": 0.75, "new": 0.5, "newer": 0.55}
    roles = dict.fromkeys(("good", "bad", "mid"), "member") | dict.fromkeys(("new", "newer"), "unseen")
    cases = [case(site, str(index), value + index / 100) for site, value in values.items() for index in (-1, 0, 1)]
    cases += [
        case("good", "0", 0.0, model="other"),
        case("good", "0", 0.0, split="val"),
        case("good", "0", 0.0, round=2),
    ]
    rows = site_metrics(cases, roles)
    summary = summarise(cases, rows, round=1, model="global")
    assert list(summary["sites"]) == ["new", "newer", "bad", "mid", "good"]
    assert (summary["worst_site"], summary["unseen_worst_site"]) == ("bad", "new")
    numbers = [
        summary[key] for key in ("worst_dice", "gap", "mean_dice", "std_dice", "unseen_worst_dice", "unseen_mean_dice")
    ]
    assert numbers == pytest.approx([0.6, 0.3, 0.75, np.std([0.9, 0.6, 0.75]), 0.5, 0.525])
    assert summary == summarise(cases[::-1], rows[::-1], round=1, model="global")


def test_without_members_the_main_numbers_are_over_what_there_is():
    cases = [case("new", "1", 0.5), case("newer", "1", 0.7)]
    summary = summarise(cases, site_metrics(cases, dict.fromkeys(("new", "newer"), "unseen")), round=1, model="global")
    assert (summary["worst_site"], summary["worst_dice"]) == ("new", 0.5)
    assert summarise([], [], round=1, model="global")["worst_site"] is None


def test_secrets_and_people_stay_out_of_the_provenance(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/mary")
    command = [
        "fedlit",
        "run",
        "c.yaml",
        "wandb.api_key=S1",
        "db_password=S2",
        "--token",
        "S3",
        "secret_name=S4",
        "name=my run",
        "uri=https://mary:S5@host/x",
        "data.root=/home/john/data",
        "out=/srv/people/mary/x",
        "--hf-token=S6",
    ]
    found = record.provenance(command, "abc")
    text = json.dumps(found)
    assert not any(word in text for word in ("S1", "S2", "S3", "S4", "S5", "S6", "john", "mary"))
    assert (
        "'name=my run'" in found["command"]
        and "data.root=~/data" in found["command"]
        and "api_key=***" in found["command"]
    )
    assert found["manifest"] == "abc" and found["started"].endswith("+00:00")
    assert {"python", "torch", "lightning", "numpy", "albumentations"} <= set(found["versions"])
    assert found["hardware"]["num_cores"] >= 1 and found["hardware"]["cpu"]
    text = record.provenance("run password='a b' token=S1 monkey business", None)["command"]
    assert text == "run password=*** token=*** monkey business"


@pytest.mark.parametrize(
    "failure", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10), subprocess.CalledProcessError(1, "git")]
)
def test_provenance_needs_no_git(monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(subprocess, "run", fail)
    assert record.provenance("run", None)["code"] == {"commit": None, "dirty": None}


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"a": float("nan"), "b": [np.float32(0.5), np.int64(3), float("inf")], "ü": None})
    assert json.loads(path.read_text()) == {"a": None, "b": [0.5, 3, None], "ü": None}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text())["b"][1] == 3
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_of_similar_names_do_not_meet(tmp_path):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    planes = generator.random((2, 6, 5)) < 0.5
    names = ["a/b", "a_b", "../../a b", "A_B", "", "x" * 300, "<script>"]
    for site in names:
        for rank in ("best", "median", "worst"):
            save_picture(
                tmp_path,
                site=site,
                case=f"{site}/é",
                rank=rank,
                model="global",
                image=image,
                target=planes,
                prediction=~planes,
                dice=0.25,
            )
    save_picture(
        tmp_path,
        site="a/b",
        case="later",
        rank="best",
        model="global",
        image=image[..., 0],
        target=planes,
        prediction=planes,
        dice=1,
    )
    files = sorted((tmp_path / "pictures").iterdir())
    assert len({file.name.lower() for file in files}) == len(files) == 3 * len(names)
    assert all(file.parent == tmp_path / "pictures" and len(file.name) < 120 for file in files)
    seen = {}
    for file in files:
        with np.load(file, allow_pickle=False) as picture:
            seen[str(picture["site"]), str(picture["rank"])] = {name: picture[name] for name in picture.files}
    assert str(seen["a/b", "best"]["case"]) == "later" and seen["a/b", "best"]["image"].shape == (6, 5)
    assert (
        np.array_equal(seen["<script>", "worst"]["prediction"], ~planes) and seen["<script>", "worst"]["dice"] == 0.25
    )
