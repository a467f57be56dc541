"""Any finished runs side by side: names, refusals, tests, and what joining brings a hospital."""

from __future__ import annotations

import re

import pytest

from fedlit.errors import BadInput
from fedlit.report.svg import NARROW, WIDE
from fedlit.seeding import address
from fedlit.studies.comparing import compare, named
from fedlit.studies.comparison_page import notes, write_comparison
from fedlit.studies.drawing import draw_curves
from fedlit.studies.joining import Estimate, hospitals, sentence
from fedlit.summary import bootstrap_interval
from tests.conftest import fedlit
from tests.finished_runs import finished_run
from tests.test_report import NASTY, Page

LOCAL = {"_target_": "fedlit.algorithms.Local"}
POOLED = {"_target_": "fedlit.algorithms.Centralized"}
IOPFL = {"_target_": "fedlit.algorithms.IOPFL", "alpha": 0.1}
ALONE = [0.50, 0.60, 0.70, 0.55, 0.65, 0.75, 0.45]
TOGETHER = [value + 0.10 + 0.01 * place for place, value in enumerate(ALONE)]
MIXED = [value + sign * 0.1 for value, sign in zip(ALONE, (1, -1, 1, -1, 1, -1, 1), strict=True)]


@pytest.fixture
def runs(tmp_path):
    """FedAvg with two seeds, IOP-FL with two models, local only and centralised."""
    few = ALONE[:5]
    mine = {("a", "personal"): TOGETHER, ("a", "global"): MIXED, ("b", "personal"): few, ("b", "global"): few}
    return [
        finished_run(tmp_path / "fedavg0", {"a": TOGETHER, "b": few}),
        finished_run(tmp_path / "fedavg1", {"a": TOGETHER, "b": few}, seed=1),
        finished_run(tmp_path / "local", {"a": ALONE, "b": few}, model="personal", algorithm=LOCAL),
        finished_run(tmp_path / "pooled", {"a": TOGETHER, "b": few}, algorithm=POOLED),
        finished_run(tmp_path / "iopfl", mine, model="personal", algorithm=IOPFL),
    ]


def test_rows_are_named_by_what_differs_and_seeds_make_one(runs):
    found = compare(runs, "dice")
    assert [row.name for row in found.rows] == ["FedAvg", "Local", "Centralized", "IOPFL, personal", "IOPFL, global"]
    assert [len(row.results) for row in found.rows] == [2, 1, 1, 1, 1]
    (table,) = found.tables
    assert table.design.reference == "FedAvg" and found.members == ("a", "b")
    assert table.lines[1].values["site", "a"].p == pytest.approx(4 * 2 / 2**7), "the smallest of four"
    assert table.lines[1].values["site", "b"].untested == "too few"
    assert table.lines[2].values["site", "a"].is_best, "a row of one seed is as whole as it was meant to be"


def test_rows_of_other_seeds_are_not_paired_by_their_place(tmp_path):
    """0.01 above with each of three seeds is beyond the reference; with three other seeds it is within deviations."""

    def row(name, seeds, algorithm, above):
        return [
            finished_run(
                tmp_path / f"{name}{seed}",
                {"a": [value + above + 0.1 * place for value in ALONE]},
                seed=seed,
                algorithm={"_target_": f"fedlit.algorithms.{algorithm}"},
            )
            for place, seed in enumerate(seeds)
        ]

    same, others = row("same", (0, 1, 2), "FedProx", 0.01), row("others", (7, 8, 9), "FedDyn", 0.01)
    (table,) = compare([*row("first", (0, 1, 2), "FedAvg", 0.0), *same, *others], "dice").tables
    found = {line.row.name: line.values["site", "a"] for line in table.lines}
    assert found["FedProx"].differs and found["FedProx"].p == found["FedDyn"].p < 0.05
    assert not found["FedDyn"].is_beyond and not found["FedDyn"].differs


def test_classes_of_one_name_are_called_by_where_they_are_from():
    configs = [{"algorithm._target_": f"{place}.FedAvg"} for place in ("fedlit.algorithms", "mine")]
    assert named(configs) == ["fedlit.algorithms.FedAvg", "mine.FedAvg"]


@pytest.mark.parametrize(
    ("models", "reference"), [(("tent", "global", "adabn"), "global"), (("tent", "adabn"), "tent")]
)
def test_at_other_sites_the_first_runs_global_model_is_the_reference_else_its_first(tmp_path, models, reference):
    scores = {("a", "personal"): ALONE, **{("u", model): ALONE for model in models}}
    runs = [
        finished_run(tmp_path / name, scores, model="personal", unseen_sites=["u"], algorithm=algorithm)
        for name, algorithm in (("iopfl", IOPFL), ("local", LOCAL))
    ]
    members, others = compare(runs, "dice").tables
    assert members.design.reference == "IOPFL, personal" and others.design.reference == f"IOPFL, {reference}"


