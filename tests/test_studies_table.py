"""The table of a study is what the runs recorded: means, spreads, best, tests and costs, by hand."""

from __future__ import annotations

import csv
import io
import re
import statistics
from dataclasses import replace

import pytest
from rich.console import Console

from fedlit.record import CaseRow, Record
from fedlit.significance import holm, paired_p
from fedlit.studies.numbers import Design, Row
from fedlit.studies.page import lead
from fedlit.studies.results import read_result
from fedlit.studies.table import Cost, scored
from fedlit.studies.writing import as_csv, as_latex, as_markdown, as_text, reading, show
from fedlit.summary import site_metrics
from fedlit.text_table import Cell, TextTable
from tests.finished_runs import finished_run

BASE = [0.50, 0.60, 0.70, 0.55, 0.65, 0.75]
BETTER = [value + 0.01 * place for place, value in enumerate(BASE, 1)]


@pytest.fixture
def row(tmp_path):
    """Makes a row of runs without folds: a mapping from site to cases for each seed."""

    def make(name, *seeds, **options):
        results = {}
        for seed, scores in enumerate(seeds):
            if scores is not None:
                path = finished_run(tmp_path / f"{name}{seed}", scores, seed=seed, **options)
                results[None, seed] = read_result(path)
        return Row(name, results)

    return make


def design(*sites, num_seeds=1, **options):
    return Design(
        **{"folds": (None,), "scores": "members", "reference": "base", **options},
        seeds=tuple(range(num_seeds)),
        sites=sites,
    )


SITE_A, SITE_B, MEAN, WORST, GAP = ("site", "a"), ("site", "b"), ("mean", ""), ("worst", ""), ("gap", "")


def test_mean_worst_and_gap_are_over_sites_and_spreads_over_seeds(row):
    rows = [row("base", {"a": [0.5, 0.7], "b": [0.9]}, {"a": [0.8], "b": [0.2, 0.4]})]
    values = scored(rows, design("a", "b", num_seeds=2), "dice").lines[0].values
    assert [*values] == [SITE_A, SITE_B, MEAN, WORST, GAP]
    for column, of_seeds in {
        SITE_A: [0.6, 0.8],
        SITE_B: [0.9, 0.3],
        MEAN: [0.75, 0.55],
        WORST: [0.6, 0.3],
        GAP: [0.3, 0.5],
    }.items():
        assert values[column].spread.mean == pytest.approx(statistics.fmean(of_seeds))
        assert values[column].spread.std == pytest.approx(statistics.stdev(of_seeds))


def test_of_distances_the_smallest_is_best_and_the_largest_worst(row):
    far, near = ({"a": [9.0], "b": [5.0]}, {"a": [3.0], "b": [4.0]})
    rows = [row("base", far, metric="hd95_mm"), row("near", near, metric="hd95_mm")]
    table = scored(rows, design("a", "b"), "hd95")
    assert table.metric == "hd95_mm"
    assert [line.values[WORST].spread.mean for line in table.lines] == [9.0, 4.0]
    assert [line.values[SITE_A].is_best for line in table.lines] == [False, True]
    assert [line.values[GAP].spread.mean for line in table.lines] == [4.0, 1.0]


def test_the_smallest_gap_is_the_best_and_none_is_tested_or_there_for_one_site(row):
    rows = [row("base", {"a": [0.9], "b": [0.5]}), row("even", {"a": [0.6], "b": [0.5]})]
    table = scored(rows, design("a", "b"), "dice")
    assert [line.values[GAP].is_best for line in table.lines] == [False, True]
    assert [line.values[MEAN].is_best for line in table.lines] == [True, False]
    assert table.lines[1].values[GAP].untested == "no test" and table.num_cases[GAP] is None
    assert "Gap: between the best and the worst site." in as_markdown("T", [table], [])
    alone = scored(rows, design("a"), "dice")
    assert [*alone.lines[0].values] == [SITE_A] and "Gap" not in as_markdown("T", [alone], [])


