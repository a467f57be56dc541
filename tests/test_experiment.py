"""A run from its config to its directory: it resumes to the same bits, and says what it did."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from fedlit.client import Client
from fedlit.federation import Federation
from tests.conftest import fedlit, write_config, write_manifest


def summary(run_dir) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


def rows(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, disc_data):
    """Four rounds without interruption."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert fedlit("run", write_config(folder, disc_data)) == 0
    return folder / "run"


@pytest.fixture
def whole(undisturbed, tmp_path):
    """These four rounds, for the test to do with what it likes."""
    return shutil.copytree(undisturbed, tmp_path / "whole")


def test_a_run_leaves_what_it_promises(whole):
    assert {
        "config.yaml",
        "metrics.csv",
        "cases.csv",
        "patients.csv",
        "summary.json",
        "provenance.json",
        "report.html",
        "log.txt",
        "checkpoint",
        "logs",
        "pictures",
    } <= {path.name for path in whole.iterdir()}
    found = summary(whole)
    assert {
        "worst_site",
        "worst_dice",
        "gap",
        "mean_dice",
        "kept_round",
        "num_rounds",
        "seconds_per_round",
        "bytes_up",
        "bytes_down",
        "weights_sha256",
    } <= found.keys()
    table = rows(whole / "metrics.csv")
    assert list(table[0]) == ["round", "site", "role", "model", "split", "metric", "value", "num_cases"]
    assert {row["site"] for row in table} == {"a", "b", "c", "u"} and {
        row["role"] for row in table if row["site"] == "u"
    } == {"unseen"}
    tested = {row["round"] for row in table if row["split"] == "test"}
    assert tested == {str(found["kept_round"]), "4"}  # once each, the kept and the last
    dice = [
        row
        for row in table
        if (row["split"], row["metric"], row["round"]) == ("test", "dice", str(found["kept_round"]))
    ]
    assert [row["num_cases"] for row in sorted(dice, key=lambda row: row["site"])] == ["2", "2", "3", "5"]
    assert found["worst_dice"] == min(float(row["value"]) for row in dice if row["role"] == "member")
    cases = rows(whole / "cases.csv")
    assert list(cases[0]) == ["round", "site", "case", "model", "split", "class", "metric", "value"]
    assert {row["metric"] for row in cases if row["split"] == "test"} == {"dice", "iou", "hd95_px", "assd_px", "nsd_px"}
    validated = {int(row["round"]): [] for row in table if row["split"] == "val"}
    for row in table:
        if row["split"] == "val":
            validated[int(row["round"])].append(float(row["value"]))
    worst = {round: min(values) for round, values in validated.items()}
    assert found["kept_round"] == max(worst, key=lambda round: (worst[round], -round))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(whole, config_file, tmp_path):
    hashes = []
    for seed in (0, 1):
        fedlit("run", config_file, f"run_dir={tmp_path / f'seed{seed}'}", f"seed={seed}", "num_workers=0")
        hashes.append(summary(tmp_path / f"seed{seed}")["weights_sha256"])
    assert hashes[0] == summary(whole)["weights_sha256"] != hashes[1]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("algorithm=local",),
        ("optimizer_state=keep", "network.norm=batch", "network.dropout=0.3", "clients_per_round=2"),
    ],
)
def test_two_rounds_and_two_more_equal_four(config_file, tmp_path, options):
    fedlit("run", config_file, f"run_dir={tmp_path / 'one'}", *options)
    fedlit("run", config_file, f"run_dir={tmp_path / 'two'}", *options, "num_rounds=2")
    assert fedlit("run", config_file, f"run_dir={tmp_path / 'two'}", *options) == 0
    assert summary(tmp_path / "one")["weights_sha256"] == summary(tmp_path / "two")["weights_sha256"]
    kept = [row for row in rows(tmp_path / "one" / "metrics.csv") if row["split"] != "test"]
    assert kept == [row for row in rows(tmp_path / "two" / "metrics.csv") if row["split"] != "test"]


KILLED = """
import os, signal, sys
from fedlit.client import Client
fit = Client.fit
def killed(self, round, **openings):
    if (round, self.site.name) == (2, "b"):
        os.kill(os.getpid(), signal.SIGKILL)
    return fit(self, round, **openings)
Client.fit = killed
from fedlit.__main__ import main
main(sys.argv[1:])
"""


