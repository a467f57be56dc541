"""Personal models leave a site once, where the experiment says so, and never otherwise."""

from __future__ import annotations

import dataclasses
import json
import shutil
from statistics import fmean as mean
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fedlit.algorithms import APFL, IOPFL, Ditto, FedAvg, FineTuning, Local
from fedlit.data.pictures import Pictures
from fedlit.errors import BadInput
from fedlit.messages import Expert
from fedlit.metrics import Scoring
from fedlit.prediction import TENT, BestMember, Ensemble, Global, Learnt, Personal, Predictor, Routing
from fedlit.prediction.best_member import mean_dice
from fedlit.prediction.features import feature_statistics
from fedlit.prediction.predicted import case_by_case
from fedlit.prediction.told import dice_at
from fedlit.record import Record
from fedlit.sharing import bytes_shared, load_experts, save_experts, share
from fedlit.weights import num_bytes, sha256
from tests.conftest import discs, fedlit, make_federation, make_site, run_rounds, write_manifest
from tests.unseen_site import at_unseen_site, everything, volumes

HOME = "fedlit.prediction"


@dataclasses.dataclass(frozen=True)
class FirstExpert(Predictor):
    """The first member's personal model, for unseen sites; what it was given is noted."""

    is_final = True
    roles = ("unseen",)
    needs = ("weights",)
    seen: list = dataclasses.field(default_factory=list)

    def remarks(self, learnt, images):
        return ["it takes the first"]

    def prepare(self, learnt: Learnt, images):
        self.seen.append((learnt.site, sorted(learnt.experts)))
        learnt.resident.load(next(iter(learnt.experts.values())).weights)
        return learnt.network


class Blend:
    """A mixture with gates that can be told apart."""

    layers, members = ("conv", "head"), ("a", "b")

    def __init__(self, model):
        self.model, self.gates = model, torch.zeros(0, 2, 2)

    def __call__(self, images):
        self.gates = torch.arange(4.0).reshape(1, 2, 2).repeat(len(images), 1, 1)
        return self.model(images)


@dataclasses.dataclass(frozen=True)
class Blended(Predictor):
    def prepare(self, learnt, images):
        learnt.resident.load(learnt.server.weights)
        return Blend(learnt.network)


@pytest.fixture
def trained(sites):
    """A federation whose members have personal models, and an unseen site."""
    federation, server = make_federation(sites)
    server = run_rounds(federation, server, 1, Local())
    unseen = make_site("u", (0, 0, 2), role="unseen")
    federation.fleet.desks["u"] = 0
    return dataclasses.replace(federation, sites={**federation.sites, "u": unseen}), server


OPTIONS = {"scoring": Scoring(), "classes": ("disc",)}


def test_what_is_shared_is_the_personal_models_and_nothing_else(trained):
    federation, server = trained
    experts = share(federation, server, {"weights"}, **OPTIONS)
    assert [*experts] == ["a", "b", "c"]
    for name, expert in experts.items():
        assert sha256(expert.weights) == sha256(federation.fleet.memories[name]["personal"])
        assert not expert.slots and not expert.scalars
    assert bytes_shared(experts) == (sum(num_bytes(expert.weights) for expert in experts.values()), 0)


def test_a_model_that_is_mixed_with_the_global_one_is_shared_before_that(sites):
    """So that members who take little of their own tell nevertheless what they have learnt."""
    federation, server = make_federation(sites)
    server = run_rounds(federation, server, 2, IOPFL(mixing=(0.0, 0.5)))
    for name, expert in share(federation, server, {"weights"}, **OPTIONS).items():
        memory = federation.fleet.memories[name]
        assert sha256(expert.weights) == sha256(memory["average"]) != sha256(server.weights)
        assert expert.scalars == {"share": memory["mixture"]["share"].item()}


def test_what_a_member_keeps_is_shared_as_it_uses_it(sites):
    """The global model lacks it, so that elsewhere it could be mixed with nothing."""
    federation, server = make_federation(sites, keep_local=["*norm*"])
    server = run_rounds(federation, server, 2, IOPFL(mixing=(0.25,)))
    for name, expert in share(federation, server, {"weights"}, **OPTIONS).items():
        learnt = federation.learnt(server, name, num_classes=1)
        Personal().prepare(learnt, None)
        used = learnt.resident.read()
        kept = [entry for entry in expert.weights if "norm" in entry]
        assert kept and all(torch.equal(expert.weights[entry], used[entry]) for entry in kept)
        assert expert.weights.keys() == used.keys()


