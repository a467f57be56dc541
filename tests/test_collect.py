"""Finished runs in one table: what is grouped, what is averaged, and what is said of the others."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from fedlit.collect import collect
from fedlit.collected_table import as_csv, as_latex, as_markdown, rounded, show
from fedlit.errors import BadInput
from fedlit.grouping import Group, Spread, Table, tabulate
from fedlit.record import MetricRow, Record
from tests.conftest import fedlit

CONFIG = {
    "name": "x",
    "seed": 0,
    "algorithm": {"_target_": "fedlit.algorithms.FedAvg"},
    "unseen_sites": ["u"],
    "num_rounds": 3,
    "lr": 0.1,
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.1},
    "devices": 1,
    "run_dir": "r",
    "loggers": {"csv": {"key": "${oc.env:NOT_SET_ANYWHERE}"}},
}


def make_run(path: Path, dice: dict[str, float], *, kept: int = 2, metric: str = "dice", **changes) -> Path:
    """A finished run whose sites scored so at the kept round; every other row is there to mislead."""
    path.mkdir(parents=True)
    config = OmegaConf.merge(CONFIG, changes)
    OmegaConf.save(config, path / "config.yaml")
    (path / "summary.json").write_text(json.dumps({"kept_round": kept, "model": "global"}))
    rows = []
    for site, value in dice.items():
        role = "unseen" if site in config.unseen_sites else "member"
        rows += [
            MetricRow(kept, site, role, "global", "test", metric, value, 3),
            MetricRow(kept + 1, site, role, "global", "test", metric, 0.0, 3),
            MetricRow(kept, site, role, "personal", "test", metric, value / 2, 3),
            MetricRow(kept, site, role, "global", "val", metric, 0.111, 3),
        ]
    rows.append(MetricRow(kept, "server", "server", "global", "test", metric, 0.01, 3))
    Record(path).add(rows)
    return path


def table_of(*paths: Path, **options) -> Table:
    return tabulate(collect(paths, **options).require())


def test_a_components_seed_that_follows_the_runs_makes_no_group(tmp_path):
    follow = [make_run(tmp_path / f"f{seed}", {"a": 0.5}, seed=seed, data={"seed": seed}) for seed in (0, 1)]
    assert [group.num_seeds for group in table_of(*follow).groups] == [2]
    differ = [make_run(tmp_path / f"d{seed}", {"a": 0.5}, seed=seed, data={"seed": 7 - seed}) for seed in (0, 1)]
    assert [group.num_seeds for group in table_of(*differ).groups] == [1, 1]


def test_mean_and_sample_std_over_seeds(tmp_path):
    """Of the worst member, the mean of members, the gap, the unseen sites; machines and names make no group."""
    scores = [{"a": 0.5, "b": 0.9, "u": 0.3}, {"a": 0.8, "b": 0.6, "u": 0.5}, {"a": 0.7, "b": 0.7, "u": 0.1}]
    for seed, dice in enumerate(scores):
        make_run(tmp_path / str(seed), dice, seed=seed, name=f"n{seed}", run_dir=f"r{seed}", devices=seed + 1)
    table = table_of(tmp_path)
    assert table.keys == () and [group.num_seeds for group in table.groups] == [3]
    found = table.groups[0].scores
    for name, values in {
        "worst site": [0.5, 0.6, 0.7],
        "mean": [(0.5 + 0.9) / 2, (0.8 + 0.6) / 2, 0.7],
        "gap": [0.9 - 0.5, 0.8 - 0.6, 0.0],
        "unseen": [0.3, 0.5, 0.1],
    }.items():
        assert found[name].mean == pytest.approx(statistics.fmean(values), abs=1e-15)
        assert found[name].std == pytest.approx(statistics.stdev(values), abs=1e-15)


def test_one_seed_has_no_spread_and_a_repeated_one_counts_once(tmp_path):
    make_run(tmp_path / "a", {"a": 0.5, "u": 0.1})
    make_run(tmp_path / "b", {"a": 0.7, "u": 0.1})
    found = collect([tmp_path / "a", tmp_path / "b"])
    assert found.missing == (f"{tmp_path / 'b'}: left out, it has the config and the seed of {tmp_path / 'a'}",)
    (group,) = tabulate(found.require()).groups
    assert group.num_seeds == 1 and group.scores["worst site"] == Spread(0.5, None)


def test_groups_are_named_by_what_differs_in_its_last_name(tmp_path):
    make_run(tmp_path / "a", {"a": 0.5}, lr=0.1, optimizer={"lr": 0.1})
    local = {"_target_": "fedlit.algorithms.Local"}
    make_run(tmp_path / "b", {"a": 0.6}, lr=0.2, optimizer={"lr": 0.2}, algorithm=local)
    table = table_of(tmp_path)
    assert table.keys == ("algorithm._target_", "lr")  # optimizer.lr says nothing more
    assert [group.labels for group in table.groups] == [("FedAvg", "0.1"), ("Local", "0.2")]
    assert as_markdown(table).splitlines()[0] == "| algorithm | lr | seeds | worst site | mean | gap |"


@pytest.mark.parametrize("without", ["a", "b"])
def test_the_mean_of_folds_is_of_scores_that_all_have(tmp_path, without):
    """Distances of a site without spacing are in pixels, and are no score in mm."""
    for site in "ab":
        unit = "hd95_px" if site == without else "hd95_mm"
        make_run(tmp_path / site, {site: 3.0}, unseen_sites=[site], metric=unit)
        Record(tmp_path / site).add([MetricRow(2, "d", "member", "global", "test", "hd95_mm", 4.0, 3)])
    *_, mean = table_of(tmp_path, metric="hd95_mm").groups
    assert mean.labels == ("mean of 2",) and mean.scores["mean"].mean == 4.0 and mean.scores["unseen"].mean is None


def test_classes_of_one_name_are_told_apart_by_where_they_are_from(tmp_path):
    make_run(tmp_path / "a", {"a": 0.9})
    make_run(tmp_path / "b", {"a": 0.1}, algorithm={"_target_": "mine.FedAvg"})
    table = table_of(tmp_path)
    assert [(group.labels, group.num_seeds) for group in table.groups] == [
        (("fedlit.algorithms.FedAvg",), 1),
        (("mine.FedAvg",), 1),
    ]


def test_a_mean_over_fewer_sites_than_other_seeds_have_does_not_count(tmp_path):
    """One hospital failed with a seed: the mean of the others is no better run."""
    make_run(tmp_path / "0", {"a": 0.9, "b": 0.3, "u": 0.5})
    make_run(tmp_path / "1", {"a": 0.9, "u": 0.7}, seed=1)
    make_run(tmp_path / "other", {"a": 0.8}, lr=0.2)
    found = collect([tmp_path])
    assert found.remarks == (
        f"{tmp_path / '1'} has no score at b, which other seeds have: its worst site, mean, gap does not count",
    )
    first, other = tabulate(found.require()).groups
    assert first.num_seeds == 2 and first.scores["mean"] == Spread(pytest.approx(0.6), None)
    assert first.scores["unseen"] == Spread.of([0.5, 0.7]) and other.scores["mean"].mean == 0.8


def test_left_out_sites_have_a_line_each_and_their_mean_over_whole_seeds(tmp_path):
    unseen = {("a", 0): 0.2, ("a", 1): 0.4, ("b", 0): 0.6, ("b", 1): 0.9, ("c", 0): 0.7}  # c with seed 1 is not there
    for (site, seed), dice in unseen.items():
        make_run(tmp_path / f"{site}{seed}", {site: dice, "d": 0.5}, unseen_sites=[site], seed=seed)
    lines = {group.labels: group for group in table_of(tmp_path).groups}
    assert list(lines) == [("a",), ("b",), ("c",), ("mean of 3",)]
    assert lines["a",].scores["unseen"] == Spread.of([0.2, 0.4]) and lines["c",].num_seeds == 1
    assert lines["mean of 3",].num_seeds == 1
    assert lines["mean of 3",].scores["unseen"].mean == pytest.approx(0.5)
    make_run(tmp_path / "c1", {"c": 0.5, "d": 0.5}, unseen_sites=["c"], seed=1)
    mean = table_of(tmp_path).groups[-1]
    assert mean.num_seeds == 2 and mean.scores["unseen"].std == pytest.approx(statistics.stdev([0.5, 0.6]))


def test_of_a_distance_the_worst_is_the_largest(tmp_path):
    make_run(tmp_path / "a", {"a": 9.0, "b": 2.0, "u": 3.0}, metric="hd95_mm")
    scores = table_of(tmp_path, metric="hd95_mm").groups[0].scores
    assert (scores["worst site"].mean, scores["gap"].mean) == (9.0, 7.0)


def test_sites_in_another_unit_are_named(tmp_path, capsys):
    """Once for all runs; not of another model, and not where nothing was counted."""
    for seed in (0, 1):
        run = make_run(tmp_path / str(seed), {"a": 9.0, "u": 3.0}, metric="hd95_mm", seed=seed)
        rows = [
            MetricRow(2, site, "member", model, "test", "hd95_px", 4.0, count)
            for site, model, count in (("b", "global", 3), ("c", "global", 1), ("a", "global", 0), ("d", "personal", 3))
        ]
        Record(run).add(rows)
    line = "b, c have cases scored in hd95_px, which do not count here: --metric hd95_px shows them"
    assert collect([tmp_path], metric="hd95_mm").remarks == (line,)
    assert fedlit("collect", tmp_path, "--metric", "hd95_mm") == 0 and line in capsys.readouterr().err
    alone = make_run(tmp_path / "more" / "run", {"a": 9.0}, metric="hd95_mm")
    assert collect([alone], metric="hd95_mm").remarks == ()


def test_another_model_and_split(tmp_path):
    make_run(tmp_path / "a", {"a": 0.5, "u": 0.3})
    assert table_of(tmp_path, model="personal").groups[0].scores["worst site"].mean == 0.25
    assert table_of(tmp_path, split="val").groups[0].scores["mean"].mean == 0.111
    found = collect([tmp_path / "a"], metric="nsd")
    assert found.missing[0].endswith("has no nsd of the model global on test; it has global dice, personal dice")


def test_the_missing_are_named_with_the_reason(tmp_path, capsys):
    done = make_run(tmp_path / "grid" / "seed=0", {"a": 0.5})
    half = make_run(tmp_path / "grid" / "seed=1", {"a": 0.5}, seed=1)
    (half / "summary.json").unlink()
    (half / "checkpoint").mkdir()
    for number in (1, 2):
        (half / "checkpoint" / f"round-{number:05d}.json").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "grid" / ".grid.json").write_text('["seed=0", "seed=1", "seed=2"]')
    wanted = [
        f"{half}: not finished (round 2 of 3)",
        f"{tmp_path / 'grid' / 'seed=2'}: no run: there is no such directory",
    ]
    assert collect([tmp_path / "grid"]).missing == tuple(wanted)
    assert sorted(collect([done, half]).missing) == sorted(wanted)  # as a shell's runs/* gives them
    assert fedlit("collect", tmp_path / "grid", tmp_path / "empty") == 0
    captured = capsys.readouterr()
    for line in (*wanted, f"{tmp_path / 'empty'}: no run: it has no config.yaml"):
        assert f"not in the table: {line}\n" in captured.err
    assert "worst site" in captured.out
    assert fedlit("collect", half, tmp_path / "empty") == 2
    assert "no finished run among these" in capsys.readouterr().err


NOTHING = {"gap": Spread(None, None), "unseen": Spread(None, None)}
SHOWN = Table(
    ("data.a_b", "loss._target_"),
    (
        Group(("50%|x", "A&B"), 2, {"worst site": Spread(1 / 3, 0.01249), "mean": Spread(0.5, None)} | NOTHING),
        Group(("none", "~"), 1, {"worst site": Spread(0.25, None), "mean": Spread(None, None)} | NOTHING),
    ),
)


def test_csv_is_exact():
    rows = list(csv.DictReader(as_csv(SHOWN).splitlines()))
    assert float(rows[0]["worst_site_mean"]) == 1 / 3 and float(rows[0]["worst_site_std"]) == 0.01249
    assert rows[0]["data.a_b"] == "50%|x" and rows[0]["mean_std"] == "" and rows[1]["mean_mean"] == ""


def test_markdown_and_latex_are_rounded_and_escaped():
    assert rounded(Spread(0.8474, 0.0119)) == "0.847 ± 0.012" and rounded(Spread(0.8474, None)) == "0.847"
    assert as_markdown(SHOWN).splitlines() == [
        r"| data.a\_b | loss | seeds | worst site | mean |",
        "| :-- | :-- | --: | --: | --: |",
        r"| 50%\|x | A&B | 2 | 0.333 ± 0.012 | 0.500 |",
        "| none | ~ | 1 | 0.250 |  |",
    ]
    assert as_latex(SHOWN).splitlines() == [
        r"\begin{tabular}{llrrr}",
        r"\toprule",
        r"data.a\_b & loss & seeds & worst site & mean \\",
        r"\midrule",
        r"50\%\textbar{}x & A\&B & 2 & 0.333 $\pm$ 0.012 & 0.500 \\",
        r"none & \textasciitilde{} & 1 & 0.250 &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_the_terminal_cuts_no_number(capsys):
    show(SHOWN, Console(width=50))
    said = capsys.readouterr().out
    assert "0.333 ± 0.012" in said and max(map(len, said.splitlines())) <= 50


def test_files_are_written_by_their_suffix_or_refused_first(tmp_path, capsys):
    run = make_run(tmp_path / "a", {"a": 0.5, "u": 0.25})
    names = [tmp_path / f"table.{suffix}" for suffix in ("csv", "md", "tex")]
    assert fedlit("collect", run, *(word for name in names for word in ("--out", name))) == 0
    assert all(name.stat().st_size for name in names)
    assert fedlit("collect", run, "--out", tmp_path / "table.xlsx") == 2
    assert "allowed are .csv, .md, .tex" in capsys.readouterr().err
    assert fedlit("collect", run, "--out", tmp_path / "no" / "table.csv") == 2


def test_nothing_finished_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no finished run"):
        collect([tmp_path / "nowhere"]).require()
