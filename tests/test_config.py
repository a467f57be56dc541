"""Reading, checking and building an experiment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch
from omegaconf import OmegaConf

from fedlit.aggregation import Mean
from fedlit.config import Loaded, build, check, differences, flatten, load, shipped
from fedlit.errors import BadInput

HERE = __name__
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Rule:
    by: Literal["samples", "uniform"] = "samples"


@dataclass(frozen=True)
class Proximal:
    mu: float = 0.01
    aggregate: Rule = field(default_factory=Rule)
    betas: tuple[float, float] = (0.9, 0.99)
    rounds: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.mu < 0:
            raise ValueError(f"mu={self.mu} is below 0")


@dataclass(frozen=True)
class Folder:
    root: str
    channels: int = 1
    augment: list | None = None

    def check(self) -> list[str]:
        return [] if Path(self.root).is_dir() else [f"data.root={self.root} does not exist"]


def needs_more() -> None:
    """As MONAI's networks do whose optional packages are missing."""
    raise ImportError("from einops import rearrange failed\n\nFor details about installing\n\nTraceback")


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    monkeypatch.setenv("FEDLIT_TRUSTED_PACKAGES", HERE.split(".")[0])


PRIVATE = "transform=differential_privacy"


def whole(**changes) -> dict:
    return {
        "num_rounds": 2,
        "data": {"_target_": f"{HERE}.Folder", "root": "."},
        "network": {"_target_": "torch.nn.Conv2d", "kernel_size": 1},
        "loss": {"_target_": "torch.nn.BCEWithLogitsLoss"},
        "algorithm": {"_target_": f"{HERE}.Proximal"},
        "metrics": {"_target_": f"{HERE}.Rule"},
        **changes,
    }


@pytest.fixture
def write(tmp_path):
    def write(name: str = "mine.yaml", **content) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(OmegaConf.to_yaml(OmegaConf.create(content)))
        return path

    return write


def problems(path, *overrides) -> dict[str, str]:
    return {problem.key: str(problem) for problem in check(load(path, overrides)).problems}


# Reading


def test_import_is_light():
    code = "import fedlit.config, sys; print([m for m in ('torch', 'numpy', 'lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_a_valid_experiment_has_no_problem_and_its_defaults(write):
    config = check(load(write(**whole()))).require()
    assert (config.name, config.batch_size, config.run_dir) == ("mine", 8, "runs/mine")


def test_own_keys_win_over_included_and_the_command_line_over_both(write):
    write("parts/first.yaml", **whole(lr=1.0, batch_size=1, seed=1))
    path = write(include=["parts/first.yaml"], batch_size=2, seed=2)
    config = load(path, ["seed=3"]).config
    assert (config.lr, config.batch_size, config.seed) == (1.0, 2, 3)


def test_include_in_a_circle_is_refused(write):
    write("a.yaml", include=["b.yaml"])
    with pytest.raises(BadInput, match=r"circle: a\.yaml -> b\.yaml -> a\.yaml"):
        load(write("b.yaml", include="a.yaml").parent / "a.yaml")


def test_a_missing_file_lists_what_is_shipped(write):
    with pytest.raises(BadInput, match=r"nothing: no such file.* quickstart"):
        load("nothing")
    with pytest.raises(BadInput, match=r"parts/no\.yaml: no such file"):
        load(write(include=["parts/no.yaml"]))
    listed = problems("quickstart", "algorithm=fedx", "sead=1")["algorithm"]
    assert all(f" {name}," in listed for name in ("fedavg", "fedprox", "local"))
    with pytest.raises(BadInput, match=r"one node.*`algorithm: local`"):
        load(shipped("algorithm/local"))


def test_a_shipped_file_is_found_by_name_and_by_path_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("quickstart") == load("configs/quickstart.yaml")
    with pytest.raises(BadInput):
        shipped("../pyproject")


def test_bare_name_replaces_a_node_and_dotted_keys_follow_in_any_order(write):
    path = write(**whole(algorithm={"_target_": f"{HERE}.Proximal", "mu": 0.5}))
    one = load(path, ["algorithm=local", "algorithm.mu=0.1"]).config.algorithm
    assert one == load(path, ["algorithm.mu=0.1", "algorithm=local"]).config.algorithm
    assert one == {**OmegaConf.load(shipped("algorithm/local")), "mu": 0.1}
    assert load(write("x.yaml", **{"algorithm.mu": 0.1, "algorithm": "local"})).config.algorithm == one


