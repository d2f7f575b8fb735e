"""Combination keeps the rates it promises, by their definitions and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trimtab.drift.combine import apart, average, bonferroni, e_to_p


def test_the_mean_of_e_values_is_one_however_they_hang_together() -> None:
    z = np.random.default_rng(0).standard_normal(100_000)
    # The same value bet on in three ways.
    e_values = np.exp(np.outer(z, [0.5, 1.0, -1.0]) - np.array([0.125, 0.5, 0.5]))
    found = average(e_values)
    assert isinstance(found, np.ndarray)
    assert found.shape == (100_000,)
    assert found.mean() == pytest.approx(1.0, abs=0.02)
    assert (found >= 20).mean() <= 1 / 20
    assert average([0.0, 4.0]) == 2.0
    assert average([0.0, 4.0], weights=[1, 3]) == 3.0
    assert average([math.inf, 1.0]) == math.inf


@pytest.mark.parametrize("wrong", [[-1.0], [math.nan], []])
def test_what_is_no_e_value_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="e-values must be"):
        average(wrong)


@pytest.mark.parametrize("wrong", [[0.0, 0.0], [-1.0, 2.0], [math.nan, 1.0]])
def test_wrong_weights_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be"):
        average([1.0, 1.0], wrong)


def test_e_values_as_p_values() -> None:
    assert e_to_p(20.0) == 0.05
    assert e_to_p(0.5) == e_to_p(0.0) == 1.0


def test_bonferroni() -> None:
    assert bonferroni([0.01, 0.02, math.nan, 0.5, 0.0125], 0.05).tolist() == [True, False, False, False, False]
    assert bonferroni([0.01, 0.02, 0.5, 0.0125], 0.05).tolist() == [True, False, False, True]
    assert bonferroni([], 0.05).tolist() == []
    assert apart(1000, 5) == 5000
