"""What does not fit together is said by check, by plan and by a run in the same words, before anything is decoded."""

from __future__ import annotations

import pytest

from tests.conftest import fedlit, write_manifest

NOT_DEFINED = "updates a round or more"
MASKED = ("transform=secure_aggregation", "transform.secure_aggregation.threshold=4")
SERVER_AND_BATCH = ("server_site=c", "network.norm=batch")
SIZED = "data.image_size=24"
WORDS = {
    "a pattern for nothing": (("keep_local=[nothing]",), "'nothing' matches none of the network's"),
    "a pattern for everything": (("keep_local=['*']",), "keeps every entry local: nothing is left to share"),
    "a head that is nothing": (("algorithm=fedper", "algorithm.head=[x]"), "algorithm.head: 'x' matches none"),
    "a head that is all": (("algorithm=fedrep", "algorithm.head=['*']"), "is all that is trained of UNet"),
    "nothing but a head": (("algorithm=lgfedavg", "algorithm.head=['*']"), "the head is to be a part of it"),
    "no statistics to keep": (("algorithm=silobn",), "has running statistics"),
    "a layer that is not there": (("algorithm=moon", "algorithm.layer=x"), "'x' is no layer of UNet"),
    "no head to mix": (
        ("algorithm=iopfl", "share_personal=true", "prediction=fedthe", "prediction.fedthe.head=[x]"),
        "prediction.fedthe: FedTHE: head=['x'] matches none of the trained entries",
    ),
    "a network of no kind": (("network.norm=x",), "norm='x' is not allowed; use one of group, batch, instance"),
    "too few for Krum": (("algorithm.aggregate=krum",), "needs 5 updates a round or more (2 num_malicious + 3)"),
    "too few for Bulyan": (("algorithm.aggregate=bulyan",), "needs 7 updates a round or more (4 num_malicious + 3)"),
    "nothing to trim": (("algorithm.aggregate=trimmed_mean",), NOT_DEFINED),
    "too few behind a guard": (("algorithm.aggregate=update_guard", "algorithm.aggregate.rule=krum"), NOT_DEFINED),
    "no root of trust": (("algorithm.aggregate=fltrust",), "name the site that has them by server_site=NAME"),
    "more than weights": (("algorithm=scaffold", "algorithm.aggregate=median"), "Median compares weights"),
    "no coefficient": (("algorithm.aggregate.by=reported",), "clients report a coefficient (FedNova, QFedAvg, AFL)"),
    "a step uphill": (("optimizer.lr=-1",), "optimizer: torch.optim.Adam: Invalid learning rate: -1"),
    "a decay that grows": (("optimizer.weight_decay=-0.1",), "Invalid weight_decay value: -0.1"),
    "a moment that grows": (("optimizer.betas=[1.5, 0.9]",), "Invalid beta parameter at index 0: 1.5"),
    "steps of two kinds": (("optimizer.fused=true", "optimizer.foreach=true"), "optimizer: torch.optim.Adam:"),
    "a threshold above the members": (MASKED, "threshold=4 is more than the 3 clients of a round"),
    "a statistic that would be stretched": (
        ("algorithm.aggregate=fltrust", *SERVER_AND_BATCH),
        "algorithm.aggregate: FLTrust makes small updates larger, and a running statistic (encoders.0.norm1.",
    ),
    "a statistic that would be stretched behind a guard": (
        ("algorithm.aggregate={_target_: fedlit.aggregation.UpdateGuard, rule: fltrust}", *SERVER_AND_BATCH),
        "algorithm.aggregate: FLTrust makes small updates larger",
    ),
    "frequencies beyond the pictures": (
        ("algorithm=frequency_mixing", "algorithm.num_frequencies=12", SIZED),
        "algorithm.num_frequencies=12 needs pictures of 25 pixels or more on each side, and there is one of (24, 24); "
        "use 11 or less",
    ),
    "frequencies beyond the pictures, beside": (
        ("algorithm=ditto", "algorithm.inner=frequency_mixing", "algorithm.inner.num_frequencies=12", SIZED),
        "algorithm.inner.num_frequencies=12 needs pictures of 25 pixels",
    ),
    "more amplitudes than the pictures have": (
        ("network.amplitude_norm=12", SIZED),
        "network.amplitude_norm=12 needs pictures of 25 pixels or more",
    ),
    "an inner head that is all": (
        ("algorithm=ditto", "algorithm.inner=fedper", "algorithm.inner.head=['*']"),
        "  algorithm.inner.head: ['*'] is all that is trained of UNet",
    ),
    "nothing to compress": (("algorithm=local", "transform=top_k"), "Local sends no updates of members; use no transf"),
    "nobody to keep private": (
        ("algorithm=centralized", "algorithm.aggregate=uniform", "transform=differential_privacy"),
        "Centralized sends no updates of members",
    ),
    "too small a part at either end": (
        ("algorithm.aggregate=trimmed_mean", "algorithm.aggregate.fraction=0.1"),
        "needs 10 updates a round or more (to leave out one at either end), and there are 3; leave out a larger",
    ),
    "nobody who could keep": (("algorithm=centralized", "keep_local=[head.bias]"), "has no member that could keep"),
    "an activation without its loss": (("activation=softmax",), "does not fit loss"),
    "too few members": (("min_available_clients=4",), "only 3 sites train"),
}


