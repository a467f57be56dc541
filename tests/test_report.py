"""The report is a pure function of the run directory, needs nothing else, and trusts no name in it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fedlit.errors import BadInput
from fedlit.files import write_json
from fedlit.gallery import save_picture
from fedlit.record import CaseRow, MetricRow, Record
from fedlit.report import write_report
from fedlit.report.pictures import outline
from fedlit.report.plots import draw_boxes, draw_curves
from fedlit.report.reading import read_run
from fedlit.report.svg import NARROW, WIDE
from fedlit.summary import site_metrics, summarise

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)> --> {{ 7 * 7 }}', "$x^2$ 香港 \\frac"]


def make_run(path: Path, sites, *, models=("global",), num_rounds=4, pictures=True, summary=True) -> Path:
    """A run directory as a run leaves it: the last site is unseen, sites get better in the order given."""
    generator, table = np.random.default_rng(0), Record(path)
    roles = {site: "unseen" if len(sites) > 1 and site == sites[-1] else "member" for site in sites}
    level = {site: 0.6 + 0.3 * index / len(sites) for index, site in enumerate(sites)}
    for round in range(1, num_rounds + 1):
        rows = [MetricRow(round, site, roles[site], "local", "train", "loss", 1 / round, 9) for site in sites]
        rows += [
            MetricRow(round, site, roles[site], model, "val", "dice", level[site] - 0.3 / round, 3)
            for site in sites
            for model in models
            if roles[site] == "member"
        ]
        table.add(rows)
    cases = [
        CaseRow(num_rounds, site, f"case {index}", model, "test", "lung", metric, value)
        for site in sites
        for model in models
        for index in range(5)
        for metric, value in (("dice", level[site] + 0.01 * index), ("hd95_mm", None if index == 0 else 12.345))
    ]
    if not summary:
        return path
    table.add(site_metrics(cases, roles), cases)
    found = summarise(cases, table.metrics(), round=num_rounds, model=models[0])
    found |= {"kept_round": num_rounds, "num_rounds": num_rounds, "seconds_per_round": 38.2, "bytes_up": 14_700_000,
              "bytes_down": 29_400_000, "weights_sha256": "9f2c", "kept_by": "worst validation Dice",
              "warnings": ["hk has 3 cases"], "dropped": ["round 2: mg: loss is NaN"]}  # fmt: skip
    write_json(path / "summary.json", found)
    write_json(path / "provenance.json", {"command": "fedlit run c.yaml", "versions": {"torch": "2.4"}})
    (path / "config.yaml").write_text("name: lungs\nlr: 0.001\nloggers: {w: {api_key: SECRET}}\nunseen_sites: [a, b]\n")
    target = np.zeros((1, 40, 60), dtype=bool)
    target[:, 10:30, 20:40] = True
    for site in sites if pictures else ():
        for rank in ("best", "median", "worst"):
            save_picture(path, site=site, case=f"case of {rank}", rank=rank, model=models[0], dice=0.5,
                         image=generator.integers(0, 256, (40, 60), dtype=np.uint8), target=target,
                         prediction=np.roll(target, 5, 1))  # fmt: skip
    return path


class Page(HTMLParser):
    """The tags, ids, references and visible text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_says_what_the_run_found_worst_site_first(tmp_path):
    page = Page(write_report(make_run(tmp_path, ["hk", "mg", "oslo", "bern"])))
    assert "The worst site is hk with a Dice of 0.620, 0.150 below the best" in page.text
    assert "the worst unseen site, bern, has 0.845" in page.text
    table = page.source[page.source.index("<tbody>") :]
    assert [table.index(f'title="{site}"') for site in ("hk", "mg", "oslo", "bern")] == sorted(
        table.index(f'title="{site}"') for site in ("hk", "mg", "oslo", "bern")
    )
    for fact in ("HD95 (mm)", "12.35", "38 s", "14.7 MB", "29.4 MB", "9f2c", "unseen_sites", "a, b", "versions.torch",
                 "Dropped client: round 2: mg: loss is NaN", "Warning: hk has 3 cases", "kept: round 4"):  # fmt: skip
        assert fact in page.text, fact
    assert page.tags.count("figure") == 12
    assert re.findall(r"<figcaption>(\w+)", page.source)[:3] == ["Worst", "Median", "Best"]


