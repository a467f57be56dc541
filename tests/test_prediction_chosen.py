"""Laws of the choice among predictors: by the members alone, each left out in turn, and never by the unseen site."""

from __future__ import annotations

import dataclasses
import html
import json

import pytest
import torch

from fedlit.algorithms import Local
from fedlit.data.pictures import Unlabelled
from fedlit.errors import BadInput
from fedlit.judging import candidates_of
from fedlit.messages import Expert
from fedlit.metrics import Scoring
from fedlit.prediction import (
    TENT,
    TTA,
    AdaBN,
    BestMember,
    Chosen,
    Ensemble,
    Global,
    NearestMember,
    Personal,
    Predictor,
    Routing,
)
from fedlit.prediction.adaptation import Adaptation
from fedlit.prediction.told import dice_at, trial_of
from fedlit.sharing import bytes_shared, share
from tests.conftest import fedlit, make_federation, make_site, run_rounds, write_manifest
from tests.unseen_site import at_unseen_site, experts_of, predicted, unlabelled

OPTIONS = {"scoring": Scoring(), "classes": ("disc",)}


def tried(**dice) -> dict[str, Expert]:
    """Three members, and the Dice of each candidate at each of them; None where it was not tried."""
    members = experts_of(at_unseen_site().network, "abc")
    return {
        member: dataclasses.replace(
            expert,
            scalars={trial_of(name): values[place] for name, values in dice.items() if values[place] is not None},
        )
        for place, (member, expert) in enumerate(members.items())
    }


@pytest.mark.parametrize(
    ("trials", "wanted"),
    [
        ({"global": (0.5, 0.6, 0.7), "ensemble": (0.9, 0.6, 0.4)}, "ensemble"),  # the mean, not the most wins
        ({"global": (0.5, 0.5, 0.5), "ensemble": (0.5, 0.5, 0.5)}, "global"),  # the first of equal ones
        ({"global": (0.9, 0.5, None), "ensemble": (0.6, 0.7, 0.9)}, "global"),  # of those who tried all
    ],
)
def test_what_does_best_at_the_members_is_used_and_what_it_says_is_not_changed(trials, wanted):
    candidates = {"global": Global(), "ensemble": Ensemble()}
    learnt, images = at_unseen_site(experts=tried(**trials)), unlabelled()
    chosen = Chosen(candidates)
    assert chosen.choose(learnt.experts).name == wanted
    found = predicted(chosen.prepare(learnt, images), images)
    other = next(name for name in candidates if name != wanted)
    assert torch.equal(found, predicted(candidates[wanted].prepare(learnt, images), images))
    assert not torch.equal(found, predicted(candidates[other].prepare(learnt, images), images))
    assert str(chosen.choose(learnt.experts)).startswith(f"{wanted}; Dice at members left out in turn: global 0.")


def test_one_member_alone_can_try_nothing_and_the_first_is_used():
    learnt = at_unseen_site(experts=experts_of(at_unseen_site().network, "a"))
    choice = Chosen().choose(learnt.experts)
    assert choice == ("global", {}) and "only one shares a model" in str(choice)


def test_several_members_that_have_tried_nothing_are_an_error():
    learnt = at_unseen_site(experts=experts_of(at_unseen_site().network, "ab"))
    with pytest.raises(BadInput, match="no member shares trials of global, test_time_augmentation, nearest_member"):
        Chosen().prepare(learnt, unlabelled())


@pytest.mark.parametrize(
    ("candidates", "told"),
    [
        ({"global": Global()}, "there is nothing to choose"),
        ({"global": Global(), "own": Personal()}, "candidates.own: Personal cannot be tried"),
        ({"global": Global(), "again": Chosen()}, "candidates.again: Chosen cannot be tried"),
        ({"global": Global(), "text": "routing"}, "candidates.text='routing' is no predictor"),
    ],
)
def test_what_cannot_be_tried_is_refused(candidates, told):
    with pytest.raises(ValueError, match=told):
        Chosen(candidates)


def test_it_needs_what_its_candidates_need():
    assert Chosen().needs == ("weights", "features", "trials")
    assert Chosen({"global": Global(), "best": BestMember(), "tta": TTA()}).needs == ("weights", "scores", "trials")


