"""Laws of adapting: addressed, bound to the network's own copy, blind to labels; what is refused and how."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlit.data.pictures import Pictures
from fedlit.errors import BadInput, ClientFailed
from fedlit.prediction import Adaptation
from fedlit.prediction.learner import batches
from tests.conftest import discs, make_network
from tests.unseen_site import at_unseen_site, everything, predicted, unlabelled, volumes


def adapted(adaptation, images, learnt=None, *, dropout=False, objective=None):
    """A model whose head has adapted, and its network. The objective pulls probabilities to 1."""
    learnt = learnt or at_unseen_site(make_network(dropout=0.5 if dropout else 0))
    network = learnt.copy(learnt.server.weights)
    network.head.requires_grad_(True)
    network.dropout.train(dropout)
    objective = objective or (lambda model, images, seed: -model(images).sigmoid().mean())
    return adaptation.adapt(learnt, network, images, objective), network


def test_it_does_what_the_objective_says_to_what_requires_a_gradient():
    images, learnt = unlabelled(), at_unseen_site()
    model, network = adapted(Adaptation(lr=0.01), images, learnt)
    assert predicted(model, images).mean() > predicted(learnt.network, images).mean() + 0.05
    first = learnt.server.weights
    changed = {name for name, value in network.named_parameters() if not torch.equal(value, first[name])}
    assert changed == {"head.weight", "head.bias"}
    assert not network.training and torch.equal(learnt.resident.read()["head.weight"], first["head.weight"])


@pytest.mark.parametrize("adaptation", [Adaptation(passes=0), Adaptation(lr=0.0), Adaptation("online", lr=0.0)])
def test_adapting_not_at_all_changes_no_bit(adaptation):
    images, learnt = unlabelled(), at_unseen_site()
    before = predicted(learnt.network, images)
    model, _ = adapted(adaptation, images, learnt)
    assert torch.equal(predicted(model, images), before)


@pytest.mark.parametrize("adaptation", [Adaptation(passes=2), Adaptation("online", passes=2)])
def test_the_same_again_is_the_same_bit_for_bit(adaptation):
    """With dropout and a global stream that has gone on; another seed or site draws something else."""
    images = unlabelled()

    def run(**options):
        torch.rand(7)
        learnt = at_unseen_site(make_network(dropout=0.5), **options)
        return predicted(adapted(adaptation, images, learnt, dropout=True)[0], images)

    assert torch.equal(run(), run())
    assert not torch.equal(run(), run(seed=1)) and not torch.equal(run(), run(site="v"))


def test_dropout_is_off_when_it_predicts():
    images = unlabelled()
    for adaptation in (Adaptation(passes=1), Adaptation("online", passes=0)):
        model, _ = adapted(adaptation, images, dropout=True)
        assert torch.equal(predicted(model, images), predicted(model, images))


def test_the_order_of_cases_is_irrelevant():
    images, masks = discs(7, seed=5)
    ids = [f"case{number}" for number in range(7)]
    forwards, backwards = (
        Pictures.from_arrays(images[::way], masks[::way], np.array([[0, 1]]), ids=ids[::way]).unlabelled()
        for way in (1, -1)
    )
    backwards.cases = backwards.cases[::-1]
    adaptation = Adaptation(passes=2, held_back=0.3)
    one, other = (adapted(adaptation, given)[1].head.weight for given in (forwards, backwards))
    assert torch.equal(one, other)


def test_seeds_are_addressed_by_pass_and_batch():
    seeds = []

    def objective(model, images, seed):
        seeds.append(seed)
        return model(images).mean()

    adapted(Adaptation(passes=3), unlabelled(8), objective=objective)
    assert len(seeds) == len(set(seeds)) == 6
    again, seeds = seeds, []
    adapted(Adaptation(passes=1), unlabelled(8), objective=objective)
    assert seeds == again[:2]


def test_it_stops_after_so_many_steps_also_within_a_pass():
    """As many as there are in whole passes are these passes; more change nothing; held-back pictures have their say."""
    images = unlabelled(8)
    whole, cut, enough, early = (
        adapted(adaptation, images)[1].head.weight
        for adaptation in (
            Adaptation(passes=2),
            Adaptation(passes=5, max_steps=4),
            Adaptation(passes=2, max_steps=9),
            Adaptation(passes=2, max_steps=3),
        )
    )
    assert torch.equal(whole, cut) and torch.equal(whole, enough) and not torch.equal(whole, early)
    start = predicted(at_unseen_site().network, images).sigmoid().mean().item()
    calls = []

    def passing(model, images, seed):
        calls.append(torch.is_grad_enabled())
        return Twisted(start + 0.05)(model, images, seed)

    adapted(Adaptation(passes=50, lr=0.01, held_back=0.3, max_steps=7), images, objective=passing)
    assert sum(calls) == 7 and not calls[-1], "the last, cut pass is judged too"


def test_batches_are_even_whole_and_shuffled_by_a_seed():
    images = unlabelled(9)
    assert [len(batch) for batch in batches(images, 8)] == [4, 5]
    assert [index for batch in batches(images, 4) for index in batch] == list(range(9))
    shuffled = [index for batch in batches(images, 4, seed=1) for index in batch]
    assert shuffled != list(range(9)) and sorted(shuffled) == list(range(9))
    stacks = volumes((5, 2))
    stacks.size = None
    assert batches(stacks, 3) == [[0, 1], [2, 3, 4], [5, 6]]
    assert {frozenset(batch) & {5, 6} for batch in batches(stacks, 3, seed=1)} == {frozenset(), frozenset({5, 6})}


def test_pictures_of_different_sizes_adapt_one_by_one():
    small, large = (Pictures.from_arrays(*discs(2, 1, size), np.array([[0, 1]]), name=str(size)) for size in (32, 48))
    images = Pictures.pooled([small, large]).unlabelled()
    seen = []

    def objective(model, images, seed):
        seen.append(images.shape)
        return model(images).mean()

    adapted(Adaptation(passes=1), images, objective=objective)
    assert sorted(shape[-1] for shape in seen) == [32, 32, 48, 48] and {shape[0] for shape in seen} == {1}


def test_one_picture_is_enough():
    images = unlabelled(1)
    for adaptation in (Adaptation(passes=1), Adaptation("online", passes=1)):
        assert predicted(adapted(adaptation, images)[0], images).shape == (1, 1, 32, 32)


def test_online_before_predicts_the_first_batch_unadapted():
    images, learnt = unlabelled(), at_unseen_site()
    unadapted = predicted(learnt.network, images)
    model, _ = adapted(Adaptation("online", passes=2, predict="before"), images, learnt)
    first, second = predicted(model, images), predicted(model, images)
    assert torch.equal(first, unadapted) and second.mean() > first.mean()
    model, _ = adapted(Adaptation("online", passes=2), images)
    assert torch.equal(predicted(model, images), second)


def test_online_reset_forgets_and_carried_remembers():
    images, others = unlabelled(seed=1), unlabelled(seed=2)
    for state, forgets in (("reset", True), ("carried", False)):
        alone, _ = adapted(Adaptation("online", passes=2, state=state), images)
        after, _ = adapted(Adaptation("online", passes=2, state=state), images)
        predicted(after, others)
        assert torch.equal(predicted(alone, images), predicted(after, images)) == forgets


def test_online_leaves_the_callers_images_and_mode_alone():
    images = unlabelled()
    model, _ = adapted(Adaptation("online", passes=1), images)
    with torch.inference_mode():
        given = everything(images).clone()
        logits = model(given)
        assert torch.is_inference_mode_enabled() and torch.equal(given, everything(images))
    assert not logits.requires_grad and not model(everything(images)).requires_grad


class Twisted:
    """An objective that falls at first and then rises: the mean probability is pulled to a value it passes by."""

    def __init__(self, goal):
        self.goal = goal

    def __call__(self, model, images, seed):
        probability = model(images).sigmoid().mean()
        if torch.is_grad_enabled():
            return -probability
        return (probability - self.goal).abs()


def test_held_back_pictures_say_when_to_stop():
    """What was best on them is kept, not what came last; nothing is adapted where every pass makes it worse."""
    images, learnt = unlabelled(), at_unseen_site()
    start = predicted(learnt.network, images).sigmoid().mean().item()
    model, _ = adapted(Adaptation(passes=50, lr=0.01, held_back=0.3), images, objective=Twisted(start + 0.05))
    assert abs(predicted(model, images).sigmoid().mean() - start - 0.05) < 0.02
    far, _ = adapted(Adaptation(passes=50, lr=0.01), images, objective=Twisted(start + 0.05))
    assert predicted(far, images).sigmoid().mean() > start + 0.15
    calls = []

    def worse(model, images, seed):
        if torch.is_grad_enabled():
            calls.append(len(images))
        return -model(images).mean() if torch.is_grad_enabled() else model(images).mean()

    model, _ = adapted(Adaptation(passes=50, held_back=0.3, patience=2), images, objective=worse)
    assert torch.equal(predicted(model, images), predicted(learnt.network, images))
    assert len(calls) == 2 and set(calls) == {4}


def test_whole_cases_are_held_back():
    images, held = volumes((3, 2, 2)), set()

    def objective(model, images, seed):
        if not torch.is_grad_enabled():
            held.add(len(images))
        return model(images).mean()

    adapted(Adaptation(passes=1, held_back=0.1, batch_size=8), images, objective=objective)
    assert held in ({2}, {3})


@pytest.mark.parametrize("images", [None, unlabelled(0)])
def test_without_pictures_it_says_so(images):
    with pytest.raises(BadInput, match=r"u: what adapts to a site needs the site's pictures.*or use global"):
        adapted(Adaptation(), images)


def test_what_cannot_be_done_is_refused():
    with pytest.raises(BadInput, match=r"u: adaptation.held_back=0.5 needs at least 2 cases, and there is one"):
        adapted(Adaptation(held_back=0.5), unlabelled(1))
    with pytest.raises(
        ClientFailed, match=r"u: the objective of adaptation is NaN or Inf in pass 1; lower adaptation.lr"
    ):
        adapted(Adaptation(), unlabelled(), objective=lambda model, images, seed: model(images).mean() * torch.nan)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"protocol": "offline"}, "use one of transductive, online"),
        ({"passes": -1}, "whole number of at least 0"),
        ({"passes": 1.5}, "whole number of at least 0"),
        ({"max_steps": 0}, "whole number of at least 1"),
        ({"batch_size": 0}, "whole number of at least 1"),
        ({"patience": 0}, "whole number of at least 1"),
        ({"lr": -1.0}, "use 0 or more"),
        ({"held_back": 1.0}, "share of at least 0 and below 1"),
        ({"predict": "before"}, "choices of protocol=online"),
        ({"protocol": "online", "predict": "before", "state": "reset"}, "adapts for nothing; use predict=after"),
        ({"protocol": "online", "held_back": 0.2}, "needs the whole set"),
        ({"protocol": "online", "batch_size": 2}, "those of prediction; set it to null"),
        ({"protocol": "online", "max_steps": 2}, "each batch has its passes; set it to null"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(Adaptation(), **wrong)


def test_labels_are_out_of_reach():
    images = unlabelled()
    with pytest.raises(AssertionError, match="labels"):
        images.batch([0])
    assert not hasattr(images, "targets")
    adapted(Adaptation(passes=1), images)


def test_a_network_beside_the_resident_one_works_in_the_precision_of_the_run():
    """In bf16 the copy adapts under autocast, its parameters and gradients stay float32."""
    from tests.conftest import make_federation, make_site, make_world

    federation, server = make_federation([make_site("a")], world=make_world(precision="bf16-mixed"))
    learnt = federation.learnt(server, "a", num_classes=1)
    images = unlabelled()
    for adaptation in (Adaptation(passes=1), Adaptation("online", passes=1)):
        model, network = adapted(adaptation, images, learnt)
        assert predicted(model, images).dtype == torch.float32 and network.head.weight.dtype == torch.float32
        exact, _ = adapted(adaptation, images, replace(learnt, lend=lambda network: network))
        assert not torch.equal(predicted(model, images), predicted(exact, images))
        torch.testing.assert_close(predicted(model, images), predicted(exact, images), atol=0.05, rtol=0.05)