@pytest.mark.parametrize(
    "algorithm", [APFL(), Ditto(), FineTuning(), IOPFL(mixing=None)], ids=lambda each: type(each).__name__
)
def test_a_personal_model_that_is_no_mixture_with_the_global_one_is_shared_as_it_is(sites, algorithm):
    federation, server = make_federation(sites)
    server = run_rounds(federation, server, 1, algorithm)
    for name, expert in share(federation, server, {"weights"}, **OPTIONS).items():
        assert sha256(expert.weights) == sha256(federation.fleet.memories[name]["personal"])
        assert not expert.scalars


def test_features_are_those_of_the_training_pictures_under_the_global_model(trained):
    federation, server = trained
    experts = share(federation, server, {"weights", "features"}, **OPTIONS)
    learnt = federation.learnt(server, "b", num_classes=1)
    network = learnt.copy(server.weights)
    pictures = federation.sites["b"].train
    wanted = feature_statistics(network, network, [pictures.images(range(len(pictures)))])
    for name, value in experts["b"].slots["features"].items():
        torch.testing.assert_close(value, wanted[name])


def test_every_model_is_judged_by_the_validation_cases_of_all_members(trained):
    federation, server = trained
    experts = share(federation, server, {"scores"}, **OPTIONS)
    own = federation.score(
        {"personal": Personal()}, server, metrics=["dice"], split="val", names=["a"], **OPTIONS
    ).cases
    for expert in experts.values():
        assert [*expert.scalars] == [dice_at(name) for name in "abc"]
        assert all(0 <= value <= 1 for value in expert.scalars.values())
    alone = {"a": experts["a"]}
    federation = dataclasses.replace(federation, sites={"a": federation.sites["a"]})
    federation.fleet.clients = {"a": federation.fleet.clients["a"]}
    (only,) = share(federation, server, {"scores"}, **OPTIONS).values()
    assert only.scalars == {dice_at("a"): pytest.approx(sum(row.value for row in own) / len(own))}
    assert sha256(only.weights) == sha256(alone["a"].weights)
    up, down = bytes_shared(experts)
    assert down == (len(experts) - 1) * up > 0, "each member is sent the models of the others"


def test_a_member_is_judged_by_the_model_that_it_uses(sites):
    """Of members that take nothing of their own that is the global model, whatever they have learnt by themselves."""
    federation, server = make_federation(sites)
    server = run_rounds(federation, server, 2, IOPFL(mixing=(0.0,)))
    found = federation.score({"global": Global()}, server, metrics=["dice"], split="val", **OPTIONS).cases
    of_global = {name: mean(row.value for row in found if row.site == name) for name in "abc"}
    for expert in share(federation, server, {"scores"}, **OPTIONS).values():
        assert sha256(expert.weights) != sha256(server.weights)
        assert {name: expert.scalars[dice_at(name)] for name in "abc"} == pytest.approx(of_global)


def test_a_case_that_counts_for_nobody_decides_nothing(trained):
    """Without foreground in truth and prediction it has no Dice; such a member judges only the models that find any."""
    federation, server = trained
    b = federation.sites["b"]
    empty = Pictures.from_arrays(*(part * 0 for part in discs(2, 5)), np.array([[0, 1]]), name="b")
    sites = {**federation.sites, "b": dataclasses.replace(b, val=empty)}
    head = "head.bias"

    def biased(weights, by):
        return {**weights, head: weights[head] + by}

    memories = federation.fleet.memories
    memories["a"] = {"personal": biased(memories["a"]["personal"], -100)}  # finds nothing anywhere
    memories["c"] = {"personal": biased(memories["c"]["personal"], 100)}  # finds everything everywhere
    experts = share(dataclasses.replace(federation, sites=sites), server, {"scores"}, **OPTIONS)
    assert [*experts["a"].scalars] == [dice_at("a"), dice_at("c")] and experts["c"].scalars[dice_at("b")] == 0
    dice = mean_dice({name: experts[name] for name in "ac"})
    assert dice == {name: sum(experts[name].scalars[dice_at(site)] for site in "ac") / 2 for name in "ac"}
    best = max(dice, key=dice.get)
    told = BestMember().choice({name: experts[name] for name in "ac"})
    assert told.startswith(f"{best}; mean Dice at the members: a {dice['a']:.4f}, c {dice['c']:.4f}")


