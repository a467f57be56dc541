"""Paired tests and their correction, against a second implementation and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedlit.significance import holm, paired_p


def test_few_pairs_are_not_tested_and_equal_ones_not_different():
    assert paired_p([0.1] * 5) is None
    assert paired_p([0.0] * 8) == 1.0


def test_the_smallest_p_of_six_pairs_is_two_sign_patterns_of_all():
    assert paired_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 2**6)


def test_signs_that_are_mixed_evenly_say_nothing():
    differences = np.array([0.1, -0.1, 0.2, -0.2, 0.3, -0.3, 0.4, -0.4])
    assert paired_p(differences.tolist()) == pytest.approx(1.0)


def test_direction_does_not_matter():
    differences = np.random.default_rng(0).normal(0.3, 1, 20).tolist()
    assert paired_p(differences) == paired_p([-value for value in differences])


def test_holm_by_hand():
    """0.01 x 3, 0.02 x 2, then the larger of that and 0.03 x 1; what was not tested does not count."""
    found = holm({"a": 0.02, "b": 0.01, "c": 0.03, "d": None})
    assert found == {"a": pytest.approx(0.04), "b": pytest.approx(0.03), "c": pytest.approx(0.04), "d": None}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.3}) == {"a": 0.3}
