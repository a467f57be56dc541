"""Clipping volumes at their 99 % quantile is fast and gives the number of `np.quantile`, bit for bit."""

import numpy as np
import pytest

from fedlit.preparation import volumes
from fedlit.preparation.volumes import clipped_to_bytes

DRAWS = {
    "normal": lambda random, shape: 1000 * random.normal(size=shape),
    "mostly air": lambda random, shape: np.where(random.random(shape) < 0.995, 0, random.random(shape)),
    "sorted": lambda random, shape: np.sort(random.random(shape), axis=None).reshape(shape),
    "falling": lambda random, shape: -np.sort(random.random(shape), axis=None).reshape(shape),
    "few values": lambda random, shape: random.integers(0, 30, shape) + 0.5,
}


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("sample", [7, 1 << 16])
def test_floats_are_clipped_where_numpy_finds_the_quantile(draw, kind, sample, monkeypatch):
    monkeypatch.setattr(volumes, "SAMPLE", sample)  # a bound from 7 values is often wrong: the result may not be
    random = np.random.default_rng(0)
    for shape in [(1, 1, 1), (1, 1, 2), (2, 3, 5), (7, 11, 13), (4, 40, 50)]:
        volume = draw(random, shape).astype(kind)
        assert volumes._high_quantile(volume, 0.99) == float(np.quantile(volume, 0.99))
        assert volumes._high_quantile(np.asfortranarray(volume), 0.99) == float(np.quantile(volume, 0.99))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_slice_by_slice_is_the_volume_at_once(kind):
    volume = np.random.default_rng(1).gamma(2, 100, (5, 30, 40)).astype(kind)
    low, cut = float(volume.min()), float(np.quantile(volume, 0.99))
    expected = np.rint(np.clip((volume.astype(np.float64) - low) / (cut - low), 0, 1) * 255).astype(np.uint8)
    assert np.array_equal(clipped_to_bytes(volume), expected)