@pytest.mark.parametrize("shares", [(0.0,), (0.0, 1.0)], ids=str)
def test_that_no_member_takes_anything_of_its_own_is_told(sites, shares):
    federation, server = make_federation(sites)
    server = run_rounds(federation, server, 1, IOPFL(mixing=shares[:1]))
    federation.fleet.memories["a"]["mixture"]["share"].fill_(shares[-1])
    warned = []
    federation.fleet.watch.warn = warned.append
    share(federation, server, {"weights"}, **OPTIONS)
    assert [text[:47] for text in warned] == ["no member takes anything of a model of its own "] * (shares[-1] == 0)


def test_a_member_without_a_model_is_left_out_and_named(trained):
    federation, server = trained
    warned = []
    federation.fleet.watch.warn = warned.append
    del federation.fleet.memories["b"]
    assert [*share(federation, server, {"weights"}, **OPTIONS)] == ["a", "c"]
    del federation.fleet.memories["c"]
    share(federation, server, {"weights"}, **OPTIONS)
    assert "b has no personal model" in warned[0] and "only a shares a personal model" in warned[-1]


def test_a_member_whose_model_is_broken_is_left_out_and_named(trained):
    federation, server = trained
    warned = []
    federation.fleet.watch.warn = warned.append
    memories = federation.fleet.memories
    memories["b"] = {"personal": {name: value * torch.nan for name, value in memories["b"]["personal"].items()}}
    assert [*share(federation, server, {"weights", "scores"}, **OPTIONS)] == ["a", "c"]
    assert warned == ["the personal model of b holds NaN or Inf: predictions for other sites do without"]
    memories["a"] = memories["c"] = memories["b"]
    with pytest.raises(BadInput, match="every personal model holds NaN or Inf: train again"):
        share(federation, server, {"weights"}, **OPTIONS)


@pytest.mark.parametrize("predictor", [Global(), Ensemble(), Routing(), TENT()])
def test_pictures_of_other_channels_are_refused_at_every_predictor(trained, predictor):
    federation, server = trained
    u, grey = federation.sites["u"], discs(2, 5)
    colour = Pictures.from_arrays(np.repeat(grey[0], 3, axis=-1), grey[1], np.array([[0, 1]]), name="u")
    federation = dataclasses.replace(federation, sites={**federation.sites, "u": dataclasses.replace(u, test=colour)})
    experts = share(federation, server, {"weights"}, **OPTIONS)
    with pytest.raises(BadInput, match=r"^u: its pictures have 3 channels, and the network takes 1; read them with"):
        federation.score({"model": predictor}, server, metrics=["dice"], split="test", experts=experts, **OPTIONS)


def test_without_any_personal_model_the_error_names_a_way(sites):
    federation, server = make_federation(sites)
    run_rounds(federation, server, 1, FedAvg())
    with pytest.raises(BadInput, match="algorithm=iopfl"):
        share(federation, server, {"weights"}, **OPTIONS)


def test_saved_and_loaded_they_are_the_same(trained, tmp_path):
    federation, server = trained
    experts = share(federation, server, {"weights", "features", "scores"}, **OPTIONS)
    save_experts(tmp_path, {"old": Expert("old", {})}, 3)
    save_experts(tmp_path, experts, 3)
    again = load_experts(tmp_path, 3)
    assert [*again] == [*experts]
    for name, expert in experts.items():
        assert sha256(again[name].weights) == sha256(expert.weights)
        assert sha256(again[name].slots["features"]) == sha256(expert.slots["features"])
        assert again[name].scalars == expert.scalars