def test_arguments_of_other_components_name_nothing_unless_they_must():
    prox = {"algorithm._target_": "fedlit.algorithms.FedProx", "algorithm.mu": 0.1, "lr": 0.1}
    avg = {"algorithm._target_": "fedlit.algorithms.FedAvg", "lr": 0.1}
    assert named([avg, prox]) == ["FedAvg", "FedProx"]
    assert named([avg, prox, {**prox, "algorithm.mu": 1.0}]) == [
        "FedAvg, mu not set",
        "FedProx, mu 0.1",
        "FedProx, mu 1.0",
    ]
    assert named([{**avg, "lr": 0.2}, avg]) == ["lr 0.2", "lr 0.1"] and named([avg]) == ["FedAvg"]


def test_a_case_is_its_mean_over_all_runs_of_its_row_however_many(tmp_path):
    """Each row has seeds of its own; what is tested are the differences of the means that the table shows."""
    lower = [value - 0.3 for value in ALONE]
    avg = [finished_run(tmp_path / f"avg{seed}", {"a": ALONE}, seed=seed) for seed in (0, 1)]
    avg.append(finished_run(tmp_path / "avg2", {"a": [value + 0.9 for value in ALONE]}, seed=2))
    other = [finished_run(tmp_path / f"pooled{seed}", {"a": lower}, seed=seed, algorithm=POOLED) for seed in (7, 8)]
    (table,) = compare([*avg, *other], "dice").tables
    assert table.lines[1].values["site", "a"].p == pytest.approx(2 / 2**7)
    more = [finished_run(tmp_path / f"local{seed}", {"a": MIXED}, seed=seed, algorithm=LOCAL) for seed in (0, 1)]
    more.append(finished_run(tmp_path / "local2", {"a": [value - 3 for value in ALONE]}, seed=2, algorithm=LOCAL))
    (table,) = compare([*other, *more], "dice").tables
    assert table.lines[1].values["site", "a"].p == pytest.approx(2 / 2**7), "the third run decides, and is counted"


def test_repeats_of_one_config_and_seed_stand_alone(tmp_path):
    paths = [finished_run(tmp_path / name, {"a": ALONE}) for name in ("one", "two")]
    assert [row.name for row in compare(paths, "dice").rows] == [str(path) for path in paths]


def test_runs_on_other_test_cases_are_refused_with_the_reason(tmp_path, runs):
    split = {"root": "d", "resplit_seed": 3}
    more = finished_run(tmp_path / "more", {"a": [*ALONE, 0.5], "b": ALONE[:5]}, data=split)
    with pytest.raises(
        BadInput, match=r"data\.resplit_seed.* differ\): at a there are 8 and 7, of which 7 are in both"
    ):
        compare([runs[0], more], "dice")


def test_runs_on_other_data_are_refused(tmp_path, runs):
    other = finished_run(tmp_path / "other", {"a": ALONE, "b": ALONE[:5]})
    (other / "provenance.json").write_text('{"manifest": "bbbb"}')
    with pytest.raises(BadInput, match="was made from other data than"):
        compare([runs[0], other], "dice")
    apart = finished_run(tmp_path / "apart", {"z": ALONE})
    with pytest.raises(BadInput, match="no site in common"):
        compare([runs[0], apart], "dice")


def test_what_is_no_finished_run_is_named_all_at_once(tmp_path, runs, capsys):
    (runs[1] / "summary.json").unlink()
    (tmp_path / "empty").mkdir()
    assert fedlit("compare", runs[0], runs[1], tmp_path / "empty", tmp_path / "none") == 2
    error = capsys.readouterr().err
    assert f"{runs[1]}: not finished (round 0 of 3)" in error
    assert f"{tmp_path / 'empty'}: no run: it has no config.yaml" in error and f"{tmp_path / 'none'}: no run" in error
    assert fedlit("compare", runs[0], "--metric", "hd95") == 2
    assert "was not scored by it; it has dice" in capsys.readouterr().err
    assert fedlit("compare", runs[0], "--out", tmp_path / "no" / "page.html") == 2


def test_a_hospital_is_told_what_joining_brings_it(runs):
    first, second = hospitals(compare(runs, "dice"), "dice")
    assert [(choice.kind, choice.name) for choice in first.choices] == [
        ("local only", "Local"),
        ("global", "FedAvg"),
        ("global", "IOPFL"),
        ("personal", "IOPFL"),
        ("centralised", "Centralized"),
    ]
    gains = [choice.gain for choice in first.choices]
    assert gains[0] is None and gains[1].mean == pytest.approx(0.13) and gains[2].mean == pytest.approx(0.1 / 7)
    differences = sorted(round(one - alone, 12) for one, alone in zip(TOGETHER, ALONE, strict=True))
    assert differences[0] < gains[1].low < gains[1].mean < gains[1].high < differences[-1]
    assert len(first.sentences) == 3
    assert re.fullmatch(
        r"With the global model of FedAvg joining improves the Dice of a by 0\.130 "
        r"\(95 % interval \+0\.\d{3} to \+0\.\d{3}, 7 patients\)\.",
        first.sentences[0],
    )
    assert first.sentences[1].startswith(
        "Whether joining helps a with the global model of IOPFL cannot be told from 7 patients: +0.014 (95 % inter"
    )
    assert second.sentences[0] == (
        "Whether joining helps b with the global model of FedAvg cannot be told from 5 patients: +0.000."
    )