def test_the_page_is_a_pure_function_of_the_run_and_needs_nothing_else(tmp_path):
    run = make_run(tmp_path / "run", ["hk", "mg"])
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first, "the same run, the same page"
    page = Page(run / "report.html")
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert not re.search(r"https?:|@import|url\((?!#)", page.source)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert len(set(page.ids)) == len(page.ids), "two drawings on a page share no id"
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "SECRET" not in page.source and "loggers.w.api_key" in page.text
    assert not list(run.glob(".*.tmp"))


def test_names_are_text_wherever_they_stand(tmp_path):
    page = Page(write_report(make_run(tmp_path, NASTY, models=(NASTY[0], "global"))))
    assert "script" not in page.tags and "img" not in page.tags
    assert not any(name.startswith("on") for name in page.attributes)
    for name in NASTY:
        assert " ".join(name.split()) in page.text
    many = make_run(tmp_path / "many", ["hk", "mg"], pictures=False)
    write_json(many / "summary.json", read_run(many).summary | {"warnings": [f"<b>{index}" for index in range(20)]})
    page = Page(write_report(many))
    assert "13 more" in page.text and "Warning: <b>19" in page.text
    assert "\x1b" not in Page(write_report(make_run(tmp_path / "escape", ["a\x1b[2J", "b"]))).source


def test_any_part_may_be_missing(tmp_path):
    whole = make_run(tmp_path / "whole", ["hk", "mg", "oslo"])
    for name in ("config.yaml", "metrics.csv", "cases.csv", "summary.json", "provenance.json", "pictures"):
        run = shutil.copytree(whole, tmp_path / name)
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
        assert "What was run" in Page(write_report(run)).text
    assert "figure" not in Page(tmp_path / "pictures" / "report.html").tags
    (tmp_path / "empty").mkdir()
    assert "No site has been scored yet" in Page(write_report(tmp_path / "empty")).text


def test_an_unfinished_run_shows_its_newest_validation_scores(tmp_path):
    page = Page(write_report(make_run(tmp_path, ["hk", "mg", "oslo"], summary=False)))
    assert "The run is not finished: these are the val scores of round 4." in page.text
    assert "The worst site is hk with a Dice of 0.525" in page.text
    assert read_run(tmp_path).sites["hk"]["dice"]["num_cases"] == 3


def test_damage_is_named(tmp_path):
    run = make_run(tmp_path, ["hk", "mg"])
    broken = sorted((run / "pictures").iterdir())
    broken[0].write_bytes(b"PK\x03\x04 torn")
    broken[1].write_bytes(broken[2].read_bytes()[:-50])
    page = Page(write_report(run))
    assert all(f"{path.name} cannot be read and is left out" in page.text for path in broken[:2])
    assert page.tags.count("figure") == 4
    for name, content in (
        ("summary.json", "{"),
        ("config.yaml", "a: [1"),
        ("config.yaml", "!!python/name:os.system ''"),
    ):
        damaged = shutil.copytree(run, tmp_path / f"{name}{len(content)}", ignore=lambda *_: ["report.html"])
        (damaged / name).write_text(content)
        with pytest.raises(BadInput, match=name):
            write_report(damaged)
        assert not (damaged / "report.html").exists()


def test_predictors_are_compared_when_there_are_several(tmp_path):
    run = make_run(tmp_path, ["hk", "mg", "oslo"], models=("global", "personal"))
    Record(run).add([MetricRow(4, "mg", "member", "tent", "test", "dice", 0.99, 5)])
    page = Page(write_report(run))
    section = page.text[page.text.index("Predictors Dice") :]
    assert "Siteglobalpersonaltent" in section and "0.7200.7200.990" in section.replace(" ", "")
    assert "Predictors Dice" not in Page(write_report(make_run(tmp_path / "one", ["hk", "mg"]))).text