def test_what_was_shared_after_another_round_is_not_of_this_one(trained, tmp_path):
    save_experts(tmp_path, {"a": Expert("a", {})}, 3)
    assert load_experts(tmp_path, 3) and not load_experts(tmp_path, 4)


def test_models_of_a_round_that_is_not_kept_any_more_are_not_used(config_file, disc_data, tmp_path, capsys):
    """A run that goes on keeps another round: what members shared before is not mixed with that."""
    words = ["keep_local=['*norm*']", "keep_by=mean", "eval_every=100"]
    assert fedlit("run", config_file, "num_rounds=1", *words) == 0
    run, image = tmp_path / "run", next(disc_data.glob("u_*.png"))
    assert fedlit("evaluate", run, "prediction=[ensemble]", "share_personal=true") == 0
    assert fedlit("predict", run, image, "--out", tmp_path / "one", "--model", "ensemble") == 0
    assert fedlit("run", config_file, "num_rounds=2", *words) == 0
    assert json.loads((run / "summary.json").read_text())["kept_round"] == 2
    capsys.readouterr()
    assert fedlit("predict", run, image, "--out", tmp_path / "two", "--model", "ensemble") == 2
    assert "ensemble needs the members' weights, which they have not shared" in capsys.readouterr().err


def test_whom_nobody_names_is_scored_nowhere(trained):
    federation, server = trained
    found = federation.score({"first": FirstExpert()}, server, metrics=["dice"], split="test", names=[], **OPTIONS)
    assert not found.cases


@pytest.mark.parametrize(
    ("word", "models"),
    [("algorithm=iopfl", {"personal", "global", "ensemble"}), ("keep_local=['head*']", {"global", "ensemble"})],
)
def test_a_predictor_that_fails_at_the_end_loses_nothing_of_the_others(config_file, tmp_path, capsys, word, models):
    (tmp_path / "few").mkdir()
    write_manifest(tmp_path / "few", {"a": (2, 1, 1), "b": (2, 1, 1), "c": (2, 1, 1), "u": (0, 0, 1)})
    tent = "{_target_: fedlit.prediction.TENT, adaptation: {held_back: 0.5}}"
    predictors = f"prediction={{ensemble: {{_target_: fedlit.prediction.Ensemble}}, tent: {tent}}}"
    words = [f"data.root={tmp_path / 'few'}", "num_rounds=1", "share_personal=true", word, predictors]
    assert fedlit("run", config_file, *words) != 0
    assert "u: adaptation.held_back=0.5 needs at least 2 cases" in capsys.readouterr().err
    assert {row.model for row in Record(tmp_path / "run").cases()} == models


def test_a_predictor_is_scored_at_the_sites_it_is_meant_for(trained):
    federation, server = trained
    experts = share(federation, server, {"weights"}, **OPTIONS)
    first, warned = FirstExpert(), []
    federation.fleet.watch.warn = warned.append
    found = federation.score({"first": first}, server, metrics=["dice"], split="test", experts=experts, **OPTIONS)
    assert first.seen == [("u", ["a", "b", "c"])] and {row.site for row in found.cases} == {"u"}
    federation.score({"first": first}, server, metrics=["dice"], split="test", names=["a"], experts=experts, **OPTIONS)
    assert warned == ["first: it takes the first", "first is for unseen sites, and there is none"]


def test_the_gates_of_a_mixture_are_recorded_by_case_layer_and_member(trained, tmp_path):
    federation, server = trained
    found = federation.score({"blend": Blended()}, server, metrics=["dice"], split="test", names=["u"], **OPTIONS)
    assert len(found.gates) == 2 * 2 * 2  # cases, layers, members
    assert {(row.layer, row.member): row.value for row in found.gates if row.case == found.cases[0].case} == {
        ("conv", "a"): 0.0, ("conv", "b"): 1.0, ("head", "a"): 2.0, ("head", "b"): 3.0,
    }  # fmt: skip
    record = Record(tmp_path)
    record.add([], [], found.gates)
    assert [*record.gates()] == found.gates
    record.truncate(after_round=0)
    assert [*record.gates()] == []