def test_a_node_by_path_is_relative_to_its_file(write):
    write("parts/rule.yaml", _target_="a.B", x=1)
    assert load(write(algorithm="parts/rule.yaml")).config.algorithm.x == 1


def test_named_groups_take_names(write):
    config = load(write(prediction=["global", "personal"]), ["prediction.again=personal"]).config
    assert config.prediction["again"] == config.prediction.personal
    config = load(write(prediction=["global", "personal"]), ["prediction=personal"]).config
    assert list(config.prediction) == ["personal"]


def test_another_target_replaces_in_a_file_with_a_notice_and_merges_on_the_command_line(write):
    write("base.yaml", network={"_target_": "torch.nn.Conv2d", "kernel_size": 1})
    loaded = load(write(include="base.yaml", network={"_target_": "torch.nn.Identity"}))
    assert loaded.config.network == {"_target_": "torch.nn.Identity"} and "kernel_size" in loaded.notices[0]
    loaded = load(write(**whole()), ["network._target_=torch.nn.AvgPool2d", "network.size=1"])
    assert check(loaded).problems[0].key == "network.size"


def test_an_optimizer_keeps_the_experiments_lr(write):
    config = check(load(write(**whole(lr=0.5, optimizer={"_target_": "torch.optim.SGD", "momentum": 0.9})))).require()
    made = build(config.optimizer, params=[torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(made, torch.optim.SGD) and made.defaults["lr"] == 0.5 and made.defaults["momentum"] == 0.9


def test_words_set_list_items_and_wrong_words_are_refused(write):
    path = write(**whole(data={"augment": [{"p": 1}, {"p": 2}]}))
    assert load(path, ["data.augment[1].p=0.5"]).config.data.augment == [{"p": 1}, {"p": 0.5}]
    assert "2 items" in problems(path, "data.augment.2.p=1")["data.augment.2.p"]
    for word, text in [("seed", "no key=value"), ("seed=[1", "no valid")]:
        with pytest.raises(BadInput, match=text):
            load(path, [word])


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [ls]", "!!python/object/apply:pathlib.Path [a]", "!mine a"]
)
def test_yaml_objects_are_refused(tmp_path, tag):
    (tmp_path / "a.yaml").write_text(f"seed: 1\nname: {tag}\n")
    with pytest.raises(BadInput, match=r"a\.yaml, line 2: the YAML tag"):
        load(tmp_path / "a.yaml")
    with pytest.raises(BadInput, match=r"command line.*the YAML tag"):
        load("quickstart", [f"name={tag}"])


@pytest.mark.parametrize("text", ["a: [1", "- 1", "seed: 1\nseed: 2", "a: ${b", "\tx: 1"])
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"a\.yaml"):
        load(tmp_path / "a.yaml")


def test_names_of_other_tools_are_understood_with_a_notice_each(write):
    loaded = load(write(**{"num-server-rounds": 5, "buffers": "global"}), ["join_ratio=0.5", "client_lr=0.1", "mu=1"])
    assert (loaded.config.num_rounds, loaded.config.fraction_train, loaded.config.lr) == (5, 0.5, 0.1)
    assert (loaded.config.algorithm.mu, loaded.config.buffers) == (1, "average")
    assert "num-server-rounds is called num_rounds here" in loaded.notices and len(loaded.notices) == 5
    assert "given twice" in problems(write(**whole(comm_round=5)))["num_rounds"]