def test_sixty_four_sites_stay_readable_and_small(tmp_path):
    sites = [f"hospital {index}" for index in range(64)]
    run = make_run(tmp_path, sites, pictures=False)
    assert write_report(run).stat().st_size < 3e6
    found = read_run(run)
    for width in (WIDE, NARROW):
        (place,) = draw_curves(found, width).axes
        assert len({line.get_color() for line in place.get_lines()[:63]}) == 3, "grey, the worst and the best"
        assert {text.get_text() for text in place.texts} == {"kept: round 4", "hospital 0", "hospital 62"}
        (place,) = draw_boxes(found, width).axes
        assert [label.get_text() for label in place.get_yticklabels()] == sites, "the worst on top"
        low, high = place.get_ylim()
        assert low > high


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_names_stand_where_their_curves_end_in_every_panel(tmp_path, width):
    """Panels share an axis, which a later one may make higher."""
    run = make_run(tmp_path, ["a", "b", "c"], num_rounds=3)
    values = {"global": {"a": 0.9, "b": 0.8, "c": 0.7}, "personal": {"a": 0.5, "b": 0.3, "c": 0.1}}
    rows = [
        MetricRow(4, site, "member", model, "val", "dice", value, 3)
        for model, sites in values.items()
        for site, value in sites.items()
    ]
    Record(run).add(rows)
    figure = draw_curves(read_run(run), width)
    figure.draw_without_rendering()
    for place, ends in zip(figure.axes, values.values(), strict=True):
        low, high = place.get_ylim()
        named = {text.get_text(): text.xy[1] for text in place.texts if text.get_text() in ends}
        assert len(named) > 1
        for site, height in named.items():
            assert height == pytest.approx((ends[site] - low) / (high - low), abs=1e-6)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_direct_labels_do_not_meet_and_stay_inside(tmp_path, width):
    sites = ["a", "b", "c", "a name that is far too long for its place", "e", "f", "g"]
    run = make_run(tmp_path, sites, num_rounds=3)
    table = Record(run)
    table.add([MetricRow(4, site, "member", "global", "val", "dice", 0.9, 3) for site in sites[:-1]])
    figure = draw_curves(read_run(run), width)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if not text.get_text().startswith("kept")]
    assert len(boxes) == 6
    for box in boxes:
        assert box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1
    boxes.sort(key=lambda box: box.y0)
    steps = [upper.y0 - lower.y0 for lower, upper in pairwise(boxes)]
    assert min(steps) > 0.9 * 16 / 72 * figure.dpi


def test_an_outline_encloses_its_mask():
    plane = np.zeros((30, 50), dtype=bool)
    plane[0:12, 5:25] = True  # touches the border
    plane[20:24, 40:50] = True
    path = outline(plane, (50, 30))
    area = 0.0
    for loop in path.split("Z")[:-1]:
        x, y = np.array(loop[1:].split(), dtype=float).reshape(-1, 2).T
        assert x.min() >= 0 and y.min() >= 0 and x.max() <= 50 and y.max() <= 30
        area += abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert path.count("M") == 2
    assert area == pytest.approx(plane.sum(), abs=2), "but for the cut corners"
    assert outline(np.zeros((5, 5), dtype=bool), (5, 5)) == ""


def chromium(tmp_path: Path, *arguments: str) -> bytes:
    """What a browser without a window prints."""
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")
    return subprocess.run([CHROMIUM, *flags, profile, *arguments], capture_output=True, check=True, timeout=600).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; the page is not opened in a browser")
def test_a_browser_shows_it_at_desktop_and_phone_width(tmp_path):
    page = write_report(make_run(tmp_path / "run", ["hk", "mg", *NASTY[:2]]))
    wrapper = tmp_path / "phone.html"  # a window of Chromium cannot be as narrow as a phone, a frame can
    wrapper.write_text(f'<body style="margin:0"><iframe src="{page.as_uri()}" width=390 height=2900 style="border:0">')
    dom = chromium(tmp_path, "--dump-dom", page.as_uri()).decode()
    assert "<h1>lungs</h1>" in dom and "&lt;script&gt;alert(1)&lt;/script&gt;" in dom and "</html>" in dom
    assert not re.search(r"<script|<img", dom)
    from PIL import Image

    for target, width in ((page, 1280), (wrapper, 500)):
        picture = tmp_path / f"{width}.png"
        chromium(tmp_path, f"--window-size={width},3000", f"--screenshot={picture}", target.as_uri())
        colours = Image.open(picture).convert("RGB").getcolors(maxcolors=256**3)
        assert len(colours) > 100, "it is not blank"


def test_a_start_is_named_and_its_absence_is_not(tmp_path):
    folder = make_run(tmp_path, ["hk", "mg"])
    assert "begun" not in write_report(folder).read_text()
    for start, words in (
        ({"kind": "Distillation", "pictures": 173}, "begun at the server by Distillation on 173 pictures</p>"),
        ({"kind": "TeacherWeights"}, "begun at the server by TeacherWeights</p>"),
    ):
        write_json(folder / "summary.json", read_run(folder).summary | {"start": start})
        assert words in write_report(folder).read_text()