def test_one_name_means_one_candidate():
    same = {"one": Chosen(), "two": Chosen(), "global": Global()}
    assert candidates_of(same) == dict(Chosen().candidates)
    other = Chosen({"global": Global(), "routing": Routing(anchor=0.1)})
    with pytest.raises(BadInput, match=r"prediction\.two\.candidates\.routing is set otherwise elsewhere"):
        candidates_of({"one": Chosen(), "two": other})


@dataclasses.dataclass(frozen=True)
class Noting(Predictor):
    """The global model; what it was given is noted."""

    seen: list = dataclasses.field(default_factory=list)

    def prepare(self, learnt, images):
        self.seen.append(
            (learnt.site, sorted(learnt.experts), dict(learnt.memory), len(images), isinstance(images, Unlabelled))
        )
        learnt.resident.load(learnt.server.weights)
        return learnt.network


@pytest.fixture
def trained(sites):
    federation, server = make_federation(sites)
    return federation, run_rounds(federation, server, 1, Local())


def test_a_member_is_tried_at_as_if_it_were_unseen(trained):
    """Without its own model and memory, on training pictures whose masks cannot be had, scored by validation cases."""
    federation, server = trained
    noting, names = Noting(), sorted(federation.fleet.members)
    candidates = {"global": Global(), "noting": noting, "ensemble": Ensemble()}
    experts = share(federation, server, {"weights", "trials"}, candidates=candidates, **OPTIONS)
    for name, (site, others, memory, count, is_unlabelled) in zip(names, noting.seen, strict=True):
        assert site == name and others == [other for other in names if other != name]
        assert not memory and is_unlabelled and count == len(federation.sites[name].train)
    assert federation.fleet.memories["a"], "which was there to be seen"
    without_a = {name: expert for name, expert in experts.items() if name != "a"}
    at_members = type("AtMembers", (Ensemble,), {"roles": ("member",)})()
    by_hand = federation.score(
        {"ensemble": at_members}, server, metrics=["dice"], split="val", names=["a"], experts=without_a, **OPTIONS
    ).cases
    wanted = sum(row.value for row in by_hand) / len(by_hand)
    assert experts["a"].scalars[trial_of("ensemble")] == pytest.approx(wanted)
    for expert in experts.values():
        assert expert.scalars[trial_of("global")] == expert.scalars[trial_of("noting")]
    up, down = bytes_shared(experts)
    assert down == (len(names) - 1) * up > 0


def test_a_member_without_validation_cases_tries_nothing(sites):
    sites = [
        dataclasses.replace(site, val=make_site("none", (2, 0, 0)).val) if site.name == "b" else site for site in sites
    ]
    federation, server = make_federation(sites)
    server = run_rounds(federation, server, 1, Local())
    experts = share(federation, server, {"weights", "trials"}, candidates={"g": Global(), "e": Ensemble()}, **OPTIONS)
    assert not experts["b"].scalars and set(experts["a"].scalars) == {trial_of("g"), trial_of("e")}


def test_what_a_member_says_of_models_is_not_told_where_it_is_left_out(trained):
    """Else the best one of others would be chosen by the cases that it is scored by."""
    federation, server = trained
    told = []

    @dataclasses.dataclass(frozen=True)
    class Listening(BestMember):
        def prepare(self, learnt, images):
            told.append({name: sorted(expert.scalars) for name, expert in learnt.experts.items()})
            return super().prepare(learnt, images)

    candidates = {"global": Global(), "best": Listening()}
    experts = share(federation, server, {"weights", "scores", "trials"}, candidates=candidates, **OPTIONS)
    judges = [dice_at(name) for name in "abc"]
    for name, heard in zip("abc", told, strict=True):
        others = [judge for judge in judges if judge != dice_at(name)]
        assert heard == {other: others for other in "abc" if other != name}
    assert all({*judges} < expert.scalars.keys() for expert in experts.values())


def test_what_no_member_can_try_is_not_chosen(trained):
    """AdaBN has no model where there is no BatchNorm."""
    federation, server = trained
    warned = []
    federation.fleet.watch.warn = warned.append
    candidates = {"adabn": AdaBN(), "global": Global(), "tta": TTA()}
    experts = share(federation, server, {"weights", "trials"}, candidates=candidates, **OPTIONS)
    choice = Chosen(candidates).choose(experts)
    assert choice.dice.keys() == {"global", "tta"} and choice.name in choice.dice
    assert "there is no adabn model for a: it is not scored there" in warned