def test_sites_with_and_without_spacing_are_not_averaged(tmp_path):
    """Millimetres and pixels have a column each, and nothing that stands for both."""
    rows = []
    for name, more in (("base", 0.0), ("near", -1.0)):
        scored_in = {"a": [9.0 + more, *(place + more for place in range(6))]}
        path = finished_run(tmp_path / name, scored_in, metric="hd95_mm", seed=0)
        cases = [
            CaseRow(2, "b", f"case {place}", "global", "test", "disc", "hd95_px", 5.0 + more) for place in range(7)
        ]
        Record(path).add(site_metrics(cases, {"b": "member"}), cases)
        with open(path / "patients.csv", "a") as file:
            file.writelines(f"b,{case.case},{case.case}\n" for case in cases)
        rows.append(Row(name, {(None, 0): read_result(path)}))
    table = scored(rows, design("a", "b"), "hd95")
    values = table.lines[1].values
    assert table.metric == "hd95" and values[SITE_A].differs and values[SITE_B].spread.mean == 4.0
    for column in (MEAN, WORST, GAP):
        assert values[column].spread.mean is None and not values[column].is_best and table.num_cases[column] is None
    assert values[MEAN].untested == "no common unit"
    assert table.remarks == (
        "the runs give hd95_mm at a and hd95_px at b: these are no numbers to be averaged or compared over sites",
    )
    assert lead(table) == "HD95 has not the same unit at all sites, so none is best over them."
    alone = scored(rows, design("b"), "hd95")
    assert alone.metric == "hd95_px" and lead(alone) == "Lowest HD95 (px) at b: near with 4.00."


def test_a_mean_over_sites_that_most_patients_contradict_is_not_marked(row):
    """Seven of nine patients are of one site, and lose there: the test would be theirs, and the cell's gain is not."""
    base = {"a": [0.5] * 7, "b": [0.5] * 2}
    rows = [
        row("base", base),
        row("odd", {"a": [0.49] * 7, "b": [0.6] * 2}),
        row("good", {"a": [0.51] * 7, "b": [0.6] * 2}),
    ]
    _, odd, good = scored(rows, design("a", "b"), "dice").lines
    assert odd.values[MEAN].spread.mean > 0.5 and odd.values[SITE_A].differs
    assert odd.values[MEAN].untested == "patients and sites disagree" and not odd.values[MEAN].differs
    assert good.values[MEAN].differs and "by their ranks lean the other way" in reading(
        scored(rows, design("a", "b"), "dice")
    )


def test_a_seed_that_is_missing_is_said_and_never_averaged_over(row):
    """The cell says how many seeds it has and is not compared for the best; mean and worst need all sites."""
    rows = [
        row("base", {"a": [0.5], "b": [0.5]}, {"a": [0.7], "b": [0.7]}),
        row("high", {"a": [0.9], "b": [0.9]}, None),
    ]
    base, high = scored(rows, design("a", "b", num_seeds=2), "dice").lines
    assert (high.values[SITE_A].num_seeds, high.values[SITE_A].is_best, base.values[SITE_A].is_best) == (1, False, True)
    text = as_text(scored(rows, design("a", "b", num_seeds=2), "dice"), with_costs=False)
    assert text.rows[1][1].text == "0.900 (n 1)" and text.rows[0][1].text == "0.600 ± 0.141"
    table = scored([row("base2", {"a": [0.5]}, None)], design("a", "b", num_seeds=2, reference="base2"), "dice")
    assert table.lines[0].values[MEAN].spread.mean is None and table.lines[0].values[SITE_B].num_seeds == 0
    assert as_text(table, with_costs=False).rows[0][2].text == ""
    assert table.remarks == ("base2: no dice of the global model at b in base20",)


def test_a_case_is_its_mean_over_seeds_and_p_is_corrected_by_column(row):
    """Two methods in a column: Holm doubles the smaller p; the reference's own cell has none."""
    second = [value - 0.02 for value in BASE]
    rows = [
        row("base", {"a": BASE}, {"a": second}),
        row("better", {"a": BETTER}, {"a": [value + 0.001 for value in second]}),
        row("same", {"a": BASE}, {"a": second}),
    ]
    base, better, same = scored(rows, design("a", num_seeds=2), "dice").lines
    differences = [
        (one + other + 0.001) / 2 - (base + other) / 2 for one, base, other in zip(BETTER, BASE, second, strict=True)
    ]
    wanted = holm({"better": paired_p(differences), "same": 1.0})
    assert better.values[SITE_A].p == pytest.approx(wanted["better"]) == pytest.approx(2 / 2**6 * 2)
    assert same.values[SITE_A].p == 1.0 and base.values[SITE_A].untested == "reference"


def test_what_is_better_with_one_seed_and_worse_with_another_is_level_and_no_win(row):
    """With the first seed all cases are better by 0.01 to 0.06, with the second worse by less, so p is small."""
    later = [value + 0.1 for value in BASE]
    rows = [row("base", {"a": BASE}, {"a": later}), row("better", {"a": BETTER}, {"a": [x - 0.005 for x in later]})]
    near = scored(rows, design("a", num_seeds=2), "dice")
    base, better = (line.values[SITE_A] for line in near.lines)
    assert better.p is not None and better.p < 0.05 and not better.differs
    assert (base.is_best, better.is_best) == (False, True) and base.is_level and better.is_level
    assert lead(near).endswith(f"better with {better.spread.mean:.3f}, level with base.")
    said = " ".join(as_markdown("T", [near], []).split())
    assert (
        "Bold: the best of a column, and what lies within its deviation and is not behind it with every seed." in said
    )
    assert "differs from base, to the same side with every seed, with p < 0.05" in said


