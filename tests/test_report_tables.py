"""The tables of the page: every site that the record has, every predictor, and nothing cut without a sign."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedlit.files import write_json
from fedlit.record import CaseRow, Record
from fedlit.report import write_report
from fedlit.report.plots import draw_boxes
from fedlit.report.reading import read_run
from fedlit.report.svg import WIDE
from fedlit.report.tables import predictor_table, site_table
from fedlit.summary import site_metrics
from tests.test_report import CHROMIUM, Page, chromium, make_run

RULE = (228, 229, 231)  # --rule of the light scheme


def add_site(run: Path, site: str, level: float, *, model: str) -> None:
    """What `fedlit evaluate` records of a hospital that the run has never met."""
    cases = [CaseRow(4, site, f"case {index}", model, "test", "lung", "dice", level) for index in range(5)]
    Record(run).add(site_metrics(cases, {site: "unseen"}), cases)


def test_a_site_that_was_scored_after_the_run_is_shown_as_the_others_are(tmp_path):
    run = make_run(tmp_path, ["hk", "mg", "oslo", "bern"], models=("global", "tent"))
    summary = (run / "summary.json").read_text()
    add_site(run, "perth", 0.3, model="global")
    add_site(run, "lima", 0.2, model="tent")
    page = Page(write_report(run))
    assert "the worst unseen site, perth, has 0.300" in page.text
    found = read_run(run)
    assert list(found.sites) == ["perth", "hk", "mg", "oslo", "bern", "lima"], "the worst first, blank ones last"
    assert found.summary["unseen_mean_dice"] == pytest.approx((0.3 + 0.845) / 2), "of those that global has scored"
    assert found.sites["perth"]["dice"]["num_cases"] == 5 and found.sites["lima"] == {"role": "unseen"}
    (place,) = draw_boxes(found, WIDE).axes
    assert place.get_yticklabels()[0].get_text() == "perth"
    assert [row["num_cases"] for row in site_table(found)["rows"]] == [5, 5, 5, 5, 5, "–"]
    rows = predictor_table(found)["rows"]
    assert rows["perth"] == [("0.300", True), ("–", False)] and rows["lima"] == [("–", False), ("0.200", True)]
    assert (run / "summary.json").read_text() == summary, "what the run said of itself stays"


def test_unseen_sites_of_members_that_only_have_models_of_their_own_are_shown_by_who_scored_most_of_them(tmp_path):
    run = make_run(tmp_path, ["hk"], models=("personal",))
    add_site(run, "perth", 0.3, model="ensemble")
    for site in ("perth", "lima"):
        add_site(run, site, 0.4, model="routing")
    page = Page(write_report(run))
    assert "model personal (routing at sites that never trained)" in page.text
    assert "the worst unseen site, lima, has 0.400" in page.text and "0.300" in page.text


def test_predictors_stand_as_they_were_recorded_and_are_summed_up_over_the_same_sites(tmp_path):
    run = make_run(tmp_path, ["hk", "mg", "bern"], models=("personal", "routing", "global"))
    add_site(run, "perth", 0.3, model="global")
    add_site(run, "perth", 0.5, model="adabn")
    found = predictor_table(read_run(run))
    assert found["models"] == ["personal", "routing", "global", "adabn"], "not by the alphabet"
    assert {name: [value for value, _ in cells] for name, cells in found["below"].items()} == {
        "members, worst": ["0.620", "0.620", "0.620", "–"],
        "members, mean": ["0.670", "0.670", "0.670", "–"],
        "unseen, mean": ["–", "–", "0.560", "–"],
    }


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; the page is not opened in a browser")
def test_a_table_that_scrolls_says_so_and_its_rules_go_through(tmp_path):
    from PIL import Image

    sites = ["icu", "valley", "children", "rural", "harbour", "north", "delta", "bern"]
    page = write_report(make_run(tmp_path / "run", sites, pictures=False))
    pictures = {}
    for width in (400, 1280):
        file = tmp_path / f"{width}.png"
        chromium(tmp_path, f"--window-size={width},3000", f"--screenshot={file}", page.as_uri())
        pictures[width] = np.asarray(Image.open(file).convert("RGB"))
    dark = {width: (pictures[width][:, edge].max(-1) < min(RULE)).sum() for width, edge in ((400, 374), (1280, 1138))}
    assert dark[400] > 300 > 100 > dark[1280], "a shade at the right edge of what goes on there"
    first, other = ((pictures[400][600:1400, column] == RULE).all(-1).nonzero()[0] for column in (30, 200))
    assert len(other) > len(sites) and set(other) <= set(first), "rules go on under the first column"


def test_what_is_a_members_own_in_its_model_is_told_in_whole_words(tmp_path):
    run = make_run(tmp_path, ["hk", "mg"])
    write_json(run / "summary.json", read_run(run).summary | {"own_share": {"hk": 0.25, "mg": 0.0}})
    assert "Own share in a member's personal modelhk 0.25, mg 0.00" in Page(write_report(run)).text