def test_synonyms_of_a_components_arguments_are_understood(write):
    checked = check(load(write(**whole()), ["algorithm.proximal_mu=0.3"]))
    assert checked.remarks == ("algorithm.proximal_mu is called algorithm.mu here",)
    assert build(checked.require().algorithm) == Proximal(mu=0.3)
    both = problems(write(**whole()), "algorithm.proximal_mu=0.3", "algorithm.mu=1")
    assert both.keys() == {"algorithm.proximal_mu"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["buffers=drop"], "buffers=drop is called buffers=local here"),
        (["algorithm=fedyogi", "tau=0.1"], "tau is called algorithm.tau here"),
        (["algorithm=fedavgm", "eta=0.1"], "eta is called algorithm.lr here"),
        (["algorithm=ditto", "lambda=0.1"], "lambda is called algorithm.pull here"),
        (["algorithm=feddyn", "alpha_coef=0.1"], "alpha_coef is called algorithm.alpha here"),
        (["algorithm=qfedavg", "q=1"], "q is called algorithm.q here"),
    ],
)
def test_names_and_values_of_other_tools_are_understood(words, said):
    loaded = load("quickstart", words)
    assert loaded.notices == (said,) and not check(loaded).problems


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["krum", "num_malicious_clients=1"], "num_malicious_clients is called algorithm.aggregate.num_malicious here"),
        (["krum", "algorithm.aggregate.num_malicious_nodes=1"], "algorithm.aggregate.num_malicious here"),
        (["multi_krum", "num_clients_to_keep=2"], "num_clients_to_keep is called algorithm.aggregate.num_chosen here"),
        (["trimmed_mean", "algorithm.aggregate.beta=0.1"], "beta is called algorithm.aggregate.fraction here"),
        (["uniform", "algorithm=fedprox", "fedproxloss_mu=1"], "fedproxloss_mu is called algorithm.mu here"),
        (["uniform", PRIVATE, "clipping_norm=2"], "clipping_norm is called transform.differential_privacy.clip here"),
        (
            ["uniform", PRIVATE, "transform.differential_privacy.clipping_bound=2"],
            "is called transform.differential_privacy.clip here",
        ),
    ],
)
def test_names_of_the_same_quantity_in_other_tools_are_understood(words, said):
    rule, *words = words
    loaded = load("quickstart", [*words, f"algorithm.aggregate={rule}"])
    checked = check(loaded)
    (notice,) = (*loaded.notices, *checked.remarks)
    assert not checked.problems and notice.endswith(said)


def test_another_tools_name_of_another_number_is_refused_with_its_conversion():
    for word in ("qffl_learning_rate=0.1", "algorithm.qffl_learning_rate=0.1"):
        ((key, text),) = problems("quickstart", "algorithm=qfedavg", word).items()
        assert key in word and "has its reciprocal: lipschitz = 1 / qffl_learning_rate" in text
    assert "no such argument" in problems("quickstart", "transform=top_k", "transform.top_k.beta=0.1").popitem()[1]


@pytest.mark.parametrize(
    "words, hint",
    [
        (["keep_local=norm.*"], "write [norm.*]"),
        (["keep_local='*norm*'"], 'write ["*norm*"]'),
        (["algorithm=fedper", "algorithm.head=head.*"], "got 'head.*' (str); write [head.*]"),
        (["algorithm=ditto", "algorithm.inner=fedper", "algorithm.inner.head='*'"], """got '*' (str); write ["*"]"""),
    ],
)
def test_one_pattern_where_a_list_is_wanted_is_shown_as_a_list(words, hint):
    ((_, text),) = problems("quickstart", *words).items()
    assert text.replace(" (command line)", "").endswith(hint)


@pytest.mark.parametrize("value", ["[*]", "*", "[*norm*]", "*norm", "[head.bias, *norm]"])
def test_a_star_without_quotes_is_one_line_that_says_what_to_write(value, tmp_path):
    with pytest.raises(BadInput) as refused:
        load("quickstart", [f"keep_local={value}"])
    told = str(refused.value)
    assert told.startswith(f"command line, 'keep_local={value}': ") and "\n" not in told
    assert """begins with * needs quotes; write ["*"] for [*]""" in told
    (tmp_path / "a.yaml").write_text(f"include: quickstart\nkeep_local: {value}\n")
    with pytest.raises(BadInput, match=r"a\.yaml: is no valid configuration: line 2: a value that begins with \*"):
        load(tmp_path / "a.yaml")


# Checking