def test_the_gates_of_a_volume_are_the_mean_over_its_slices():
    class Brightness:
        """Its gates are how bright a picture is."""

        layers, members = ("conv",), ("a",)

        def __call__(self, images):
            self.gates = images.mean((1, 2, 3))[:, None, None]
            return images

    @dataclasses.dataclass(frozen=True)
    class Brightest(Predictor):
        def prepare(self, learnt, images):
            return mixture

    mixture, images = Brightness(), volumes((3, 2))
    pictures = SimpleNamespace(unlabelled=lambda: images, size=images.size, num_classes=1)
    mixture.gates = torch.zeros(0, 1, 1)
    found = case_by_case(Brightest(), at_unseen_site(batch_size=2), pictures, place=lambda batch: batch)
    for case, (planes, wanted) in zip(found, ((3, everything(images)[:3]), (2, everything(images)[3:])), strict=True):
        assert len(case.planes) == planes
        assert case.gates == {("conv", "a"): pytest.approx(wanted.mean().item())}


PREDICT = "prediction.best={_target_: fedlit.prediction.BestMember}"


def test_sharing_is_refused_unless_the_config_allows_it(config_file, capsys):
    assert fedlit("check", config_file, PREDICT, "keep_local=['*norm*']") == 2
    assert "best needs the members' personal models; set share_personal=true" in capsys.readouterr().err
    assert fedlit("check", config_file, PREDICT, "share_personal=true") == 2
    assert "FedAvg makes none; use an algorithm that does, such as algorithm=iopfl" in capsys.readouterr().err
    assert fedlit("check", config_file, PREDICT, "share_personal=true", "keep_local=['*norm*']") == 0


def test_sharing_of_what_nobody_has_is_said_to_do_nothing(config_file, capsys):
    assert fedlit("check", config_file, "share_personal=true") == 0
    assert "share_personal=true does nothing: FedAvg makes no personal models" in capsys.readouterr().err
    for having in ("algorithm=iopfl", "algorithm=fedbn", "keep_local=['*norm*']"):
        assert fedlit("check", config_file, "share_personal=true", having) == 0
        assert "does nothing" not in capsys.readouterr().err


def test_a_finished_run_is_evaluated_with_what_members_share_then(config_file, disc_data, tmp_path, capsys):
    kept = ["keep_local=['*norm*']"]
    assert fedlit("run", config_file, "num_rounds=1", *kept) == 0
    run = tmp_path / "run"
    assert json.loads((run / "summary.json").read_text())["shared"] is None and not (run / "experts").exists()
    image = next(disc_data.glob("u_*.png"))
    assert fedlit("predict", run, image, "--out", tmp_path / "masks", "--model", "best_member") == 2
    assert f"fedlit evaluate {run} prediction=best_member share_personal=true" in capsys.readouterr().err
    assert fedlit("evaluate", run, "prediction=[best_member]", "share_personal=true") == 0
    shared = json.loads((run / "summary.json").read_text())["shared"]
    assert shared["members"] == ["a", "b", "c"] and "best_member" in shared["for"] and shared["bytes_up"] > 0
    assert {row.model for row in Record(run).cases() if row.site == "u"} == {"best_member", "global"}
    assert fedlit("evaluate", run, "prediction=[best_member]", "share_personal=true") == 0
    again = json.loads((run / "summary.json").read_text())["shared"]
    assert again == shared, "what the server has is not sent again"
    assert "Personal models shared" in (run / "report.html").read_text()
    assert fedlit("predict", run, image, "--out", tmp_path / "masks", "--model", "best_member") == 0
    assert fedlit("predict", run, image, "--out", tmp_path / "of_global", "--model", "global") == 0  # kept: the mean
    assert (tmp_path / "masks" / image.name).exists()


