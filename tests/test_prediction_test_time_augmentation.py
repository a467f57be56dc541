"""Laws of views: each is mapped back, none counts twice, and one view is the global model."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedlit.prediction import TTA
from tests.conftest import make_network
from tests.unseen_site import at_unseen_site, everything, predicted, state, unlabelled


def test_views_are_the_symmetries_asked_for():
    assert [len(TTA(*given).views()) for given in (([],), (["horizontal"],), (["horizontal", "vertical"],))] == [
        1,
        2,
        4,
    ]
    every = TTA(["horizontal", "vertical"], True)
    assert len(every.views()) == 8 and len(TTA([], True).views()) == 4
    picture = torch.arange(9).view(1, 1, 3, 3)
    seen = {tuple(torch.rot90(picture.flip(axes), turns, (-2, -1)).flatten().tolist()) for axes, turns in every.views()}
    assert len(seen) == 8


def test_one_view_is_the_global_model():
    images, learnt = unlabelled(), at_unseen_site()
    plain = predicted(learnt.network, images)
    torch.testing.assert_close(predicted(TTA(flips=()).prepare(learnt, None), images), plain)


@pytest.mark.parametrize("tta", [TTA(), TTA(["horizontal", "vertical"]), TTA(["horizontal", "vertical"], True)])
def test_a_network_that_treats_all_places_alike_gains_nothing(tta):
    """Every view is mapped back to its place, also where height and width differ."""
    learnt = at_unseen_site(nn.Sequential(nn.Conv2d(1, 1, 1)))
    model = tta.prepare(learnt, None)
    with torch.inference_mode():
        images = torch.rand(2, 1, 5, 8)
        torch.testing.assert_close(model(images), learnt.network(images))


def test_a_prediction_turns_with_its_picture():
    images, learnt = everything(unlabelled()), at_unseen_site()
    model = TTA(["horizontal", "vertical"], True).prepare(learnt, None)
    with torch.inference_mode():
        torch.testing.assert_close(model(images).flip(-1).rot90(1, (-2, -1)), model(images.flip(-1).rot90(1, (-2, -1))))
        plain = learnt.network
        assert not torch.allclose(plain(images).flip(-1), plain(images.flip(-1)), atol=1e-3)


def test_it_is_the_mean_probability_over_views():
    images, learnt = unlabelled(), at_unseen_site()
    given = everything(images)
    with torch.inference_mode():
        both = (learnt.network(given).sigmoid() + learnt.network(given.flip(-1)).flip(-1).sigmoid()) / 2
    before = state(learnt)
    torch.testing.assert_close(predicted(TTA().prepare(learnt, None), images).sigmoid(), both)
    assert state(learnt) == before


def test_where_there_is_none_and_what_is_refused():
    assert TTA().prepare(replace(at_unseen_site(make_network()), kept=("*norm*",)), None) is None
    with pytest.raises(ValueError, match="flips: 'diagonal' is not allowed; use some of horizontal, vertical"):
        TTA(["diagonal"])