def test_every_problem_is_reported_at_once_and_says_where(write):
    path = write(**whole(batch_sise=4, keep_by="best", lr="fast", report={"picture": False}))
    words = ("data.root=/no/such", "data.chanels=3", "algorithm.mu=-1", "network.kernel_size=one", "seed=-1")
    found = problems(path, *words)
    assert found.keys() == {
        *("batch_sise", "keep_by", "lr", "report.picture", "seed"),
        *("data.root", "data.chanels", "algorithm", "network.kernel_size"),
    }
    assert "did you mean batch_size?" in found["batch_sise"] and "mine.yaml" in found["batch_sise"]
    assert "one of worst, mean" in found["keep_by"]
    assert "did you mean channels?" in found["data.chanels"] and "command line" in found["data.chanels"]
    assert "mu=-1 is below 0" in found["algorithm"] and "/no/such does not exist" in found["data.root"]
    with pytest.raises(BadInput) as error:
        check(load(path, ["data.root=/no/such"])).require()
    assert len(str(error.value).splitlines()) == 5


WRONG = (
    *("batch_size=0", "num_rounds=1.5", "fraction_train=0", "lr=.inf", "precision=8", "gradient_clip=0", "name=a/b"),
    *("devices=0", "devices=a", "channels_last=maybe", "unseen_sites=hk", "keep_local=[{a: 1}]", "prediction=1"),
    *("data=null", "report=null", "loggers=[1]", "schedule={}", "resume=always", "accelerator=gpu", "server_site=[a]"),
)


@pytest.mark.parametrize(
    ("word", "key"),
    [
        *((word, word.partition("=")[0]) for word in WRONG),
        ("clients_per_round=2 fraction_train=0.5", "clients_per_round"),
        ("local_steps=2 local_epochs=2", "local_epochs"),
        ("local_epochs=null", "local_epochs"),
        ("lr=${oc.env:NO_SUCH_VARIABLE}", "lr"),
        ("data.root=${oc.env:NO_SUCH_VARIABLE}", "data.root"),
        ("seed=${nothing}", "seed"),
        ("seed=${run:ls}", "seed"),
        ("algorithm.aggregate={by: size}", "algorithm.aggregate.by"),
        ("algorithm.aggregate={_target_: HERE.Rule, by: size}", "algorithm.aggregate.by"),
        ("algorithm.aggregate={_target_: HERE.Rool}", "algorithm.aggregate"),
        ("algorithm.betas=[1]", "algorithm.betas"),
        ("algorithm.rounds=[1,a]", "algorithm.rounds"),
        ("algorithm.mu=true", "algorithm.mu"),
        ("data.augment=[{_target_: albumentations.HorizontalFlip, q: 1}]", "data.augment.0.q"),
        ("data.augment=[{_target_: albumentations.HorizontalFlip, p: 2}]", "data.augment.0"),
        ("network={_target_: torch.nn.Conv2d}", ""),
        ("network._target_=torch.nn.Conv9", "network"),
        ("loggers={a: {x: 1}}", "loggers.a"),
        ("prediction={slow: null}", "prediction.slow"),
        ("schedule={_target_: HERE.Nothing}", "schedule"),
    ],
)
def test_one_problem(write, word, key):
    separator = " " if "{" not in word and "[" not in word else "\0"
    found = problems(write(**whole()), *word.replace("HERE", HERE).split(separator))
    assert list(found) == ([key] if key else [])


ODD = ("null", "''", "[]", "{}", "-1", "true", "'???'", "${x}", "[1,{a: b}]", "{_target_: [1]}", "{1: 2}", ".nan")


def test_whatever_is_written_gets_an_answer(write):
    path = write(**whole())
    for key in (*flatten(check(load(path)).config), "report", "optimizer", "algorithm.aggregate", "no", "a.b"):
        for odd in ODD:
            with suppress(BadInput):
                check(load(path, [f"{key}={odd}"]))


def test_what_must_be_given_is_asked_for(write):
    assert problems(write()).keys() == {"num_rounds", "data", "network", "loss", "algorithm"}
    assert problems(write(**whole(network={"_target_": "torch.nn.Conv2d"}))).keys() == {"network.kernel_size"}


def test_the_later_of_two_that_exclude_each_other_wins(write):
    path = write(**whole(local_epochs=3, fraction_train=0.5))
    config = check(load(path, ["local_steps=10", "clients_per_round=2"])).require()
    assert (config.local_epochs, config.local_steps, config.fraction_train) == (None, 10, None)
    assert check(load(write(**whole(local_steps=10)), ["local_epochs=2"])).require().local_steps is None


