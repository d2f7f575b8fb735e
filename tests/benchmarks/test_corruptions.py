from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.corruptions import CORRUPTIONS, SEVERITIES, corrupt

IMAGES = np.random.default_rng(0).random((50, 1, 8, 8), np.float32)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_same_numbers_give_the_same_images(kind: str) -> None:
    first, again = (corrupt(IMAGES, kind, 3, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    assert first.shape == IMAGES.shape
    assert 0.0 <= first.min() <= first.max() <= 1.0


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_severity_is_further_from_the_image(kind: str) -> None:
    away = [float(np.abs(corrupt(IMAGES, kind, s, np.random.default_rng(7)) - IMAGES).mean()) for s in SEVERITIES]
    assert away[0] > 0
    assert all(later > earlier for earlier, later in pairwise(away))


def test_what_each_does() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((4, 1, 8, 8), 0.25, np.float32)
    np.testing.assert_allclose(corrupt(flat, "blur", 5, rng), 0.25, atol=1e-6)
    np.testing.assert_allclose(corrupt(flat, "contrast", 5, rng), 0.25, atol=1e-6)
    np.testing.assert_allclose(corrupt(flat, "brightness", 5, rng), 0.75)
    assert ((corrupt(flat, "occlusion", 5, rng) == 0.5).sum((1, 2, 3)) == 25).all()
    assert np.unique(corrupt(IMAGES, "quantisation", 5, rng)).tolist() == [0.0, 0.5]


def test_unknown_corruptions_and_severities_are_refused() -> None:
    with pytest.raises(KeyError):
        corrupt(IMAGES, "fog", 1, np.random.default_rng(0))
    with pytest.raises(IndexError):
        corrupt(IMAGES, "noise", 6, np.random.default_rng(0))
