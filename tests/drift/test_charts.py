"""The charts against naive versions of their own definitions, published tables and the run length asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from trimtab.drift import bocpd, conformal_martingale, e_detector, ewma, glr, shiryaev_roberts
from trimtab.drift.catalogue import build
from trimtab.drift.reference import MARGIN, margin
from trimtab.drift.run_length import (
    both_ways,
    ewma_run_length,
    ewma_threshold,
    exponential_run_length,
    glr_run_length,
    glr_threshold,
    overshoot,
    variance_run_length,
)
from trimtab.drift.standardised import bound

Array = NDArray[np.float64]

# Lucas and Saccucci 1990, table 3: weight and limit of EWMA charts with ARL 500.
LUCAS = [(0.05, 2.615), (0.10, 2.814), (0.25, 2.998), (0.50, 3.071)]


@pytest.mark.parametrize(("weight", "limit"), LUCAS)
def test_ewma_run_lengths_are_those_of_the_table(weight: float, limit: float) -> None:
    assert ewma_run_length(weight, limit) == pytest.approx(500, rel=0.01)
    assert ewma_threshold(weight, 500.0) == pytest.approx(limit, abs=0.003)


@pytest.mark.parametrize("every", [10.0, 1e3, 1e6, 1e9])
def test_thresholds_are_found_over_the_whole_range(every: float) -> None:
    assert ewma_run_length(0.1, ewma_threshold(0.1, every)) == pytest.approx(every, rel=0.001)
    # Below 18 the asymptotic formula says nothing.
    assert glr_run_length(200, glr_threshold(200, every)) == pytest.approx(max(every, 18), rel=0.001)
    for run_length in (variance_run_length, exponential_run_length):
        h = both_ways(run_length, 1.5, every)
        both = 1 / (1 / run_length(1.5, h) + 1 / run_length(1 / 1.5, h))
        assert both == pytest.approx(every, rel=0.01) or h < 0.05


def test_overshoot_is_siegmunds() -> None:
    for d in (0.1, 0.3, 0.5):
        assert overshoot(d) == pytest.approx(math.exp(-0.583 * d), rel=0.015)
    assert overshoot(0.0) == 1.0


@pytest.mark.parametrize(
    ("run_length", "ratio", "h"),
    [
        (variance_run_length, 1.5, 3.0),
        (variance_run_length, 1 / 1.5, 3.0),
        (exponential_run_length, 1.5, 3.0),
        (exponential_run_length, 0.5, 2.5),
    ],
)
def test_chains_have_the_run_length_of_a_simulation(run_length: object, ratio: float, h: float) -> None:
    rng = np.random.default_rng(0)
    total, lengths, running = np.zeros(4000), np.zeros(4000), np.ones(4000, bool)
    while running.any():
        if run_length is variance_run_length:
            step = rng.standard_normal(4000) ** 2 * (1 - ratio**-2) / 2 - math.log(ratio)
        else:
            step = rng.exponential(size=4000) * (1 - 1 / ratio) - math.log(ratio)
        total = np.maximum(total + step, 0.0)
        lengths += running
        running &= total < h
    assert run_length(ratio, h) == pytest.approx(lengths.mean(), rel=0.06)  # type: ignore[operator]


def test_glr_is_the_greatest_likelihood_ratio_of_its_window() -> None:
    z = np.random.default_rng(1).standard_normal(120)
    chart = glr.Chart(30)
    for n in range(1, 121):
        found = chart.step(float(z[n - 1]))
        naive = [z[n - k : n].sum() ** 2 / (2 * k) for k in range(1, min(n, 30) + 1)]
        assert found == pytest.approx(max(naive))
        assert chart.onset() == int(np.argmax(naive))


def test_shiryaev_roberts_is_the_sum_over_all_onsets() -> None:
    z = np.random.default_rng(2).standard_normal(80)
    chart = shiryaev_roberts.Chart((1.0,))
    for value in z:
        found = chart.step(float(value))
    naive = sum(math.exp(float(np.sum(sign * z[k:] - 0.5))) for k in range(80) for sign in (1, -1)) / 2
    assert found == pytest.approx(math.log1p(naive))


def test_ewma_is_the_weighted_mean() -> None:
    z = np.random.default_rng(3).standard_normal(50)
    chart = ewma.Chart(0.2)
    for value in z:
        found = chart.step(float(value))
    mean = float(np.sum(0.2 * 0.8 ** np.arange(50)[::-1] * z))
    assert found == pytest.approx(abs(mean) / math.sqrt(0.2 / 1.8))


def test_bocpd_is_the_posterior_of_adams_and_mackay() -> None:
    """Their algorithm 1, with scipy's t; the first run, whose predictive density is N(0, 1), stands for no change."""
    odds, z = 0.01, np.random.default_rng(4).standard_normal(60)
    z[40:] = 2 * z[40:] + 1.5
    hazard = odds / (1 + odds)
    prior = (0.0, bocpd.KAPPA, bocpd.ALPHA, bocpd.BETA)
    normal, runs = 1.0, []  # type: tuple[float, list[tuple[float, tuple[float, float, float, float]]]]
    chart = bocpd.Chart(100, odds)
    for value in z.tolist():
        found = chart.step(value)
        mass = normal + sum(p for p, _ in runs)
        runs = [((1 - hazard) * p, theta) for p, theta in runs] + [(hazard * mass, prior)]
        normal *= (1 - hazard) * stats.norm.pdf(value)
        after = []
        for p, (m, k, a, b) in runs:
            p *= stats.t.pdf(value, 2 * a, m, math.sqrt(b * (k + 1) / (a * k)))
            gain = k * (value - m) ** 2 / (2 * (k + 1))
            after.append((p, ((k * m + value) / (k + 1), k + 1, a + 0.5, b + gain)))
        runs = after
        assert math.expm1(found) * odds == pytest.approx(sum(p for p, _ in runs) / normal, rel=1e-9)
    assert chart.onset() == 59 - int(np.argmax([p for p, _ in runs]))
    assert abs(chart.onset() - 19) < 8