def test_an_unseen_site_whose_pictures_have_changed_is_scored_by_those_it_has(config_file, tmp_path, capsys):
    assert fedlit("run", config_file, "num_rounds=1") == 0
    run, new = tmp_path / "run", tmp_path / "new"
    new.mkdir()
    write_manifest(new, {"v": (1, 1, 2)})
    evaluate = ("evaluate", run, f"unseen_roots=[{new}]")
    assert fedlit(*evaluate, "prediction=test_time_augmentation") == 0
    lines = (new / "sites.csv").read_text().splitlines()
    (new / "sites.csv").write_text("\n".join(lines[:-1]) + "\n")
    capsys.readouterr()
    assert fedlit(*evaluate, "prediction=global") == 0
    told = "v had other cases when it was scored with test_time_augmentation: evaluate that again"
    assert told in capsys.readouterr().out
    cases = {model: {row.case for row in Record(run).cases() if (row.site, row.model) == ("v", model)}
             for model in ("global", "test_time_augmentation")}  # fmt: skip
    assert len(cases["global"]) == 3 and len(cases["test_time_augmentation"]) == 4
    assert fedlit(*evaluate, "prediction=test_time_augmentation") == 0
    assert "had other cases" not in capsys.readouterr().out


def test_a_site_that_has_grown_is_said_to_have_other_cases(config_file, tmp_path, capsys):
    assert fedlit("run", config_file, "num_rounds=1") == 0
    new = tmp_path / "new"
    new.mkdir()
    write_manifest(new, {"v": (1, 1, 2)})
    lines = (new / "sites.csv").read_text().splitlines()
    (new / "sites.csv").write_text("\n".join(lines[:-1]) + "\n")
    evaluate = ("evaluate", tmp_path / "run", f"unseen_roots=[{new}]")
    assert fedlit(*evaluate, "prediction=test_time_augmentation") == 0
    (new / "sites.csv").write_text("\n".join(lines) + "\n")
    assert fedlit(*evaluate, "prediction=global") == 0
    assert "v had other cases when it was scored with test_time_augmentation" in capsys.readouterr().out


