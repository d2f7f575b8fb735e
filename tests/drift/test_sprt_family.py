"""SprtExponential and SprtPoisson: their run lengths, their baselines, their options."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from trimtab.drift.run_length import poisson_run_length, poisson_threshold
from trimtab.drift.sprt_exponential import SprtExponential
from trimtab.drift.sprt_poisson import SprtPoisson


@pytest.mark.parametrize(
    ("mean", "ratio", "h"), [(0.2, 2.0, 2.5), (4.0, 1.5, 3.0), (4.0, 1 / 1.5, 3.0), (50.0, 1.2, 2.5)]
)
def test_run_lengths_of_counts_are_those_of_a_simulation(mean: float, ratio: float, h: float) -> None:
    rng = np.random.default_rng(0)
    total, lengths, running = np.zeros(4000), np.zeros(4000), np.ones(4000, bool)
    while running.any():
        step = rng.poisson(mean, 4000) * math.log(ratio) - mean * (ratio - 1)
        total = np.maximum(total + step, 0.0)
        lengths += running
        running &= total < h
    assert poisson_run_length(mean, ratio, h) == pytest.approx(lengths.mean(), rel=0.08)


@pytest.mark.parametrize("mean", [0.05, 1.0, 30.0])
def test_thresholds_of_counts_have_their_run_length(mean: float) -> None:
    h = poisson_threshold(mean, 1.5, 5000.0)
    assert 5000 <= poisson_run_length(mean, 1.5, h) <= 8000
    assert h <= math.log(5000)


@pytest.mark.parametrize("warmup", [8, 64])
def test_exponential_false_alarms_are_as_frequent_as_asked(warmup: int) -> None:
    rng = np.random.default_rng(warmup)
    detector = SprtExponential(every=250, warmup=warmup)
    found = sum(detector.update(v).alarm for v in rng.exponential(3e-7, 50_000).tolist())
    expected = 50_000 / (250 + warmup)
    assert found == pytest.approx(expected, abs=3 * math.sqrt(expected) + 0.08 * expected)


@pytest.mark.parametrize("mean", [0.02, 0.5, 5.0, 300.0])
def test_poisson_false_alarms_are_at_most_as_frequent_as_asked(mean: float) -> None:
    rng = np.random.default_rng(1)
    detector = SprtPoisson(every=500)
    found = sum(detector.update(float(v)).alarm for v in rng.poisson(mean, 30_000))
    assert found <= 60 + 3 * math.sqrt(60)


def test_waiting_times_standardise_to_mean_one() -> None:
    """y = n ln(1 + x / sum) is exponential from the first value after the warm-up."""
    rng = np.random.default_rng(2)
    values = rng.exponential(7.0, (4000, 9))
    y = 8 * np.log1p(values[:, 8] / values[:, :8].sum(axis=1))
    assert stats.kstest(y, "expon").pvalue > 0.01


@pytest.mark.parametrize(("before", "after"), [(4.0, 8.0), (8.0, 4.0)])
@pytest.mark.parametrize("kind", [SprtExponential, SprtPoisson])
def test_both_directions_are_seen(kind: type, before: float, after: float) -> None:
    rng = np.random.default_rng(3)
    draw = rng.exponential if kind is SprtExponential else rng.poisson
    detector = kind(every=10_000)
    assert not any(detector.update(float(v)).alarm for v in draw(before, 300))
    findings = [detector.update(float(v)) for v in draw(after, 100)]
    at, finding = next((i, f) for i, f in enumerate(findings) if f.alarm)
    assert at < 90
    assert abs(finding.onset - at) < 25


def test_overdispersed_counts_need_a_reference() -> None:
    rng = np.random.default_rng(4)

    def counts(n: int) -> list[float]:
        return [float(v) for v in rng.poisson(rng.gamma(2.0, 4.0, n))]  # Variance 5 x the mean.

    plain = SprtPoisson(every=2000)
    referenced = SprtPoisson(every=2000, reference=np.array(counts(2000)))
    values = counts(20_000)
    expected = 10
    assert sum(plain.update(v).alarm for v in values) > 5 * expected
    assert sum(referenced.update(v).alarm for v in values) <= expected + 3 * math.sqrt(expected)


@pytest.mark.parametrize("kind", [SprtExponential, SprtPoisson])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ratio": 1.0}, "ratio must be over 1"),
        ({"warmup": 2}, "warmup from 3"),
        ({"reference": np.zeros(300)}, "the reference must hold"),
        ({"reference": -np.ones(300)}, "the reference must hold"),
    ],
)
def test_wrong_options_are_refused(kind: type, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        kind(every=1000, **options)