def is_killed_in_round_three(config_file) -> None:
    """Runs it in a process of its own, which has no time to say a word."""
    command = [sys.executable, "-c", KILLED, "run", str(config_file)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_run_killed_in_round_three_goes_on_to_the_same_bits(whole, config_file, tmp_path):
    is_killed_in_round_three(config_file)
    assert_it_goes_on_to_the_same_bits(whole, config_file, tmp_path / "run")


@pytest.mark.parametrize(
    ("met", "code"),
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (KeyboardInterrupt(), 130), (MemoryError("none left"), 1)],
)
def test_a_run_stopped_in_round_three_goes_on_to_the_same_bits(
    whole, config_file, tmp_path, monkeypatch, capsys, met, code
):
    fit = Client.fit

    def stopped(self, round, **openings):
        if (round, self.site.name) == (2, "b"):
            if isinstance(met, BaseException):
                raise met
            os.kill(os.getpid(), met)
        return fit(self, round, **openings)

    with monkeypatch.context() as patched:
        patched.setattr(Client, "fit", stopped)
        assert fedlit("run", config_file) == code
    if code != 1:
        said = capsys.readouterr().err
        assert "run the same command to go on" in said and "Traceback" not in said
    assert_it_goes_on_to_the_same_bits(whole, config_file, tmp_path / "run")


def assert_it_goes_on_to_the_same_bits(whole, config_file, run_dir):
    assert not (run_dir / "summary.json").exists()
    assert fedlit("run", config_file) == 0
    assert summary(run_dir)["weights_sha256"] == summary(whole)["weights_sha256"]
    assert "continuing after round 2" in (run_dir / "log.txt").read_text()
    numbers = [row["round"] for row in rows(run_dir / "metrics.csv") if row["split"] == "train" and row["site"] == "a"]
    assert numbers == ["1", "2", "3", "4"]


def test_a_finished_run_is_not_run_again(whole, config_file, tmp_path, capsys):
    before = (whole / "metrics.csv").read_bytes()
    assert fedlit("run", config_file, f"run_dir={whole}") == 0
    said = capsys.readouterr().out
    assert "already complete" in said and (whole / "metrics.csv").read_bytes() == before
    assert f"fedlit evaluate {whole} prediction=[NAME]" in said