def test_an_unset_path_is_a_remark_and_a_missing_one_a_problem(write):
    path = write(**whole(data={"_target_": f"{HERE}.Folder", "root": "???"}))
    checked = check(load(path))
    assert not checked.problems and checked.remarks == ("data.root is not set: pictures not checked",)
    with pytest.raises(BadInput, match=r"data\.root: is not set"):
        checked.require()
    assert problems(path, "data.root=/no/such") == {"data.root": "data.root=/no/such does not exist (command line)"}


def test_environment_interpolation_is_typed(write, monkeypatch):
    monkeypatch.setenv("PICTURES", ".")
    monkeypatch.setenv("ROUNDS", "7")
    words = ["data.root=${oc.env:PICTURES}", "num_rounds=${oc.env:ROUNDS}"]
    config = check(load(write(**whole()), words)).require()
    assert (config.data.root, config.num_rounds) == (".", 7)


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "builtins.eval", "subprocess.run", "torch.load", "torch.hub.load", "torch.os.system", "eval"),
        *("torch.utils.cpp_extension.load_inline", "fedlit.config.load", "fedlit.config.Path"),
        *("torch.nn", "torch.nn.Module.__subclasses__", "torch.nn.Module.train", "torch.nn.functional.elu"),
        *("lightning.fabric.utilities.cloud_io.get_filesystem", "torch.package.PackageImporter", "fedlit.config.Any"),
        *("", "torch", "torch.", "..", "a..b"),
    ],
)
def test_what_is_no_component_is_refused(write, target):
    found = problems(write(**whole(loss={"_target_": target})))
    assert found.keys() == {"loss"} and "_target_" in found["loss"]
    with pytest.raises(BadInput, match="loss: _target_"):
        build(OmegaConf.create({"loss": {"_target_": target}}).loss)


def test_an_untrusted_package_is_not_even_imported(write, monkeypatch, tmp_path):
    (tmp_path / "stranger.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    assert "FEDLIT_TRUSTED_PACKAGES=stranger" in problems(write(**whole(loss={"_target_": "stranger.Loss"})))["loss"]


def test_a_package_that_is_not_installed_is_named(write):
    pytest.importorskip("torch")
    if any((Path(folder) / "segmentation_models_pytorch").exists() for folder in sys.path):
        pytest.skip("segmentation_models_pytorch is installed")
    found = problems(write(**whole(network={"_target_": "segmentation_models_pytorch.Unet"})))
    assert "needs the package segmentation_models_pytorch" in found["network"]


def test_a_network_of_a_third_library_is_checked_and_built(write):
    pytest.importorskip("monai")
    unet = {"_target_": "monai.networks.nets.UNet", "spatial_dims": 2, "channels": [4, 8], "strides": [2]}
    config = check(load(write(**whole(network=unet)))).require()
    network = build(config.network, in_channels=1, out_channels=2)
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 2, 16, 16)
    assert problems(write(**whole(network={**unet, "stride": [2]}))).keys() == {"network.stride"}


# Building


def test_inner_nodes_become_objects_and_lists_tuples_where_declared(write):
    inner = {"_target_": f"{HERE}.Rule", "by": "uniform"}
    node = OmegaConf.create({"_target_": f"{HERE}.Proximal", "aggregate": inner, "betas": [0.1, 0.2], "rounds": [1, 2]})
    assert build(node) == Proximal(aggregate=Rule("uniform"), betas=(0.1, 0.2), rounds=[1, 2])


def test_augmentation_stays_nodes():
    nodes = [{"_target_": "albumentations.HorizontalFlip", "p": 0.5}]
    assert build({"_target_": f"{HERE}.Folder", "root": ".", "augment": nodes}).augment == nodes


def test_supplied_arguments_are_given_where_there_are_such_and_the_node_wins():
    node = {"_target_": "torch.nn.Conv2d", "kernel_size": 1, "in_channels": 3}
    assert build(node, in_channels=1, out_channels=2).in_channels == 3
    assert isinstance(build({"_target_": "torch.nn.Identity"}, params=1), torch.nn.Identity)