def test_a_run_is_evaluated_on_its_own_data_and_by_its_own_rule(config_file, disc_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(disc_data, data)
    assert fedlit("run", config_file, "num_rounds=1", f"data.root={data}") == 0
    run = tmp_path / "run"
    before = {name: (run / name).read_bytes() for name in ("metrics.csv", "cases.csv", "summary.json")}
    assert fedlit("evaluate", run, f"data.root={disc_data}", "prediction=global") == 0, "the same elsewhere"
    mask = data / "mask_a_00.png"
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    capsys.readouterr()
    for words, told in (
        ([f"data.root={data}"], "the data have changed since"),
        (["metrics.surface_tolerance=8"], "it cannot change\n  metrics.surface_tolerance: "),
        (["metrics.empty_one=exclude"], "it cannot change\n  metrics.empty_one: "),
    ):
        assert fedlit("evaluate", run, *words, "prediction=[tent]") == 2
        assert told in capsys.readouterr().err
    assert {name: (run / name).read_bytes() for name in ("metrics.csv", "cases.csv")} == {
        name: before[name] for name in ("metrics.csv", "cases.csv")
    }
    assert fedlit("evaluate", run, f"data.root={disc_data}", "metrics.test=[dice,iou]", "prediction=global") == 0


def test_what_was_trained_on_is_not_unseen_elsewhere(config_file, disc_data, tmp_path, capsys):
    assert fedlit("run", config_file, "num_rounds=1") == 0
    new = tmp_path / "new"
    new.mkdir()
    write_manifest(new, {"v": (1, 1, 1)})
    copied, known = next(new.glob("v_*.png")), next(disc_data.glob("a_*.png"))
    shutil.copy(known, copied)
    words = ("evaluate", tmp_path / "run", f"unseen_roots=[{new}]")
    assert fedlit(*words) == 2
    told = capsys.readouterr().err
    assert f"unseen_roots: 1 pictures are there twice, such as {new / copied.name} (v, " in told
    assert f"which is {known} (a, " in told and "data.allow_duplicates=true" in told
    assert fedlit(*words, "data.allow_duplicates=true") == 0


def test_a_name_means_one_predictor_in_a_run(config_file, disc_data, tmp_path, capsys):
    assert fedlit("run", config_file, "num_rounds=1", "prediction=[tent]") == 0
    run = tmp_path / "run"
    before = [*Record(run).cases()]
    for name in ("tent", "sar"):
        assert fedlit("evaluate", run, f"prediction=[{name}]") == 0
        capsys.readouterr()
        assert fedlit("evaluate", run, f"prediction=[{name}]", f"prediction.{name}.adaptation.lr=0.5") == 2
        told = capsys.readouterr().err
        assert f"prediction.{name} is not what {run} was scored with under this name:\n" in told
        assert f"prediction={{my_{name}: {{_target_: fedlit.prediction.{name.upper()}, ...}}}}" in told
    assert {row for row in Record(run).cases() if row.model != "sar"} == set(before)
    fast = "{_target_: fedlit.prediction.TENT, adaptation: {_target_: fedlit.prediction.Adaptation, lr: 0.5}}"
    assert fedlit("evaluate", run, f"prediction={{fast: {fast}}}") == 0
    image = next(disc_data.glob("u_*.png"))
    assert fedlit("predict", run, image, "--out", tmp_path / "masks", "--model", "fast") == 0, "it is remembered"


def test_a_trial_has_one_result_in_a_run(config_file, tmp_path, capsys):
    """Candidates of one name are one predictor, also of two `chosen` that were asked for at different times."""
    assert fedlit("run", config_file, "num_rounds=1", "algorithm=iopfl") == 0

    def evaluate(name, candidate):
        candidates = f"{{global: {{_target_: {HOME}.Global}}, e: {{_target_: {HOME}.{candidate}}}}}"
        word = f"prediction={{{name}: {{_target_: {HOME}.Chosen, candidates: {candidates}}}}}"
        return fedlit("evaluate", tmp_path / "run", "share_personal=true", word)

    assert evaluate("first", "Ensemble") == 0
    before = load_experts(tmp_path / "run" / "experts", 1)
    assert evaluate("second", "TTA") == 2
    assert "candidates.e is set otherwise elsewhere" in capsys.readouterr().err
    after = load_experts(tmp_path / "run" / "experts", 1)
    assert {name: each.scalars for name, each in after.items()} == {name: each.scalars for name, each in before.items()}
    assert evaluate("second", "Ensemble") == 0


def test_sites_that_the_training_never_knew_can_be_evaluated(config_file, tmp_path, capsys):
    assert fedlit("run", config_file, "num_rounds=1") == 0
    for name in ("new", "clash"):
        (tmp_path / name).mkdir()
    write_manifest(tmp_path / "new", {"v": (1, 1, 1), "w": (0, 0, 2)})
    write_manifest(tmp_path / "clash", {"a": (1, 0, 0)})
    before = (tmp_path / "run" / "provenance.json").read_text()
    assert fedlit("evaluate", tmp_path / "run", f"unseen_roots=[{tmp_path / 'new'}]") == 0
    rows = [row for row in Record(tmp_path / "run").metrics() if row.split == "test" and row.metric == "dice"]
    assert {(row.site, row.role, row.num_cases) for row in rows if row.site in "vw"} == {
        ("v", "unseen", 3),
        ("w", "unseen", 2),
    }
    assert (tmp_path / "run" / "provenance.json").read_text() == before
    drawn = {path.name for path in (tmp_path / "run" / "pictures").iterdir()}
    assert any(name.startswith("global-v-") for name in drawn)
    assert fedlit("evaluate", tmp_path / "run", "prediction=global") == 0, "sites that are not at hand this time"
    assert {path.name for path in (tmp_path / "run" / "pictures").iterdir()} == drawn
    assert "global-v-" not in drawn and rows[0] in Record(tmp_path / "run").metrics()
    capsys.readouterr()
    assert fedlit("evaluate", tmp_path / "run", f"unseen_roots=[{tmp_path / 'clash'}]") == 2
    assert "has a site a, and so have the data" in capsys.readouterr().err
    shutil.copytree(tmp_path / "new", tmp_path / "copy")
    for roots, message in (
        (["absent"], "unseen_roots: {absent} is no folder; give one that holds sites.csv"),
        (["new", "new"], "unseen_roots: {new} is given twice"),
        (["new", "copy"], "unseen_roots: {copy} has a site v, and so has {new}"),
    ):
        paths = {name: tmp_path / name for name in roots}
        given = ",".join(str(paths[name]) for name in roots)
        assert fedlit("evaluate", tmp_path / "run", f"unseen_roots=[{given}]") == 2
        assert message.format(**paths) in capsys.readouterr().err