def test_what_is_better_with_every_seed_is_a_win_however_far_seeds_are_apart(row):
    """Both rows are 0.1 better with the second seed, which says nothing of their difference of 0.035."""
    later = [value + 0.1 for value in BASE]
    rows = [row("base", {"a": BASE}, {"a": later}), row("better", {"a": BETTER}, {"a": [x + 0.1 for x in BETTER]})]
    table = scored(rows, design("a", num_seeds=2), "dice")
    base, better = (line.values[SITE_A] for line in table.lines)
    assert (base.is_level, better.is_level) == (base.differs, better.differs) == (False, True)
    assert [row[1].is_best for row in as_text(table, with_costs=False).rows] == [False, True]
    assert better.spread.std > better.spread.mean - base.spread.mean > 0


def test_rows_of_other_seeds_are_apart_beyond_both_deviations(row):
    rows = [row("base", {"a": BASE}, {"a": [value + 0.1 for value in BASE]})]
    rows += [replace(row("near", {"a": BETTER}), seeds=(0,))]
    rows += [replace(row("far", {"a": [value + 0.2 for value in BASE]}), seeds=(0,))]
    table = scored(rows, design("a", num_seeds=2), "dice")
    assert [line.values[SITE_A].is_beyond for line in table.lines] == [False, False, True]
    assert "with every seed (of other seeds: by more than both deviations), with p < 0.05" in reading(table)


def test_a_row_that_failed_with_one_seed_is_not_level_by_its_own_spread(row):
    rows = [row("base", {"a": [0.9]}, {"a": [0.88]}), row("fails", {"a": [0.9]}, {"a": [0.0]})]
    base, fails = (line.values[SITE_A] for line in scored(rows, design("a", num_seeds=2), "dice").lines)
    assert base.is_best and not fails.is_level and not fails.is_beyond


def test_a_bound_is_never_the_best(row):
    rows = [row("base", {"a": [0.8]}), row("better", {"a": [0.85]}), row("pooled", {"a": [0.9]})]
    for bounds, best in (((), "pooled"), (("pooled",), "better")):
        table = scored(rows, design("a", bounds=bounds), "dice")
        found = [(line.row.name, line.values[SITE_A].is_level) for line in table.lines if line.values[SITE_A].is_best]
        assert found == [(best, True)] and lead(table).startswith(f"Best Dice at a: {best} with")
        said = " ".join(as_markdown("T", [table], []).split())
        assert ("(pooled aside)" in said) == bool(bounds)


def test_a_model_that_cannot_be_made_reads_not_applicable(tmp_path):
    """The runs were to make it and have none, as AdaBN of a network without BatchNorm; no word of missing scores."""
    named = {"adabn": {"_target_": "fedlit.prediction.AdaBN"}, "tent": {"_target_": "fedlit.prediction.TENT"}}
    path = finished_run(tmp_path / "x", {"a": BASE, "b": BASE, ("a", "tent"): BETTER}, prediction=named)
    runs = {(None, 0): read_result(path)}
    rows = [Row("base", runs), Row("AdaBN", runs, "adabn"), Row("TENT", runs, "tent"), Row("SAR", runs, "sar")]
    table = scored(rows, design("a", "b"), "dice")
    _, adabn, tent, sar = (line.values for line in table.lines)
    for column in (SITE_A, SITE_B, MEAN, WORST, GAP):
        assert adabn[column].absent == adabn[column].untested == "not applicable" and adabn[column].spread.mean is None
    assert tent[SITE_A].spread.mean == pytest.approx(0.66)
    assert tent[SITE_B].absent == tent[MEAN].absent == "not applicable"
    assert not sar[SITE_A].absent and all(
        remark.startswith("SAR: no dice of the sar model") for remark in table.remarks
    )
    assert as_text(table, with_costs=False).rows[1][1].text == "not applicable" and len(table.remarks) == 2


def test_seconds_are_a_cost_of_their_own(row):
    table = replace(scored([row("base", {"a": BASE})], design("a"), "dice"), costs=("MB", "seconds"))
    assert "| base | **0.625** | 5.0 | 3600 |" in as_markdown("T", [table], []).splitlines()
    assert "Seconds: of training." in reading(table)


