"""Values of what predictions say about themselves."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from fedlit.prediction import Unsupervised
from fedlit.prediction.unsupervised import (
    Tones,
    View,
    entropy,
    entropy_as_released,
    inconsistency,
    roughness,
    roughness_as_released,
)

GOLDEN = Path(__file__).parent / "golden"


def test_the_published_terms_are_the_published_ones():
    golden = load_file(GOLDEN / "iopfl_losses.safetensors")
    logits, others = golden["logits"], golden["logits_augmented"]
    assert entropy(logits, 1).mean().item() == pytest.approx(0.3965360224246979, abs=1e-5)
    assert entropy_as_released(logits, 1).item() == pytest.approx(0.793071985244751, abs=1e-5)
    assert inconsistency(logits, others, 1).item() == pytest.approx(0.02634059451520443, abs=1e-5)
    assert roughness_as_released(logits, 1).item() == pytest.approx(9.599744225852191e-05, rel=1e-5)


@pytest.mark.parametrize(("shape", "count"), [((2, 1, 6, 6), 7), ((2, 1, 6, 8), 3)])
def test_every_view_is_undone_and_none_is_the_picture(shape, count):
    planes = torch.rand(shape)
    views = {View.drawn(shape, torch.Generator().manual_seed(seed)) for seed in range(200)}
    assert len(views) == count
    for view in views:
        assert torch.equal(view.back(view.of(planes)), planes) and not torch.equal(view.of(planes), planes)


def test_roughness_is_the_largest_difference_nearby():
    logits = torch.full((1, 1, 9, 9), -100.0)
    logits[..., 4, 4] = 100.0
    wanted = F.pad(torch.ones(3, 3), (3, 3, 3, 3))
    torch.testing.assert_close(roughness(logits, 1, side=3)[0, 0], wanted)
    assert roughness(torch.full((1, 1, 9, 9), 100.0), 1).max() == 0
    softmax = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(roughness(softmax, 1, side=3), roughness(logits, 1, side=3))


def steady(images):
    """A model of which a turned picture has the turned prediction."""
    return 4 * images - 2


def test_what_turns_with_the_picture_is_consistent():
    images = torch.rand(3, 1, 8, 8)
    still = Unsupervised(noise=0)
    assert still(steady, images, 0, 1).item() == pytest.approx(0, abs=1e-12)
    upright = torch.linspace(-2, 2, 8).view(8, 1) + torch.linspace(-2, 2, 8) ** 3
    assert still(lambda x: x + upright, images, 0, 1) > 0.01
    grainy = Unsupervised(noise=0.1)
    assert grainy(steady, images, 0, 1) == grainy(steady, images, 0, 1) != grainy(steady, images, 1, 1)


@pytest.mark.parametrize("num_classes", [1, 2])
def test_the_objective_is_the_sum_of_its_terms(num_classes):
    images = torch.rand(3, 2, 8, 8)
    weights = dict(entropy=2.0, consistency=3.0, shape=4.0, agreement=5.0)

    def value(**chosen):
        return Unsupervised(**{**dict.fromkeys(weights, 0.0), **chosen})(
            steady, images, 5, num_classes, teacher=lambda pictures: 1 - steady(pictures)
        )

    parts = {name: value(**{name: 1.0}) for name in weights}
    torch.testing.assert_close(value(**weights), sum(weights[name] * parts[name] for name in weights))
    assert all(part > 1e-4 for part in parts.values())
    torch.testing.assert_close(parts["entropy"], entropy(steady(images), num_classes).mean())


def test_in_another_tone_a_picture_stays_where_it_is():
    images = torch.rand(3, 2, 8, 8)
    tones = Tones(noise=0)
    toned = tones.of(images, 1)
    assert torch.equal(toned, tones.of(images, 1)) and not torch.equal(toned, tones.of(images, 2))
    assert toned.min() >= 0 and toned.max() <= 1 and (toned - images).abs().max() < 0.5
    order = images.flatten(1).argsort(1)
    assert (toned.flatten(1).gather(1, order).diff(dim=1) >= 0).all()  # what was brighter is no darker
    assert torch.equal(Tones(gamma=1, contrast=0, brightness=0, noise=0).of(images, 1), images)
    assert (Tones(gamma=1, contrast=0, brightness=0, noise=0.2).of(images, 1) - images).std() > 0.15
    with pytest.raises(ValueError, match=r"gamma=0\.5 is not allowed; use a number from 1, below inf"):
        Tones(gamma=0.5)


def test_agreement_is_with_what_the_teacher_says_of_the_picture_as_it_is():
    images = torch.rand(3, 1, 8, 8)
    agreement = Unsupervised(agreement=1, consistency=0, tones=Tones(gamma=1, contrast=0, brightness=0, noise=0))
    assert agreement(steady, images, 0, 1, teacher=steady).item() == pytest.approx(0, abs=1e-12)
    assert agreement(steady, images, 0, 1, teacher=lambda pictures: -steady(pictures)) > 0.1
    assert Unsupervised(agreement=1, consistency=0)(steady, images, 0, 1, teacher=steady) > 1e-4


def test_a_batch_is_no_more_than_its_pictures_but_as_released():
    images = torch.rand(2, 2, 8, 8)
    for released, ratio in ((False, 1), (True, 2)):
        unsure = Unsupervised(entropy=1, consistency=0, as_released=released)
        one, two = (unsure(steady, batch, 0, 1).item() for batch in (images, images.repeat(2, 1, 1, 1)))
        assert two == pytest.approx(ratio * one)


def test_nothing_but_background_has_a_finite_gradient():
    logits = torch.full((2, 1, 32, 32), -200.0, requires_grad=True)
    for released in (False, True):
        Unsupervised(1, 1, 1, 1, as_released=released)(
            lambda x: logits + 0 * x, torch.zeros(2, 1, 32, 32), 0, 1, teacher=lambda x: logits + 0 * x
        ).backward()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(entropy=-1.0), "entropy=-1.0 is not allowed; use 0 or more"),
        (dict(noise=float("nan")), "noise=nan is not allowed"),
        (dict(consistency=0.0), "nothing to adapt by; weigh one"),
    ],
)
def test_wrong_weights_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Unsupervised(**arguments)


def test_as_released_a_sigmoid_weighs_what_a_softmax_of_two_does():
    logits = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    torch.testing.assert_close(entropy_as_released(logits, 1), entropy_as_released(two, 1))