@pytest.mark.parametrize("bounded", [False, True])
def test_e_values_have_a_mean_of_at_most_one(bounded: bool) -> None:
    """One step from 0 gives 1 + R = 1 + the mean of the mixture's e-values."""
    rng = np.random.default_rng(5)
    # Two points, skewed, with mean 0 and deviation 1, within the clip.
    values = np.where(rng.random(200_000) < 0.1, 3.0, -1 / 3) if bounded else rng.standard_normal(200_000)
    factors = []
    for value in np.unique(values) if bounded else values[:20_000]:
        chart = e_detector.Chart(bounded)
        factors.append(math.expm1(chart.step(float(value))))
    mean = np.dot(factors, [0.9, 0.1]) if bounded else np.mean(factors)
    assert mean == pytest.approx(1.0, abs=1e-9 if bounded else 0.1)


def test_a_conformal_bet_is_fair() -> None:
    """The mean of each bet over all ranks is 1, ties or not."""
    detector = conformal_martingale.ConformalMartingale(every=1000, warmup=8)
    for values in ([0.0, 1, 2, 3, 4, 5, 6, 7, 8], [0.0, 1, 1, 1, 2, 2, 5, 5, 5]):
        total = np.zeros(len(conformal_martingale.SHIFTS) + 2)
        for i, value in enumerate(values):
            detector._sorted = sorted(values[:i] + values[i + 1 :])
            total += np.exp(detector._gains(value))
        assert total / len(values) == pytest.approx(np.ones(total.size))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_a_conformal_martingale_looks_at_ranks_alone(seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(250)
    values[150:] += 2
    one, other = build("conformal_martingale", every=100), build("conformal_martingale", every=100)
    assert [one.update(v) for v in values.tolist()] == [other.update(v) for v in np.exp(values).tolist()]


@pytest.mark.parametrize("name", ["conformal_martingale", "e_detector"])
def test_heavy_tails_keep_the_guarantee(name: str) -> None:
    rng = np.random.default_rng(6)
    options = {"bounded": True} if name == "e_detector" else {}
    found = 0
    for _ in range(10):
        detector = build(name, every=300, options=options)
        found += sum(detector.update(v).alarm for v in (rng.standard_t(3, 2000)).tolist())
    assert found <= 67 + 3 * math.sqrt(67)


# The exact ones; both ends, since a test that never alarms keeps every rate.
@pytest.mark.parametrize("name", ["glr", "shiryaev_roberts", "ewma", "cusum_variance"])
def test_false_alarms_are_as_frequent_as_asked(name: str) -> None:
    rng = np.random.default_rng(7)
    alarms, values = 0, 40_000
    detector = build(name, every=250)
    alarms = sum(detector.update(v).alarm for v in rng.standard_normal(values).tolist())
    expected = values / (250 + 64)  # A warm-up follows each.
    assert alarms == pytest.approx(expected, abs=3 * math.sqrt(expected))


@pytest.mark.parametrize("factor", [0.3, 3.0])
@pytest.mark.parametrize("name", ["cusum_variance", "bocpd", "conformal_martingale"])
def test_a_change_of_the_deviation_is_seen(name: str, factor: float) -> None:
    rng = np.random.default_rng(8)
    detector = build(name, every=20000)
    assert not any(detector.update(v).alarm for v in rng.standard_normal(400).tolist())
    assert any(detector.update(v).alarm for v in (factor * rng.standard_normal(80)).tolist())


def test_a_sensor_that_sticks_is_a_change_of_the_deviation() -> None:
    rng = np.random.default_rng(9)
    detector = build("cusum_variance", every=20000)
    assert not any(detector.update(v).alarm for v in rng.standard_normal(300).tolist())
    assert sum(detector.update(0.25).alarm for _ in range(500)) == 1


@pytest.mark.parametrize("name", ["glr", "shiryaev_roberts", "ewma"])
def test_a_reference_that_hangs_together_keeps_the_rate(name: str) -> None:
    rng = np.random.default_rng(10)

    def autoregressive(n: int) -> Array:
        values = rng.standard_normal(n + 100)
        for i in range(1, n + 100):
            values[i] = 0.7 * values[i - 1] + math.sqrt(1 - 0.49) * values[i]
        return values[100:]

    found = 0
    for _ in range(4):
        detector = build(name, every=1000, reference=autoregressive(2000))
        found += sum(detector.update(v).alarm for v in autoregressive(4000).tolist())
    assert found <= 16 + 3 * math.sqrt(16)


@pytest.mark.parametrize("every", [1e3, 1e5, 1e7])
def test_what_is_clipped_is_rarer_than_alarms(every: float) -> None:
    """So that theory, which knows of no clip, keeps its run lengths: at 4, a likelihood ratio's was 15 % too long."""
    assert bound(every) >= 4.0
    assert 2 * stats.norm.sf(bound(every)) <= max(0.1 / every, 2 * stats.norm.sf(4.0)) * 1.000001


def test_a_longer_recording_needs_less_of_a_margin() -> None:
    assert margin(2000, 1000) == margin(200, 1e6) == MARGIN
    assert margin(10_000, 1000) == pytest.approx(math.exp(math.sqrt(0.1)))
    assert margin(10**6, 1000) == pytest.approx(1.03, abs=0.01)