@pytest.mark.parametrize("name", WORDS)
def test_check_says_in_one_line_what_does_not_fit(config_file, capsys, name):
    words, text = WORDS[name]
    assert fedlit("check", config_file, *words) == 2
    (problem,) = (line for line in capsys.readouterr().err.splitlines() if text in line)
    assert problem.startswith("  ")


def test_all_of_it_is_said_at_once_and_plan_and_run_say_the_same(config_file, tmp_path, capsys):
    words = ("algorithm.aggregate=krum", "keep_local=[nothing]")
    said = {}
    for command in ("check", "plan", "run"):
        assert fedlit(command, config_file, *words) == 2
        said[command] = capsys.readouterr().err
    texts = (NOT_DEFINED, "'nothing' matches none")
    assert [sum(text in said["check"] for text in texts), "2 problems" in said["check"]] == [2, True]
    assert all(text in said["plan"] for text in texts)
    assert texts[0] in said["run"]  # where no network is made for nothing
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_epsilon_is_judged_by_check_where_the_members_decide_it(config_file, capsys):
    pytest.importorskip("dp_accounting")
    words = ("transform=differential_privacy", "algorithm.aggregate=uniform", "clients_per_round=2")
    assert fedlit("check", config_file, *words, "transform.differential_privacy.epsilon=2") == 2
    assert "4 rounds with 2 of 3 members have epsilon" in capsys.readouterr().err
    words = ("privacy=case_level", "privacy.epsilon=0.1", "privacy.noise_multiplier=1", "num_rounds=1", "local_steps=1")
    assert fedlit("check", config_file, *words) == 2
    assert "a: epsilon=0.1 cannot be met: 1 round of 1 step (7 cases" in capsys.readouterr().err


def test_without_data_the_network_and_the_clients_of_a_round_are_judged(config_file, capsys):
    words = ("data.root='???'", "clients_per_round=4", "algorithm.aggregate=krum", "keep_local=[nothing]")
    assert fedlit("check", config_file, *words) == 2
    said = capsys.readouterr().err
    assert "needs 5 updates" in said and "there are 4" in said and "'nothing' matches none" in said
    assert fedlit("check", config_file, words[0], "algorithm.aggregate=krum") == 0  # members are not known


def test_what_is_wrong_with_keys_comes_first(config_file, capsys):
    assert fedlit("check", config_file, "lrr=1", "keep_local=[nothing]") == 2
    said = capsys.readouterr().err
    assert "did you mean lr?" in said and "nothing" not in said
    assert fedlit("check", config_file, "data.labels='???'", "keep_local=[nothing]") == 0  # no network without classes


@pytest.mark.parametrize(
    "words",
    [
        ("algorithm.aggregate=fltrust", *SERVER_AND_BATCH, "buffers=local"),
        ("algorithm.aggregate=fltrust", *SERVER_AND_BATCH, "algorithm=silobn"),
        ("algorithm.aggregate=median", *SERVER_AND_BATCH),
        ("algorithm=frequency_mixing", "algorithm.num_frequencies=11", SIZED),
        ("algorithm=frequency_mixing", "algorithm.num_frequencies=12", "algorithm.strength=0", SIZED),
        ("network.amplitude_norm=11", SIZED),
    ],
)
def test_what_fits_is_let_pass(config_file, words):
    assert fedlit("check", config_file, *words) == 0


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("algorithm=frequency_mixing", "algorithm.num_frequencies=16"), "algorithm.num_frequencies=16"),
        (("network.amplitude_norm=16",), "network.amplitude_norm=16"),
    ],
)
def test_pictures_of_unknown_size_are_looked_at_before_the_first_round(config_file, tmp_path, capsys, words, key):
    assert fedlit("run", config_file, *words, "num_rounds=1") == 2
    assert f"{key} needs pictures of 33 pixels or more on each side, and there is one of (32, 32)" in "".join(
        capsys.readouterr()
    )
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_check_says_who_has_no_validation_pictures_to_be_weighed_by(config_file, tmp_path, capsys):
    (tmp_path / "blind").mkdir()
    write_manifest(tmp_path / "blind", {"a": (2, 1, 1), "b": (2, 0, 1), "c": (2, 0, 1)})
    words = (f"data.root={tmp_path / 'blind'}", "unseen_sites=[]")
    assert fedlit("check", config_file, *words) == 0
    capsys.readouterr()
    assert fedlit("check", config_file, *words, "algorithm.aggregate.by=validation_loss") == 2
    assert "Mean(by='validation_loss') needs validation pictures, which these lack: b, c" in capsys.readouterr().err
    write_manifest(tmp_path / "blind", {"a": (2, 0, 1), "b": (2, 0, 1)})
    by_scores = ("algorithm=iopfl", "share_personal=true", "prediction=[ensemble,best_member]")
    assert fedlit("check", config_file, *words, *by_scores) == 2
    said = capsys.readouterr().err
    assert "prediction.best_member: it is chosen by validation cases, and no member has any" in said
    assert "prediction.ensemble" not in said


@pytest.mark.parametrize("name", ["global", "root_of_trust"])
def test_names_that_mean_something_else_are_no_sites(config_file, tmp_path, capsys, name):
    (tmp_path / "named").mkdir()
    data = write_manifest(tmp_path / "named", {name: (2, 1, 1), "b": (2, 1, 1)})
    assert fedlit("check", config_file, f"data.root={data}", "unseen_sites=[]") == 2
    assert f"a site is called {name}, a name that fedlit needs itself; rename it" in capsys.readouterr().err