def test_the_interval_is_the_reports_bootstrap_and_a_loss_is_called_one():
    values = [0.1, 0.2, 0.4]
    assert (Estimate.of(values, "a").low, Estimate.of(values, "a").high) == bootstrap_interval(
        values, seed=address("bootstrap", "a")
    )
    assert sentence("a", "the global model", Estimate(-0.1, -0.2, -0.05, 9, "cases"), "dice") == (
        "With the global model joining worsens the Dice of a by 0.100 (95 % interval -0.200 to -0.050, 9 cases)."
    )


def test_without_a_local_run_nothing_is_claimed(runs):
    comparison = compare([runs[0], runs[4]], "dice")
    found = hospitals(comparison, "dice")
    assert found and not any(hospital.sentences for hospital in found)
    assert any("no run is local only" in note for note in notes(comparison, found))


def test_the_page_is_whole_and_the_same_twice_and_the_terminal_says_it_too(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    assert fedlit("compare", *runs) == 0
    said = capsys.readouterr().out
    assert "With the global model of FedAvg joining improves the Dice of a by 0.130" in said
    assert "Local against FedAvg: a -0.130 (p 0.0" in said and "b +0.000 (too few)" in said
    first = (tmp_path / "compare.html").read_bytes()
    write_comparison(tmp_path / "again.html", compare(runs, "dice"))
    assert (tmp_path / "again.html").read_bytes() == first
    page = Page(tmp_path / "compare.html")
    assert not re.search(r"https?:|@import|url\((?!#)", page.source) and not {"script", "img", "link"} & set(page.tags)
    assert len(set(page.ids)) == len(page.ids)
    for text in ("Should this hospital join?", "Over the rounds", "worst member", "2 seeds", "p 0.0"):
        assert text in page.text, text
    heads = re.findall(r">([^<]*)</th>", " ".join(re.findall("<thead>.*?</thead>", page.source)))
    assert heads == ["Method", "a", "b", "mean", "worst", "gap", "MB", "hours", "peak GB", "Method", "a", "b", "mean"]


def test_names_are_text_wherever_they_stand(tmp_path):
    cases = {NASTY[0]: ALONE, NASTY[1]: ALONE}
    paths = [finished_run(tmp_path / str(seed), cases, lr=text) for seed, text in enumerate(NASTY)]
    write_comparison(tmp_path / "page.html", compare(paths, "dice"))
    page = Page(tmp_path / "page.html")
    assert (
        "script" not in page.tags
        and "img" not in page.tags
        and not any(name.startswith("on") for name in page.attributes)
    )
    assert all(" ".join(name.split()) in page.text for name in NASTY[:2])


def test_what_is_not_there_is_said_once_and_arguments_only_where_they_tell_runs_apart():
    none = {"algorithm._target_": "fedlit.algorithms.FedAvg", "start": None, "lr": 0.1}
    prior = {
        "algorithm._target_": "fedlit.algorithms.FedAvg",
        "start._target_": "fedlit.starts.Distillation",
        "start.teacher.prompts._target_": "fedlit.teachers.PriorBoxes",
        "start.temperature": 1.0,
        "lr": 0.1,
    }
    own = {**prior, "start.teacher.prompts._target_": "fedlit.teachers.MaskBoxes"}
    assert named([none, prior]) == ["no start", "Distillation"]
    assert named([none, prior, own]) == ["no start", "Distillation, PriorBoxes", "Distillation, MaskBoxes"]
    assert named([none, {**none, "lr": 0.2}]) == ["lr 0.1", "lr 0.2"] and named([none]) == ["FedAvg"]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_names_stand_where_their_lines_end_in_every_panel(width):
    """Panels share an axis, which a later one may make higher."""
    panels = {
        "mean": {"one": [(1, 0.8), (2, 0.9)], "two": [(1, 0.8), (2, 0.7)]},
        "worst": {"one": [(1, 0.2), (2, 0.3)], "two": [(1, 0.2), (2, 0.1)]},
    }
    figure = draw_curves(panels, ["one", "two"], width)
    figure.draw_without_rendering()
    for place, lines in zip(figure.axes, panels.values(), strict=True):
        low, high = place.get_ylim()
        heights = sorted(text.xy[1] for text in place.texts)
        wanted = sorted((points[-1][1] - low) / (high - low) for points in lines.values())
        assert heights == pytest.approx(wanted, abs=1e-6)
