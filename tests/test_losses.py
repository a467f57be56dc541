"""Laws of the losses: known values, other libraries' values, and the mean over pictures."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from fedlit.losses import (
    BCE,
    CrossEntropy,
    DiceBCE,
    DiceCE,
    DiceLoss,
    Focal,
    SoftDice,
    masks,
    overlaps,
    probabilities,
)

SIGMOID = [DiceLoss(), BCE(), BCE(pos_weight=2.0), DiceBCE(), Focal(), Focal(alpha=None, gamma=0.5)]
SOFTMAX = [DiceLoss(), DiceLoss(include_background=True), CrossEntropy(), DiceCE(), Focal(), SoftDice()]
ALL = [(loss, 0) for loss in SIGMOID] + [(loss, 1) for loss in SOFTMAX]
every_loss = pytest.mark.parametrize(("loss", "background"), ALL, ids=lambda value: repr(value))


def pictures(background, num=5, classes=2, size=12):
    """Random logits [B, K + background, H, W] and disjoint planes [B, K, H, W]."""
    random = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(num, classes + background, size, size, generator=random)
    labels = torch.randint(0, classes + 1, (num, size, size), generator=random)
    return logits, F.one_hot(labels, classes + 1).permute(0, 3, 1, 2)[:, 1:].float()


def confident(target, background, sign=1):
    planes = torch.cat([1 - target.sum(1, keepdim=True), target], 1) if background else target
    return sign * 40 * (2 * planes - 1)


@every_loss
def test_right_is_nothing_and_wrong_is_more(loss, background):
    _, target = pictures(background)
    assert loss(confident(target, background), target) == pytest.approx(0, abs=1e-5)
    assert loss(confident(target, background, sign=-1), target) > 0.3


@every_loss
def test_parts_of_a_batch_weighted_by_share_are_the_batch(loss, background):
    logits, target = pictures(background)
    whole = loss(logits, target)
    parts = 2 / 5 * loss(logits[:2], target[:2]) + 3 / 5 * loss(logits[2:], target[2:])
    assert torch.isclose(whole, parts, rtol=1e-6, atol=0) == loss.is_mean_over_pictures


@every_loss
def test_bf16_logits_are_scored_in_float32(loss, background):
    logits, target = pictures(background)
    logits = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, target)
    assert value.dtype == torch.float32 and value.shape == ()
    torch.testing.assert_close(value, loss(logits.float(), target), rtol=0, atol=0)
    assert loss(logits.double(), target).dtype == torch.float64


@every_loss
def test_gradients_are_finite_and_right(loss, background):
    logits, target = pictures(background, num=2, size=3)
    assert torch.autograd.gradcheck(loss, (logits.double().requires_grad_(), target.double()))
    extreme = confident(target, background).requires_grad_()
    loss(extreme, target).backward()
    assert extreme.grad.isfinite().all()


@every_loss
def test_empty_targets_are_learnt(loss, background):
    logits, target = pictures(background)
    logits.requires_grad_()
    value = loss(logits, torch.zeros_like(target))
    value.backward()
    assert value.isfinite() and logits.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", [CrossEntropy(), Focal(alpha=None, gamma=0.0)])
def test_a_softmax_learns_soft_labels_as_they_are(loss):
    """What a teacher is 60 % sure of is learnt to be 60 % sure, at the least loss."""
    target = torch.full((1, 1, 2, 2), 0.6)
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 1] = math.log(0.6 / 0.4)
    logits.requires_grad_()
    value = loss(logits, target)
    assert value.item() == pytest.approx(-(0.6 * math.log(0.6) + 0.4 * math.log(0.4)))
    value.backward()
    assert logits.grad.abs().max() < 1e-7


def test_cross_entropies_are_those_of_torch():
    logits, target = pictures(0)
    expected = F.binary_cross_entropy_with_logits(logits, target, pos_weight=torch.tensor(2.0))
    torch.testing.assert_close(BCE(pos_weight=2.0)(logits, target), expected)
    logits, target = pictures(1)
    labels = (target * torch.tensor([1, 2]).view(1, 2, 1, 1)).sum(1).long()
    torch.testing.assert_close(CrossEntropy()(logits, target), F.cross_entropy(logits, labels))


def test_focal_is_torchvisions_and_without_focus_cross_entropy():
    from torchvision.ops import sigmoid_focal_loss

    logits, target = pictures(0)
    for alpha, gamma in ((0.25, 2.0), (0.7, 1.0), (0.5, 0.0)):
        expected = sigmoid_focal_loss(logits, target, alpha=alpha, gamma=gamma, reduction="mean")
        torch.testing.assert_close(Focal(alpha=alpha, gamma=gamma)(logits, target), expected)
    torch.testing.assert_close(Focal(alpha=None, gamma=0.0)(logits, target), BCE()(logits, target))
    logits, target = pictures(1)
    torch.testing.assert_close(Focal(alpha=None, gamma=0.0)(logits, target), CrossEntropy()(logits, target))


def test_two_softmax_logits_are_one_sigmoid_logit():
    logits, target = pictures(0, classes=1)
    pair = torch.cat([torch.zeros_like(logits), logits], 1)
    torch.testing.assert_close(CrossEntropy()(pair, target), BCE()(logits, target))
    torch.testing.assert_close(DiceCE()(pair, target), DiceBCE()(logits, target))
    torch.testing.assert_close(Focal()(pair, target), Focal()(logits, target))
    torch.testing.assert_close(probabilities(pair, 1), probabilities(logits, 1))
    assert torch.equal(masks(pair, 1), masks(logits, 1))


def test_dice_by_hand():
    target = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]], [[[0.0, 0.0, 0.0, 0.0]]]])
    logits = torch.tensor([[[[80.0, -80.0, 80.0, -80.0]]], [[[-80.0, -80.0, -80.0, -80.0]]]])
    assert DiceLoss(smooth=0.5)(logits, target).item() == pytest.approx((1 - 2.5 / 4.5 + 0) / 2)


def test_combinations_are_weighted_sums():
    logits, target = pictures(0)
    expected = 0.3 * DiceLoss(smooth=2.0)(logits, target) + 0.7 * BCE(pos_weight=3.0)(logits, target)
    mixed = DiceBCE(dice_weight=0.3, bce_weight=0.7, smooth=2.0, pos_weight=3.0)
    torch.testing.assert_close(mixed(logits, target), expected)
    logits, target = pictures(1)
    expected = 0.3 * DiceLoss(include_background=True)(logits, target) + 0.7 * CrossEntropy()(logits, target)
    mixed = DiceCE(dice_weight=0.3, ce_weight=0.7, include_background=True)
    torch.testing.assert_close(mixed(logits, target), expected)


def test_soft_dice_is_the_published_one():
    golden = load_file(Path(__file__).parent / "golden" / "iopfl_losses.safetensors")
    assert SoftDice()(golden["logits"], golden["mask"]).item() == pytest.approx(0.551456093788147, abs=1e-6)


def test_soft_dice_of_one_picture_is_dice_with_background():
    logits, target = pictures(1, num=1)
    dice = DiceLoss(smooth=1e-5, include_background=True)
    torch.testing.assert_close(SoftDice()(logits, target), dice(logits, target))


def test_masks_are_the_probable_pixels():
    logits, _ = pictures(0)
    assert torch.equal(masks(logits, 2), probabilities(logits, 2) > 0.5)
    assert probabilities(logits.bfloat16(), 2).dtype == torch.float32
    logits, _ = pictures(1)
    found = masks(logits, 2)
    assert found.dtype == torch.bool and found.shape == (5, 2, 12, 12) and found.sum(1).max() == 1
    assert torch.equal(found.int().argmax(1) + found.any(1), logits.argmax(1))
    assert not masks(torch.zeros(1, 3, 2, 2), 2).any()  # a tie is background


def test_other_channel_counts_are_refused():
    logits, target = pictures(1)
    for use in (lambda: DiceLoss()(logits, target[:, :1]), lambda: masks(logits, 4), lambda: probabilities(logits, 1)):
        with pytest.raises(ValueError, match=r"3 logits for \d foreground classes: use \d \(sigmoid\) or \d \(softmax"):
            use()


@pytest.mark.parametrize("loss", [BCE(), DiceBCE()])
def test_sigmoid_losses_refuse_softmax_logits(loss):
    with pytest.raises(ValueError, match="use CrossEntropy or DiceCE"):
        loss(*pictures(1))


@pytest.mark.parametrize("loss", [CrossEntropy(), DiceCE(), SoftDice(), DiceLoss(include_background=True)])
def test_softmax_losses_refuse_sigmoid_logits(loss):
    with pytest.raises(ValueError, match="needs a background logit"):
        loss(*pictures(0))


def test_softmax_refuses_planes_that_overlap():
    logits, target = pictures(1)
    with pytest.raises(ValueError, match="do not overlap"):
        CrossEntropy()(logits, torch.ones_like(target))


@pytest.mark.parametrize("shape", [(5, 2, 12, 11), (4, 2, 12, 12), (5, 2, 12), (5, 2, 1, 12)])
def test_other_shapes_are_refused(shape):
    logits, _ = pictures(0)
    with pytest.raises(ValueError, match="do not fit"):
        BCE()(logits, torch.zeros(shape))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: BCE(pos_weight=-1.0), "BCE: pos_weight=-1.0"),
        (lambda: DiceLoss(smooth=math.nan), "DiceLoss: smooth=nan"),
        (lambda: DiceCE(ce_weight="1"), "DiceCE: ce_weight='1'"),
        (lambda: Focal(alpha=1.5), "Focal: alpha=1.5"),
    ],
)
def test_wrong_hyper_parameters_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_losses_are_values():
    assert DiceBCE(smooth=2.0) == DiceBCE(smooth=2.0) != DiceBCE()
    assert repr(BCE()) == "BCE(pos_weight=1.0)"
    with pytest.raises(FrozenInstanceError):
        BCE().pos_weight = 2.0


def test_overlaps_count_pixels_of_masks():
    target = torch.zeros(2, 2, 2, 2)
    target[0, 0, 0] = target[1] = 1
    logits = torch.full((2, 2, 2, 2), -1.0)
    logits[0, 0, 0, 0] = logits[1, 0] = 0.1
    assert overlaps(logits, target).tolist() == [[[2, 3], [0, 0]], [[8, 8], [0, 4]]]