def test_a_finished_run_without_its_checkpoints_is_not_begun_anew(whole, config_file, capsys):
    for name in ("checkpoint", "experts", "pictures", "logs"):
        shutil.rmtree(whole / name, ignore_errors=True)
    (whole / "report.html").unlink()
    before = {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    for words in ([], ["resume=must"]):
        assert fedlit("run", config_file, f"run_dir={whole}", *words) == 0
        assert "already complete" in capsys.readouterr().out
    assert fedlit("run", config_file, f"run_dir={whole}", "num_rounds=5") == 2
    message = capsys.readouterr().err
    assert "num_rounds: 4 -> 5" in message and "its checkpoints were removed" in message and "overwrite=true" in message
    assert {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()} == before


def test_a_changed_config_is_refused_naming_the_keys(whole, config_file, capsys):
    assert fedlit("run", config_file, f"run_dir={whole}", "lr=0.02", "num_rounds=3", "seed=4") == 2
    message = capsys.readouterr().err
    assert (
        "  lr: 0.01 -> 0.02\n" in message
        and "  optimizer.lr: 0.01 -> 0.02\n" in message
        and "  seed: 0 -> 4\n" in message
    )
    assert "  num_rounds: 4 -> 3; it may only grow" in message
    assert fedlit("run", config_file, f"run_dir={whole}", "resume=never") == 2
    assert fedlit("run", config_file, f"run_dir={whole}", "lr=0.02", "overwrite=true", "num_rounds=1") == 0
    assert summary(whole)["num_rounds"] == 1


def test_data_that_changed_under_a_run_are_refused(config_file, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    write_manifest(data, {"a": (4, 1, 1), "b": (3, 1, 1)})
    options = (config_file, f"data.root={data}", "unseen_sites=[]")
    assert fedlit("run", *options, "num_rounds=1") == 0
    table = (data / "sites.csv").read_text().splitlines()
    (data / "sites.csv").write_text("\n".join([table[0], *reversed(table[1:])]) + "\n")
    assert fedlit("run", *options, "num_rounds=2") == 0  # the order of rows says nothing
    (data / "sites.csv").write_text("\n".join(table[:-1]) + "\n")
    assert fedlit("run", *options, "num_rounds=3") == 2
    assert "the data have changed since" in capsys.readouterr().err


@pytest.mark.long
def test_an_extended_run_that_is_killed_goes_on(config_file, tmp_path):
    """What a finished run left does not make its longer, unfinished self look complete."""
    assert fedlit("run", config_file, "num_rounds=2") == 0
    is_killed_in_round_three(config_file)
    assert not (tmp_path / "run" / "summary.json").exists()
    assert fedlit("run", config_file) == 0
    found = summary(tmp_path / "run")
    assert found["num_rounds"] == 4
    tested = {row["round"] for row in rows(tmp_path / "run" / "metrics.csv") if row["split"] == "test"}
    assert tested == {str(found["kept_round"]), "4"}


def test_overwriting_waits_until_the_new_run_can_begin(whole, config_file, tmp_path, capsys):
    before = {path.name for path in whole.iterdir()}
    assert fedlit("run", config_file, f"run_dir={whole}", "overwrite=true", "unseen_sites=[nowhere]") == 2
    assert {path.name for path in whole.iterdir()} == before
    assert "overwrite: false" in (whole / "config.yaml").read_text()


def test_evaluating_an_unfinished_run_says_so_and_which_round_it_scores(config_file, tmp_path, capsys):
    is_killed_in_round_three(config_file)
    assert fedlit("evaluate", tmp_path / "run") == 0
    (said,) = re.findall(r"not finished: round (\d) of 4 is scored", (tmp_path / "run" / "log.txt").read_text())
    tested = {row["round"] for row in rows(tmp_path / "run" / "metrics.csv") if row["split"] == "test"}
    assert tested == {said}


def test_what_is_stopped_says_what_it_leaves(whole, monkeypatch, capsys):
    """Rounds are said to be saved where there are some alone."""

    def stopped(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Federation, "score", stopped)
    assert fedlit("evaluate", whole) == 130
    said = capsys.readouterr().err
    assert "stopped by Ctrl-C; models that were scored whole are recorded" in said and "rounds" not in said
    monkeypatch.setattr("fedlit.collect.collect", stopped)
    assert fedlit("collect", whole) == 130
    assert capsys.readouterr().err.strip() == "stopped by Ctrl-C"


def test_evaluate_cannot_change_what_was_trained(whole, capsys):
    assert fedlit("evaluate", whole, "unseen_sites=[a]") == 2
    assert "unseen_sites" in capsys.readouterr().err
    words = ("comm_round=7", "run_dir=elsewhere", "loggers.csv.name=secret")
    assert fedlit("evaluate", whole, *words) == 2
    assert "it cannot take\n  comm_round\n  run_dir\n  loggers.csv.name\n" in capsys.readouterr().err
    assert fedlit("evaluate", whole, "prediction=[routingg]") == 2
    message = capsys.readouterr().err
    assert message.endswith("(command line)\n") and f"({whole / 'config.yaml'})" not in message
    assert fedlit("evaluate", whole, "report.pictures=false") == 0
    assert not (whole / "pictures").exists() and "<img" not in (whole / "report.html").read_text()


def test_the_kept_round_waits_for_every_member(config_file, tmp_path):
    """With one client a round, a round is judged only when every member has a model."""
    options = ("algorithm=local", "clients_per_round=1", "num_rounds=9")
    assert fedlit("run", config_file, *options) == 0
    found = summary(tmp_path / "run")
    assert {"a", "b", "c"} <= found["sites"].keys()


def test_a_secret_is_named_not_saved(config_file, tmp_path, capsys, monkeypatch):
    logger = "loggers.csv.api_key"
    assert fedlit("run", config_file, f"{logger}=hunter2") == 2
    message = capsys.readouterr().err
    assert "api_key" in message and "hunter2" not in message


def test_loggers_write_what_they_are_told(whole):
    (table,) = (whole / "logs" / "csv").rglob("metrics.csv")
    assert len(table.read_text().splitlines()) == 5  # a header and four rounds
    assert list((whole / "logs" / "tensorboard").rglob("events.*"))


def test_a_schedule_over_the_rounds_keeps_their_number(config_file, capsys):
    """A schedule that depends on num_rounds makes growing them another run."""
    schedule = "schedule={_target_: fedlit.training.Cosine, num_rounds: '${num_rounds}'}"
    assert fedlit("run", config_file, schedule, "num_rounds=1") == 0
    assert fedlit("run", config_file, schedule, "num_rounds=2") == 2
    assert "schedule.num_rounds: 1 -> 2" in capsys.readouterr().err


def test_two_runs_cannot_share_a_directory(config_file, tmp_path, capsys):
    from fedlit.rundir import RunDirectory

    with RunDirectory(tmp_path / "run") as held:
        held.lock()
        assert fedlit("run", config_file) == 2
    assert "another run is at work there" in capsys.readouterr().err


def test_somebody_elses_folder_is_left_alone(config_file, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    assert fedlit("run", config_file, "overwrite=true") == 2
    assert "is no run directory, it holds 'thesis.tex'" in capsys.readouterr().err
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


def test_evaluate_adds_rows_replaces_equal_ones_and_redraws(config_file, tmp_path, capsys):
    run_dir = tmp_path / "run"
    fedlit("run", config_file, "algorithm=local", "num_rounds=1")
    before = rows(run_dir / "metrics.csv")
    drawn = (run_dir / "report.html").stat().st_mtime_ns
    capsys.readouterr()
    assert fedlit("evaluate", run_dir) == 0
    said = capsys.readouterr().out
    assert "\npersonal " in said, "what is scored again has a line in the table"
    assert rows(run_dir / "metrics.csv") == before and (run_dir / "report.html").stat().st_mtime_ns > drawn
    untrained = "global: Local trains no global model; it is the one that the run began with"
    assert untrained not in said
    assert fedlit("evaluate", run_dir, "prediction=global") == 0
    assert untrained in capsys.readouterr().out
    assert untrained in summary(run_dir)["warnings"] and untrained in (run_dir / "report.html").read_text()
    added = [row for row in rows(run_dir / "metrics.csv") if row["model"] == "global"]
    assert {row["site"] for row in added} == {"a", "b", "c", "u"} and {row["split"] for row in added} == {"test"}
    assert [row for row in rows(run_dir / "metrics.csv") if row["model"] != "global"] == before


def test_a_client_whose_loss_is_nan_fails_the_run_or_is_dropped(tmp_path, disc_data, config_file, capsys):
    options = ["loss={_target_: tests.broken.NanAt, mean_above: 0.18}", "num_rounds=1", "batch_size=8"]
    os.environ["FEDLIT_TRUSTED_PACKAGES"] = "tests"
    try:
        assert fedlit("run", config_file, *options) == 1
        assert "client 'a' failed in round 1: the loss is nan" in capsys.readouterr().err
        assert fedlit("run", config_file, *options, "on_client_error=drop", "overwrite=true") == 0
    finally:
        del os.environ["FEDLIT_TRUSTED_PACKAGES"]
    found = summary(tmp_path / "run")
    assert len(found["dropped"]) == 1 and found["dropped"][0].startswith("round 1: a: ")
    assert "was dropped" in (tmp_path / "run" / "report.html").read_text()


def test_patience_stops_and_the_kept_round_is_the_best(config_file, tmp_path):
    assert fedlit("run", config_file, "num_rounds=30", "patience=2", "lr=0.000001") == 0
    found = summary(tmp_path / "run")
    assert found["num_rounds"] <= 10 and found["kept_round"] == found["num_rounds"] - 2
    assert fedlit("run", config_file, "num_rounds=30", "patience=2", "lr=0.000001") == 0


def test_rounds_without_validation_keep_the_last(tmp_path, config_file):
    data = tmp_path / "noval"
    data.mkdir()
    write_manifest(data, {"a": (4, 0, 2), "b": (3, 0, 1)})
    assert fedlit("run", config_file, f"data.root={data}", "unseen_sites=[]", "num_rounds=2") == 0
    found = summary(tmp_path / "run")
    assert found["kept_round"] == 2 and "want of validation" in found["kept_by"]


def test_a_last_round_that_was_not_judged_is_kept_for_that(config_file, tmp_path):
    assert fedlit("run", config_file, "num_rounds=1", "eval_every=5") == 0
    assert summary(tmp_path / "run")["kept_by"] == "last round, since none was judged (eval_every=5)"


def test_evaluation_every_other_round(config_file, tmp_path):
    assert fedlit("run", config_file, "eval_every=3") == 0
    assert {row["round"] for row in rows(tmp_path / "run" / "metrics.csv") if row["split"] == "val"} == {"3", "4"}


def test_centralized_scores_the_real_sites(config_file, tmp_path):
    assert fedlit("run", config_file, "algorithm=centralized", "num_rounds=1") == 0
    assert {row["site"] for row in rows(tmp_path / "run" / "metrics.csv")} == {"a", "b", "c", "u"}


def test_pictures_can_be_left_out_of_the_report(config_file, tmp_path):
    assert fedlit("run", config_file, "report.pictures=false", "num_rounds=1") == 0
    assert not (tmp_path / "run" / "pictures").exists()


def test_secrets_stay_out_of_the_run_directory(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["fedlit", "run", str(config_file), "loggers.csv.name=x", "api_token=hunter2secret"]
    )
    assert fedlit("run", config_file, "num_rounds=1") == 0
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"hunter2secret" not in path.read_bytes()
