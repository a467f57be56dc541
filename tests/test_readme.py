"""What the README says can be typed, and does what it says."""

from __future__ import annotations

import inspect
import re
import shlex
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from fedlit.federation import Federation
from fedlit.weights import sha256
from tests.conftest import discs, fedlit, make_federation, run_rounds, script, write_manifest

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(code: str, names: dict) -> None:
    exec(compile(code, "README.md", "exec", dont_inherit=True), names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The README's folder `hospitals` and its experiment, small."""
    root = tmp_path_factory.mktemp("readme")
    data = root / "hospitals"
    (data / "images").mkdir(parents=True)
    write_manifest(data, {"north": (4, 1, 1), "east": (3, 1, 2), "south": (2, 1, 2)})
    Image.fromarray(discs(1, seed=5)[0][0, :, :, 0]).save(data / "images" / "new.png")
    (root / "hospitals.yaml").write_text(blocks("yaml")[0])
    return root


def test_the_commands_run_in_order(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("fedlit ")]
    lines = [line for line in lines if "devices=" not in line and "data.root=FOLDER" not in line]
    assert len(lines) == 24
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        if words[0] in ("run", "check", "warm-start"):
            is_phantom = words[1].startswith("phantom")
            small = (
                ["data.size=32", "data.scale=0.05"] if is_phantom else ["network.base_channels=4", "data.image_size=32"]
            )
            words += ["num_rounds=1", *small, "accelerator=cpu"]
        if any(word.startswith("start=") for word in words):  # of noise nobody is sure
            words += ["start.least_confidence=0", "start.num_rounds=1"]
        if words[0] == "submit":  # there may be a cluster here
            words += ["--dry-run"]
        assert fedlit(*words) == 0, line
    assert "already complete" in capsys.readouterr().out
    assert (folder / "masks" / "new.png").is_file() and (folder / "runs" / "local" / "report.html").is_file()


def test_the_study_is_one(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    Path("my_study.yaml").write_text(next(block for block in blocks("yaml") if "my_study" in block))
    assert fedlit("reproduce", "my_study.yaml", "--data", "hospitals", "--seeds", "1", "--dry-run") == 0
    assert "9 runs: 9 to begin" in capsys.readouterr().out  # three methods, three sites left out


def test_the_ten_lines_load_an_exported_model(folder, monkeypatch):
    monkeypatch.chdir(folder)
    code = next(block for block in blocks("python") if "load_file" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    names: dict = {"Path": Path}
    run(code.replace('json.load(open("model/model.json"))', 'json.loads(Path("model/model.json").read_text())'), names)
    assert names["mask"].shape == (1, 1, 128, 128)


def test_the_added_algorithm_is_fedavg_at_zero_and_pulls_above(sites):
    names: dict = {"__name__": "fedprox"}
    run(next(block for block in blocks("python") if "class FedProx" in block), names)
    plain = run_rounds(*make_federation(sites), 2).weights
    assert sha256(run_rounds(*make_federation(sites), 2, names["FedProx"](mu=0.0)).weights) == sha256(plain)
    federation, first = make_federation(sites)
    pulled = run_rounds(federation, first, 1, names["FedProx"](mu=100.0)).weights
    free = run_rounds(*make_federation(sites), 1).weights

    def distance(weights):
        return sum(float((weights[name] - first.weights[name]).square().sum()) for name in weights)

    assert distance(pulled) < 0.5 * distance(free)


def test_the_loop_shown_is_the_loop():
    shown = next(block for block in blocks("python") if "def run(self" in block)
    source = textwrap.dedent(inspect.getsource(Federation.run))
    signature = re.compile(r"def run\(.*?\)(?: -> [^:]+)?:", flags=re.DOTALL)
    assert signature.sub("", source).strip() == signature.sub("", shown).strip()


def test_what_it_links_to_is_there():
    root = Path(__file__).parents[1]
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / link).is_file(), link
    for file in re.findall(r"bash (launch/[\w.]+)", README):
        assert (root / file).is_file(), file


def test_its_result_tables_are_those_that_are_recorded():
    tables = script("readme_tables")
    assert tables.filled(README) == README, "python launch/readme_tables.py puts them there"


def test_a_table_is_the_columns_that_are_asked_for(tmp_path):
    tables = script("readme_tables")
    head, rule = "| method | site\\_a | mean | MB |\n", "| :-- | --: | --: | --: |\n"
    rows = "| FedAvg | 0.8 | **0.9** \\* | 7 |\n| local only |  |  |  |\n"
    (tmp_path / "shelf.md").write_text(f"# T\n\n## Dice\n\n{head}{rule}{rows}\n## HD95 (px)\n\n{head}{rule}")
    asked = "before\n<!-- table shelf, Dice: A=site_a, mean -->\nold\n<!-- end -->\nafter"
    filled = tables.filled(asked, tmp_path)
    assert filled.splitlines() == [
        "before",
        "<!-- table shelf, Dice: A=site_a, mean -->",
        "| | A | mean |",
        "| --- | --- | --- |",
        "| FedAvg | 0.8 | **0.9** \\* |",
        "| local only |  |  |",
        "<!-- end -->",
        "after",
    ]
    assert tables.filled(filled, tmp_path) == filled
    with pytest.raises(ValueError, match="'seconds' is not in list"):
        tables.filled(asked.replace("mean", "seconds"), tmp_path)