def test_significance_is_marked_and_too_few_cases_are_not_tested(row):
    rows = [row("base", {"a": BASE, "b": BASE[:5]}), row("better", {"a": BETTER, "b": BETTER[:5]})]
    table = scored(rows, design("a", "b"), "dice")
    values = table.lines[1].values
    assert values[SITE_A].differs and values[SITE_B].untested == "too few" and values[WORST].untested == "no test"
    pooled = paired_p([one - base for one, base in zip(BETTER + BETTER[:5], BASE + BASE[:5], strict=True)])
    assert values[MEAN].p == pytest.approx(pooled)
    text = as_text(table, with_costs=False)
    assert text.rows[1][1].mark == "*" and not text.rows[1][2].mark
    assert [cell.text for cell in text.foot[0]] == ["patients", "6", "5 (too few)", "11", "", ""]


def test_a_patient_is_tested_once_however_many_pictures_there_are(row):
    """Two pictures of each of six: what is tested are six means; a picture that is excluded is of no patient."""
    first, second = [0.03 * place for place in range(1, 7)], [0.01, -0.02, 0.03, -0.04, 0.05, -0.06]
    base = [0.5] * 13
    better = [0.5 + value for both in zip(first, second, strict=True) for value in both]
    rows = [row("base", {"a": base}, patients=2), row("better", {"a": [*better, None]}, patients=2)]
    table = scored(rows, design("a"), "dice")
    wanted = paired_p([(one + other) / 2 for one, other in zip(first, second, strict=True)])
    assert table.lines[1].values[SITE_A].p == pytest.approx(wanted) == pytest.approx(2 / 2**6)
    assert [[cell.text for cell in line] for line in as_text(table, with_costs=False).foot] == [
        ["cases", "13"],
        ["patients", "7"],
    ]
    assert "over paired patients (7 patients, a patient is the mean over its cases and seeds)" in as_markdown(
        "T", [table], []
    )
    few = [row("base3", {"a": base}, patients=3), row("better3", {"a": [*better, None]}, patients=3)]
    assert scored(few, design("a", reference="base3"), "dice").lines[1].values[SITE_A].untested == "too few"


def test_runs_that_noted_no_patients_are_read_as_they_are_and_it_is_said(row):
    rows = [row("base", {"a": BASE}, patients=None), row("better", {"a": BETTER}, patients=None)]
    table = scored(rows, design("a"), "dice")
    assert table.lines[1].values[SITE_A].p == pytest.approx(2 / 2**6)
    assert len(table.remarks) == 1 and "every picture is tested as a patient of its own" in table.remarks[0]
    assert as_text(table, with_costs=False).foot[0][0].text == "cases"
    mixed = scored([rows[0], row("later", {"a": BETTER}, patients=2)], design("a"), "dice")
    assert not mixed.remarks and mixed.lines[1].values[SITE_A].untested == "too few", "later runs tell whose they are"


def test_cases_that_are_not_the_same_are_not_tested(row):
    rows = [row("base", {"a": BASE}), row("more", {"a": [*BASE, 0.9]})]
    assert scored(rows, design("a"), "dice").lines[1].values[SITE_A].untested == "other cases"


def test_excluded_cases_leave_their_pair_out(row):
    rows = [row("base", {"a": [*BASE, 0.5]}), row("better", {"a": [*BETTER, None]})]
    assert scored(rows, design("a"), "dice").lines[1].values[SITE_A].p == pytest.approx(2 / 2**6)
    turned = scored(rows[::-1], design("a", reference="better"), "dice")
    assert turned.num_cases[SITE_A] == 6, "of seven, those that count"
    empty = scored([row("empty", {"a": [None, None]})], design("a", reference="empty"), "dice")
    assert empty.remarks == ("empty: every case at a is excluded in empty0",)


def test_folds_give_each_column_its_own_run_and_members_the_mean_of_several(tmp_path):
    results = {}
    for fold, scores in {"a": {"a": [0.1], "b": [0.6], "c": [0.7]}, "b": {"a": [0.5], "b": [0.2], "c": [0.9]}}.items():
        path = finished_run(tmp_path / fold, scores, unseen_sites=[fold])
        results[fold, 0] = read_result(path)
    rows = [Row("base", results)]
    unseen = scored(rows, design("a", "b", folds=("a", "b"), scores="unseen"), "dice").lines[0].values
    assert (unseen[SITE_A].spread.mean, unseen[SITE_B].spread.mean) == (0.1, 0.2)
    members = scored(rows, design("a", "b", "c", folds=("a", "b")), "dice").lines[0].values
    assert [members["site", site].spread.mean for site in "abc"] == [0.5, 0.6, pytest.approx(0.8)]
    del results["b", 0]
    members = scored(rows, design("a", "b", "c", folds=("a", "b")), "dice").lines[0].values
    assert members["site", "c"].num_seeds == 0, "one of two folds is no mean over folds"


