"""The look at the data before a run: told once for each state of the data, and never in the way of a run."""

from __future__ import annotations

import json
import shutil

import numpy as np
from PIL import Image

from fedlit.data.source import Manifest
from fedlit.inspection import inspect, remarks
from fedlit.inspection.before_run import MOST_LINES
from tests.conftest import fedlit
from tests.test_inspection import data, scene  # noqa: F401 (a fixture)


def told_of(source, say):
    return remarks(source, source.fingerprint(), say)


def test_warnings_are_the_gravest_of_inspect_and_found_once_for_each_state_of_the_data(data, tmp_path):  # noqa: F811
    source = Manifest(str(data.root), {"disc": 255}, cache_dir=str(tmp_path / "cache"))
    said: list[str] = []
    assert told_of(source, said.append) == [] and len(said) == 1  # nothing is wrong with them
    assert told_of(source, said.append) == [] and len(said) == 1
    for number in range(MOST_LINES + 2):  # two sites share each of these pictures, saved anew
        image, mask = scene(500 + number)
        data.add("a", f"one{number}", "train", f"q{number}", image, mask)
        data.add("b", f"two{number}", "test", f"q{number}", image // 2, mask)
    data.write()
    told, all_found = (
        told_of(source, said.append),
        inspect(data.root, cache=tmp_path / "cache").warnings,
    )
    assert len(said) == 2 and len(told) == MOST_LINES + 1
    assert told[:-1] == [finding.text for finding in all_found if finding.kind != "outlier"][:MOST_LINES]
    assert told[-1].startswith("the data have ") and told[-1].endswith(f": fedlit inspect {data.root}")


def test_a_run_tells_them_before_its_first_round_and_keeps_them(config_file, disc_data, tmp_path, capsys):
    root = tmp_path / "doubled"
    shutil.copytree(disc_data, root)
    empty = np.zeros_like(np.asarray(Image.open(next(root.glob("mask_a*.png")))))
    Image.fromarray(empty).save(next(root.glob("mask_a*.png")))
    words = [f"data.root={root}", "local_epochs=1", "inspect_data=true"]
    assert fedlit("run", config_file, "num_rounds=1", *words) == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    told = [printed.index(text) for text in ("looking at every picture", "1 of 11 cases have an empty mask", "round 1")]
    assert told == sorted(told)
    assert fedlit("run", config_file, "num_rounds=2", *words) == 0  # goes on
    assert "looking at every picture" not in capsys.readouterr().out
    warnings = json.loads((tmp_path / "run" / "summary.json").read_text())["warnings"]
    assert any("have an empty mask" in text for text in warnings)  # said before this process began


def test_splits_are_those_of_the_run_and_nothing_in_the_way_of_the_look_is_in_the_way_of_a_run(data, tmp_path):  # noqa: F811
    image, mask = scene(900)
    data.add("a", "one", "train", "q1", image, mask)
    data.add("a", "two", "train", "q2", image // 2, mask)
    data.write()
    dealt = Manifest(str(data.root), {"disc": 255}, cache_dir=str(tmp_path / "cache"), resplit_seed=1)
    splits = {row.name: row.split for row in dealt.rows()}
    (alike,) = (text for text in told_of(dealt, str) if "nearly the same" in text)
    assert f"one.png (a, {splits['one.png']}, line" in alike
    assert ("in two splits" in alike) == (splits["one.png"] != splits["two.png"])
    (kept,) = (tmp_path / "cache" / "inspections").glob("*.json")
    for path in (kept, kept.with_suffix(".lock")):
        path.unlink()
    kept.with_suffix(".lock").mkdir()  # as in a cache that cannot be written
    assert alike in told_of(dealt, str) and not kept.exists()
