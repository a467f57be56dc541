"""Values of what predictions say about themselves."""

import math

import pytest
import torch

from fedlit.prediction.unsupervised import entropy


def test_entropy_has_its_values_and_its_range():
    unsure, sure = torch.zeros(1, 2, 1, 1), torch.full((1, 2, 1, 1), 200.0)
    assert entropy(unsure, 2).item() == pytest.approx(1) and entropy(sure, 2).item() == 0
    probability = torch.tensor([0.2, 0.7])
    wanted = [-(p * math.log2(p) + (1 - p) * math.log2(1 - p)) for p in (0.2, 0.7)]
    assert entropy(probability.logit().view(1, 2, 1, 1), 2).item() == pytest.approx(sum(wanted) / 2)
    classes = torch.tensor([0.5, 0.25, 0.25]).log().view(1, 3, 1, 1)
    assert entropy(classes, 2).item() == pytest.approx(1.5 / math.log2(3))
    assert entropy(torch.zeros(2, 3, 4, 5, dtype=torch.bfloat16), 2).dtype == torch.float32


def test_entropy_has_a_gradient_everywhere():
    logits = torch.tensor([-1e4, -3.0, 0.0, 3.0, 1e4]).view(1, 1, 1, 5).requires_grad_()
    entropy(logits, 1).sum().backward()
    # of log(1 + e^z) - z s(z), s the sigmoid: -z s (1 - s)
    flat = logits.detach().flatten()
    wanted = -flat * flat.sigmoid() * (1 - flat.sigmoid()) / math.log(2)
    torch.testing.assert_close(logits.grad.flatten(), wanted)