def test_costs_are_of_a_run_and_shared_models_count_where_they_are_needed(tmp_path):
    shared = {"for": ["routing"], "bytes_up": 10_000_000, "bytes_down": 0}
    path = finished_run(tmp_path / "x", {"a": [0.5]}, summary={"shared": shared, "start": {"seconds": 3600.0}})
    results = {(None, 0): read_result(path)}
    assert Cost.of(Row("x", results)) == Cost(1, 5.0, 2.0, 4.0, pytest.approx(2 / 3)), "2 MB up in 3 rounds of a member"
    assert Cost.of(Row("x", results, "routing")).megabytes == 15.0
    old = finished_run(tmp_path / "old", {"a": [0.5]}, summary={"peak_bytes": None})
    assert Cost.of(Row("x", {(None, 0): read_result(old)})).gigabytes is None


def test_the_model_is_the_one_the_run_was_judged_by_or_the_one_named(tmp_path):
    scores = {"a": [0.8], ("a", "global"): [0.5], ("u", "global"): [0.4]}
    path = finished_run(
        tmp_path / "x", scores, model="personal", unseen_sites=["u"], summary={"model_elsewhere": "global"}
    )
    result = read_result(path)
    assert result.scores("a", "dice", None) == {"case 0": 0.8} and result.scores("u", "dice", None) == {"case 0": 0.4}
    assert result.scores("a", "dice", "global") == {"case 0": 0.5} and not result.scores("u", "dice", "personal")


def test_text_forms_hold_the_same_numbers(row):
    rows = [row("base", {"a": BASE, "b": [0.5]}), row("50%|_x", {"a": BETTER, "b": [0.4]})]
    table = scored(rows, design("a", "b"), "dice")
    lines = list(csv.DictReader(io.StringIO(as_csv([table]))))
    assert [line["method"] for line in lines] == ["base", "50%|_x"]
    assert float(lines[1]["a"]) == pytest.approx(statistics.fmean(BETTER), abs=1e-15) and lines[1]["a n"] == "1"
    assert float(lines[1]["a p"]) == pytest.approx(2 / 2**6) and lines[1]["b p"] == "too few"
    assert (float(lines[0]["MB"]), float(lines[0]["hours"]), float(lines[0]["peak GB"])) == (5.0, 1.0, 4.0)
    markdown = as_markdown("T", [table], ["N."]).splitlines()
    assert (
        r"| 50%\|\_x | **0.660** \* | 0.400 | 0.530 | 0.400 | 0.260 | 5.0 | 1.0 | 4.0 |" in markdown
        and "N." in markdown
    )
    latex = as_latex("T", [table], ["N\nM."]).splitlines()
    row = r"50\%\textbar{}\_x & \textbf{0.660}$^{*}$ & 0.400 & 0.530 & 0.400 & 0.260 & 5.0 & 1.0 & 4.0 \\"
    assert row in latex and "% N M." in latex and lines[1]["gap"] == repr(0.66 - 0.4) and lines[1]["gap p"] == "no test"
    assert TextTable(["a"], [[Cell("[< 0.01]")]]).as_latex().splitlines()[4] == r"{[}\textless{} 0.01] \\"
    assert re.search(r"differs from base, p < 0.05 .* Holm", "\n".join(markdown))


def test_a_narrow_terminal_has_the_columns_that_matter(row):
    """First what it cost goes, then spreads, then the sites."""
    seeds = [{"a": [0.5], "b": [0.9]}, {"a": [0.6], "b": [0.8]}]
    table = scored([row("base", *seeds)], design("a", "b", num_seeds=2), "dice")
    heads = {}
    for width in (110, 90, 70, 30):
        console = Console(file=io.StringIO(), width=width)
        show(table, console, with_costs=True)
        heads[width] = console.file.getvalue().splitlines()
        assert all(len(line) <= width for line in heads[width])
    assert heads[110][0].split() == ["method", "a", "b", "mean", "worst", "gap", "MB", "hours", "peak", "GB"]
    assert heads[90][0].split() == heads[70][0].split() == ["method", "a", "b", "mean", "worst", "gap"]
    assert "±" in heads[90][1] and "±" not in heads[70][1]
    assert heads[30][0].split() == ["method", "mean", "worst", "gap"]