def test_build_errors_name_the_dotted_key():
    inner = {"_target_": f"{HERE}.Rule", "b": 1}
    config = OmegaConf.create({"algorithm": {"_target_": f"{HERE}.Proximal", "aggregate": inner}})
    with pytest.raises(BadInput, match=r"algorithm\.aggregate: .*'b'"):
        build(config.algorithm)
    config.algorithm = {"_target_": f"{HERE}.Proximal", "mu": "???"}
    with pytest.raises(BadInput, match=r"algorithm\.mu: "):
        build(config.algorithm)
    config.network = {"_target_": f"{HERE}.needs_more"}
    with pytest.raises(BadInput, match=r"^network: .*needs_more: from einops import rearrange failed; install that$"):
        build(config.network)


# Comparing


def test_differences_name_keys_and_leave_out_the_free(write):
    old = check(load(write(**whole()))).require()
    words = ["lr=0.5", "seed=1", "algorithm.mu=1", f"loggers={{a: {{_target_: {HERE}.Rule}}}}"]
    new = check(load(write(**whole()), words)).require()
    assert differences(old, old) == []
    before = OmegaConf.masked_copy(old, [key for key in old if key != "privacy"])  # of a version that did not have it
    assert differences(before, old) == [] and differences(before, OmegaConf.merge(old, {"privacy": {"_target_": "x"}}))
    changed = ["algorithm.mu: not there -> 1", "lr: 0.001 -> 0.5", "optimizer.lr: 0.001 -> 0.5"]
    assert differences(old, new, free={"loggers", "seed"}) == changed


def test_a_saved_config_reads_back_as_it_was(write, tmp_path):
    config = check(load(write(**whole(local_steps=3, optimizer={"_target_": "torch.optim.SGD"})))).require()
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    assert flatten(check(load(tmp_path / "config.yaml")).require()) == flatten(config)


def test_check_takes_a_config_made_in_python():
    assert not check(Loaded(OmegaConf.create(whole(name="here")))).problems
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


def test_fields_of_an_arguments_default_can_be_changed_alone():
    words = ["algorithm.aggregate.by=uniform", "prediction=[tent]", "prediction.tent.adaptation.passes=3"]
    checked = check(load("quickstart", words))
    assert not checked.problems
    assert build(checked.config.algorithm).aggregate.by == "uniform"
    assert build(checked.config.prediction.tent).adaptation.passes == 3


@pytest.mark.parametrize(
    "word, told",
    [
        ("algorithm.aggregate.bu=uniform", "Mean has no such argument"),
        ("algorithm.aggregate.by=often", "expected Literal"),
        ("algorithm.inner.mu=1", "has no such argument"),
    ],
)
def test_what_they_do_not_have_is_refused(word, told):
    problems = check(load("quickstart", [word])).problems
    assert len(problems) == 1 and told in str(problems[0])


def test_the_weights_of_what_another_algorithm_learns_are_set_as_its_own():
    for aggregate, wanted in (("aggregate.by=uniform", Mean(by="uniform")), ("aggregate=null", Mean())):
        config = check(load("quickstart", ["algorithm=iopfl", f"algorithm.{aggregate}"])).require()
        assert build(config.algorithm).inner.aggregate == wanted


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["algorithm=fedbuff", "algorithm.clock=5"], "algorithm.clock"),
        (["algorithm.aggregate=3"], "algorithm.aggregate"),
        (["algorithm.aggregate=geometric_median", "algorithm.aggregate.weigh=krum"], "algorithm.aggregate.weigh"),
        (["algorithm.aggregate={_target_: fedlit.losses.DiceBCE}"], "algorithm.aggregate"),
    ],
)
def test_what_is_no_such_component_is_refused(words, key):
    ((found, text),) = problems("quickstart", *words).items()
    assert found == key and "expected fedlit." in text


def test_a_rule_inside_a_rule_is_named_as_any():
    words = ["algorithm.aggregate=geometric_median", "algorithm.aggregate.weigh=uniform"]
    assert build(check(load("quickstart", words)).require().algorithm).aggregate.weigh == Mean(by="uniform")