def test_what_fails_in_a_trial_is_named(trained):
    """Of one training picture none can be held back."""
    federation, server = trained
    few = dataclasses.replace(federation.sites["b"], train=make_site("b", (1, 0, 0)).train)
    federation = dataclasses.replace(federation, sites={**federation.sites, "b": few})
    candidates = {"global": Global(), "tent": TENT(adaptation=Adaptation(lr=1e-3, held_back=0.5))}
    with pytest.raises(
        BadInput, match=r"^TENT cannot be tried at b as if that were unseen: .*; or leave it out of the"
    ):
        share(federation, server, {"weights", "trials"}, candidates=candidates, **OPTIONS)


def test_models_at_work_are_left_as_they_were(trained):
    """Nothing that a trial does reaches the next prediction."""
    federation, server = trained
    candidates = {"global": Global(), "nearest": NearestMember(), "routing": Routing()}
    needs = {"weights", "features", "trials"}
    one = share(federation, server, needs, candidates=candidates, **OPTIONS)
    two = share(federation, server, needs, candidates=candidates, **OPTIONS)
    assert {name: expert.scalars for name, expert in one.items()} == {name: each.scalars for name, each in two.items()}


def test_a_run_chooses_says_so_and_predicts_by_its_choice(config_file, disc_data, tmp_path, capsys):
    words = ["algorithm=iopfl", "share_personal=true", "prediction=[chosen,test_time_augmentation,ensemble]"]
    assert fedlit("run", config_file, "num_rounds=2", *words) == 0
    run = tmp_path / "run"
    (said,) = {line for line in (run / "log.txt").read_text().splitlines() if "chosen is" in line}
    name = said.partition("chosen is ")[2].partition(";")[0]
    shared = json.loads((run / "summary.json").read_text())["shared"]
    assert {"weights", "features", "trials"} <= set(shared["what"]) and shared["bytes_down"] > 0
    assert said.endswith(f"chosen is {shared['choices']['chosen']}")
    assert shared["choices"]["chosen"] in html.unescape((run / "report.html").read_text())
    scores = [line.split(",") for line in (run / "cases.csv").read_text().splitlines()]
    at = {model: [row[-1] for row in scores if model in row and "test" in row] for model in ("chosen", "global", name)}
    assert at["chosen"] and (
        name not in ("global", "test_time_augmentation") or at["chosen"] == at[name][-len(at["chosen"]) :]
    )
    image = next(disc_data.glob("u_*.png"))
    assert fedlit("predict", run, image, "--out", tmp_path / "found", "--model", "chosen") == 0


def test_a_choice_that_nobody_can_make_is_refused_before_training(config_file, tmp_path, capsys):
    (tmp_path / "few").mkdir()
    data = write_manifest(tmp_path / "few", {"a": (3, 0, 1), "b": (3, 0, 1), "u": (0, 0, 1)})
    words = [f"data.root={data}", "algorithm=iopfl", "share_personal=true", "prediction=[chosen]"]
    assert fedlit("check", config_file, *words) == 2
    assert "prediction.chosen: it is chosen by validation cases, and no member has any" in capsys.readouterr().err
    data = write_manifest(tmp_path / "few", {"a": (3, 1, 1), "b": (3, 0, 1), "u": (0, 0, 1)})
    assert fedlit("check", config_file, *words) == 0, "what is tried at one alone needs no other"
    capsys.readouterr()
    best = "prediction.chosen.candidates.best_member={_target_: fedlit.prediction.BestMember}"
    assert fedlit("check", config_file, *words, best) == 2
    assert "none of the member that is left out in turn, and only a has any" in capsys.readouterr().err
    nodes = ", ".join(
        f"{name}: {{_target_: fedlit.prediction.{kind}}}" for name, kind in (("global", "TTA"), ("b", "Ensemble"))
    )
    twice = f"prediction.other={{_target_: fedlit.prediction.Chosen, candidates: {{{nodes}}}}}"
    words = ["algorithm=iopfl", "share_personal=true", "prediction=[chosen]", twice]
    assert fedlit("check", config_file, *words) == 2
    assert "candidates.global is set otherwise elsewhere" in capsys.readouterr().err
