"""A grid of runs: every point, checked before any is started, with a folder of its own."""

from __future__ import annotations

import pytest

from fedlit.config import load
from fedlit.errors import BadInput
from fedlit.sweep import folder, grid, split_top
from tests.conftest import fedlit, write_manifest


def test_values_are_split_at_commas_outside_of_brackets_and_quotes():
    assert split_top("0,1, 2") == ["0", "1", "2"]
    assert split_top("[a],[b, c]") == ["[a]", "[b, c]"]
    assert split_top("{d: [1, 2], e: 3},'x,y',\"]\",z") == ["{d: [1, 2], e: 3}", "'x,y'", '"]"', "z"]


def test_a_grid_is_the_product_and_each_point_says_what_it_is(config_file, tmp_path):
    found = grid(str(config_file), ("lr=0.1", "run_dir=all of/it"), ("seed=0,1", "unseen_sites=[a],[b, u]"))
    assert [run.run_dir for run in found.runs] == [
        "all of/it/seed=0,unseen_sites=a",
        "all of/it/seed=0,unseen_sites=b-u",
        "all of/it/seed=1,unseen_sites=a",
        "all of/it/seed=1,unseen_sites=b-u",
    ]
    for run in found.runs:  # the words alone make the run
        config = load(run.words[0], run.words[1:]).config
        assert config.run_dir == run.run_dir and config.lr == 0.1
    assert [list(load(run.words[0], run.words[1:]).config.unseen_sites) for run in found.runs][:2] == [
        ["a"],
        ["b", "u"],
    ]


def test_without_a_sweep_the_words_stay_as_they_are(config_file, tmp_path):
    (run,) = grid(str(config_file), ("lr=0.1",), ()).runs
    assert run.words == (str(config_file), "lr=0.1") and run.run_dir == str(tmp_path / "run")


def test_every_site_is_left_out_once_whatever_its_name(tmp_path):
    """Names that YAML reads as something else are quoted; the server's own site stays."""
    names = ("01", "yes", "St. Mary + co", "server", "b")
    write_manifest(tmp_path, dict.fromkeys(names, (2, 1, 1)))
    path = tmp_path / "x.yaml"
    path.write_text(
        f"include: [base]\ndata: manifest\ndata.root: {tmp_path}\ndata.labels: {{disc: 255}}\nnum_rounds: 1\n"
    )
    found = grid(str(path), ("server_site=server",), ("unseen_sites=all",))
    left_out = [load(run.words[0], run.words[1:]).config.unseen_sites for run in found.runs]
    assert sorted(name for (name,) in left_out) == sorted(set(names) - {"server"})
    assert len({run.run_dir for run in found.runs}) == 4


def test_every_problem_of_every_point_is_said_once(config_file):
    with pytest.raises(BadInput) as raised:
        grid(str(config_file), ("lrr=1",), ("batch_size=0,4,x", "seed=0,1"))
    message = str(raised.value)
    assert "3 problems" in message and message.count("did you mean lr?") == 1
    assert "with batch_size=0 seed=0 (and 1 more): batch_size" in message and "expected int, got 'x'" in message


@pytest.mark.parametrize(
    ("sweeps", "message"),
    [
        (["run_dir=a,b"], "--sweep run_dir: makes no other experiment"),
        (["devices=1,2"], "--sweep devices: makes no other experiment"),
        (["loggers.csv=null"], "--sweep loggers.csv: makes no other experiment"),
        (["seed=1,1"], "--sweep seed: 1 stands there twice"),
        (["seed=0,1", "seed=2"], "--sweep seed: is given twice"),
        (["lr=0.1,0.2"], "--sweep lr: is given twice"),
        (["learning-rate=0.1,0.2"], "--sweep lr: is given twice"),
        (["seed"], "--sweep 'seed': needs key=value,value"),
        (["seed=1,,2"], "--sweep 'seed=1,,2': needs key=value,value"),
        (["no_such_key=1"], "unknown key"),
        (["keep_local=[a b],[a*b]"], "would share a folder"),
    ],
)
def test_sweeps_that_make_no_grid_are_refused(config_file, sweeps, message):
    with pytest.raises(BadInput) as raised:
        grid(str(config_file), ("lr=0.3",), sweeps)
    assert message in str(raised.value)


def test_what_does_not_fit_together_is_refused_before_anything_is_submitted(config_file, capsys):
    """Key by key all is right; a rule that so few members cannot have is named with its point, once for all seeds."""
    rules = "{_target_: fedlit.aggregation.Krum, num_malicious: 3}"
    sweeps = ["--sweep", f"algorithm.aggregate=mean,{rules}", "--sweep", "seed=0,1"]
    assert fedlit("submit", config_file, "precision=16-mixed", *sweeps, "--dry-run") == 2, "the GPU is elsewhere"
    said = capsys.readouterr()
    assert "1 problem" in said.err and said.err.count("needs 9 updates a round") == 1
    assert f"with algorithm.aggregate={rules}: " in said.err and "#SBATCH" not in said.out


def test_a_long_folder_name_ends_with_a_hash_of_the_whole():
    """No disk takes more than 255 bytes; what differs only behind the cut has another folder."""
    assert folder(("seed=0", "unseen_sites=[north]")) == "seed=0,unseen_sites=north"
    words = [f"key_{number}=ähnlich" for number in range(40)]
    one, other = folder((*words, "seed=0")), folder((*words, "seed=1"))
    assert one != other and one.startswith("key_0=ähnlich,") and {len(one.encode()), len(other.encode())} <= {239, 240}
    assert folder((*words, "seed=0")) == one
