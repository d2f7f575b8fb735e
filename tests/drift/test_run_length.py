"""Run lengths and thresholds against published tables, Wald's formulas and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.drift.run_length import (
    bernoulli_run_length,
    bernoulli_threshold,
    clipped_run_length,
    run_length,
    siegmund_run_length,
    threshold,
    wald_boundaries,
)

# Montgomery, Introduction to Statistical Quality Control (6th ed.), tables 9.3 and 9.4: two-sided ARL under no change;
# a two-sided chart of symmetric values has half the run length of a one-sided one.
TABLE = [(0.5, 4.0, 168), (0.5, 5.0, 465)]
# The same, table 9.5 (Hawkins 1993): k and h of two-sided CUSUMs with ARL 370.
HAWKINS = [(0.25, 8.01), (0.5, 4.77), (0.75, 3.34), (1.0, 2.52), (1.25, 1.99), (1.5, 1.61)]


@pytest.mark.parametrize(("k", "h", "both_sides"), TABLE)
def test_run_lengths_are_those_of_the_tables(k: float, h: float, both_sides: float) -> None:
    assert run_length(k, h) / 2 == pytest.approx(both_sides, rel=0.005)
    assert siegmund_run_length(k, h) / 2 == pytest.approx(both_sides, rel=0.02)


@pytest.mark.parametrize(("k", "h"), HAWKINS)
def test_thresholds_are_those_of_the_tables(k: float, h: float) -> None:
    assert threshold(k, 2 * 370.0) == pytest.approx(h, abs=0.012)


def test_siegmunds_own_example() -> None:
    """Montgomery, section 9.1.7: k = 0.5, h = 5: one-sided 938.2, two-sided 469.1."""
    assert siegmund_run_length(0.5, 5.0) == pytest.approx(938.2, abs=0.05)


def test_a_shifted_stream_is_a_smaller_allowance() -> None:
    """The same table: a shift of one deviation is found in 8.38 (h = 4) and 10.4 (h = 5) values."""
    assert run_length(-0.5, 4.0) == pytest.approx(8.38, abs=0.01)
    assert run_length(-0.5, 5.0) == pytest.approx(10.4, abs=0.05)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.2, 3.0), st.floats(1.0, 8.0))
def test_a_threshold_has_the_run_length_it_was_solved_for(k: float, magnitude: float) -> None:
    every = 10.0**magnitude
    h = threshold(k, every)
    assert run_length(k, h) >= every * (1 - 1e-9)
    if h > 0:
        assert run_length(k, h) == pytest.approx(every, rel=1e-3)
        assert 2 * k * h <= math.log(every), "Wald's bound"


@pytest.mark.parametrize(("k", "clip"), [(0.5, 3.0), (0.25, 1.5), (1.0, 4.0)])
def test_run_lengths_of_clipped_values_are_those_of_a_simulation(k: float, clip: float) -> None:
    h = threshold(k, 500.0, clip)
    rng = np.random.default_rng(0)
    total, alarms = np.zeros(4000), 0
    for _ in range(1000):
        total = np.maximum(total + np.clip(rng.standard_normal(4000), -clip, clip) - k, 0.0)
        over = total >= h
        alarms += int(over.sum())
        total[over] = 0.0
    assert 4_000_000 / alarms == pytest.approx(500, rel=0.035)


def test_a_wide_clip_changes_nothing_and_a_narrow_one_lowers_the_threshold() -> None:
    for every in (100.0, 1e4, 1e8):
        assert threshold(0.5, every, 6.9) == pytest.approx(threshold(0.5, every), rel=1e-3)
        assert threshold(0.5, every, 2.5) < threshold(0.5, every, 3.0) < threshold(0.5, every)


def test_beyond_the_chain_run_lengths_grow_on_as_they_did(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = clipped_run_length(0.5, 9.0, 3.0)
    monkeypatch.setattr("trimtab.drift.run_length.HIGH", 6.0)
    assert clipped_run_length(0.5, 9.0, 3.0) == pytest.approx(direct, rel=0.01)


def test_walds_boundaries() -> None:
    """Wald 1947, section 3.3: alpha 0.05, beta 0.2 give A = 16 and B = 4/19."""
    lower, upper = wald_boundaries(0.05, 0.2)
    assert upper == pytest.approx(math.log(0.8 / 0.05))
    assert lower == pytest.approx(math.log(0.2 / 0.95))
    assert wald_boundaries(0.01, 0.0) == (-math.inf, pytest.approx(math.log(100)))


@given(st.floats(1e-6, 0.49), st.floats(1e-6, 0.49))
def test_walds_boundaries_keep_the_error_rates(alpha: float, beta: float) -> None:
    """Wald's inequalities alpha <= (1 - beta)/A and beta <= B (1 - alpha) hold with equality at his boundaries."""
    lower, upper = wald_boundaries(alpha, beta)
    assert lower < 0 < upper
    assert (1 - beta) * math.exp(-upper) == pytest.approx(alpha)
    assert (1 - alpha) * math.exp(lower) == pytest.approx(beta)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.1), (1.0, 0.0), (0.6, 0.5), (0.1, -0.1)])
def test_wrong_error_rates_are_refused(alpha: float, beta: float) -> None:
    with pytest.raises(ValueError, match="must be positive and add up to less than 1"):
        wald_boundaries(alpha, beta)


@pytest.mark.parametrize(("p", "odds", "h"), [(0.05, 2.0, 2.0), (0.3, 2.0, 3.0), (0.5, 3.0, 3.0), (0.9, 2.0, 2.5)])
def test_run_lengths_of_rates_are_those_of_a_simulation(p: float, odds: float, h: float) -> None:
    rng = np.random.default_rng(0)
    changed = odds * p / (1 - p + odds * p)
    up, down = math.log(changed / p), math.log((1 - changed) / (1 - p))
    total, lengths, running = np.zeros(4000), np.zeros(4000), np.ones(4000, bool)
    while running.any():
        total = np.maximum(total + np.where(rng.random(4000) < p, up, down), 0.0)
        lengths += running
        running &= total < h
    assert bernoulli_run_length(p, odds, h) == pytest.approx(lengths.mean(), rel=0.08)


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.95])
def test_thresholds_of_rates_have_their_run_length(p: float) -> None:
    h = bernoulli_threshold(p, 2.0, 5000.0)
    assert 5000 <= bernoulli_run_length(p, 2.0, h) <= 7000
    assert h <= math.log(5000)
