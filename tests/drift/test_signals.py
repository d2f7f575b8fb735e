"""The signals against independent formulas (scipy, numerical integration), their invariances, and bad input."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, special, stats

from trimtab.drift.measure import SIGNALS, Measure
from trimtab.drift.signals import (
    Departure,
    Distance,
    Divergence,
    departure,
    distance,
    divergence,
    entropy,
    log_variances,
    moment_whitening,
    whitening,
)


def moments_of(mean: float, var: float, channels: int = 1) -> NDArray[np.float32]:
    return np.array([[[mean] * channels, [var] * channels]], np.float32)


@pytest.mark.parametrize(
    ("mean", "var", "mu", "s2"), [(0.5, 1.0, 0.0, 1.0), (0.0, 4.0, 0.0, 1.0), (-2.0, 0.3, 1.0, 2.0)]
)
def test_divergence_is_the_integral(mean: float, var: float, mu: float, s2: float) -> None:
    p, q = stats.norm(mean, var**0.5), stats.norm(mu, s2**0.5)
    expected, _ = integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), mean - 30, mean + 30, points=[mean])
    found = divergence(moments_of(mean, var), np.array([mu]), np.array([s2]))
    assert np.expm1(found) == pytest.approx([expected], rel=1e-3)


def test_divergence_is_zero_at_the_source() -> None:
    mean, var = np.array([1.0, -2.0, 0.0]), np.array([0.5, 2.0, 1e-12])
    moments = np.stack([mean, var])[None]
    assert divergence(moments, mean, var) == pytest.approx([0.0], abs=1e-12)


def test_divergence_without_spread_takes_the_mean_alone() -> None:
    found = divergence(moments_of(3.0, 0.0, 2), np.ones(2), np.full(2, 2.0))
    assert np.expm1(found) == pytest.approx([0.5 * 4.0 / 2.0], rel=1e-4)


def test_dead_channels_stay_bounded() -> None:
    moments = np.array([[[1e-4, 0.1], [1e-9, 1.0]]], np.float32)
    assert divergence(moments, np.array([0.0, 0.1]), np.array([0.0, 1.0]))[0] < 0.01


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 20))
def test_divergence_is_not_negative_and_sample_by_sample(seed: int, n: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    moments = np.stack([rng.normal(size=(n, channels)), rng.gamma(1, size=(n, channels))], 1).astype(np.float32)
    mean, var = rng.normal(size=channels), rng.gamma(1, size=channels)
    together = divergence(moments, mean, var)
    assert (together >= 0).all()
    assert together == pytest.approx(np.concatenate([divergence(m[None], mean, var) for m in moments]))


def test_bad_samples_spoil_only_themselves() -> None:
    rng = np.random.default_rng(0)
    moments = np.abs(rng.normal(size=(4, 2, 6))).astype(np.float32)
    features = rng.normal(size=(4, 5)).astype(np.float32)
    logits = rng.normal(size=(4, 3)).astype(np.float32)
    centre, whiten = moment_whitening(np.abs(rng.normal(size=(50, 2, 6))))
    signals = [
        (moments, lambda x: divergence(x, np.zeros(6), np.ones(6))),
        (moments, lambda x: departure(x, centre, whiten)),
        (features, lambda x: distance(x, np.zeros(5), np.eye(5))),
        (logits, entropy),
    ]
    for clean, signal in signals:
        dirty = clean.copy()
        dirty[1].flat[0] = np.nan
        dirty[2].flat[0] = np.inf
        found, expected = signal(dirty), signal(clean)
        assert not np.isfinite(found[[1, 2]]).any()
        assert (found[[0, 3]] == expected[[0, 3]]).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 13), st.integers(1, 40), st.sampled_from([np.float32, np.float64]))
def test_a_sample_does_not_depend_on_those_beside_it(seed: int, n: int, width: int, dtype: type) -> None:
    """To the last bit: a restart cuts micro-batches elsewhere, and must see the same."""
    rng = np.random.default_rng(seed)
    moments = rng.gamma(1, size=(n, 2, width)).astype(np.float32)
    moments[rng.random(moments.shape) < 0.02] = 0.0
    features = rng.normal(size=(n, width)).astype(np.float32)
    centre, whiten = moment_whitening(rng.gamma(1, size=(50, 2, width)).astype(np.float32))
    mean, var = rng.normal(size=width).astype(dtype), rng.gamma(1, size=width).astype(dtype)
    root = rng.normal(size=(width, width))
    signals = [
        (moments, lambda x: divergence(x, mean, var)),
        (moments, lambda x: departure(x, centre, whiten.astype(dtype))),
        (features, lambda x: distance(x, mean.astype(np.float64), whitening(root @ root.T))),
        (features, entropy),
    ]
    cuts = [0, *(i for i in range(1, n) if rng.random() < 0.4), n]
    for values, signal in signals:
        parts = np.concatenate([signal(values[begin:end]) for begin, end in pairwise(cuts)])
        assert (signal(values) == parts).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.sampled_from([1, 3, 30]), st.permutations(range(4)))
def test_machine_code_measures_the_same(seed: int, n: int, width: int, order: list[int]) -> None:
    """Up to rounding, each sample to the bit whatever stands beside it, and any of the signals in any order."""
    rng = np.random.default_rng(seed)
    moments = np.stack([rng.normal(size=(n, width)), rng.gamma(1, size=(n, width))], 1).astype(np.float32)
    moments[:, 1][rng.random((n, width)) < 0.1] = 0.0
    features, y = (rng.normal(size=(n, k)).astype(np.float32) for k in (width, 5))
    by_divergence = Divergence(np.zeros(width, np.float32), np.ones(width, np.float32))
    by_departure = Departure(*moment_whitening(rng.gamma(1, size=(80, 2, width)).astype(np.float32)))
    root = rng.normal(size=(width, width))
    by_distance = Distance(rng.normal(size=width), whitening(root @ root.T))
    logs = log_variances(moments)
    by = {
        "divergence": (by_divergence, by_divergence(moments, logs)),
        "departure": (by_departure, by_departure(moments, logs)),
        "distance": (by_distance, by_distance(features)),
        "entropy": (None, entropy(y)),
    }
    names = ["other", *(SIGNALS[i] for i in order[: 1 + seed % 4])]
    measure = Measure(names, [None, *(by[name][0] for name in names[1:])])

    def taken(part: slice) -> NDArray[np.float64]:
        table = np.full((len(y[part]), len(names)), 7.0)
        measure(moments[part], features[part], y[part], table)
        return table

    whole = taken(slice(None))
    assert (whole[:, 0] == 7.0).all(), "not one of its own"
    for i, name in enumerate(names[1:], 1):
        assert whole[:, i] == pytest.approx(by[name][1], rel=1e-4, abs=1e-5), name
    cuts = [0, *(i for i in range(1, n) if rng.random() < 0.4), n]
    assert (np.concatenate([taken(slice(*ends)) for ends in pairwise(cuts)]) == whole).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(3))
def test_machine_code_lets_what_is_not_finite_spoil_its_sample_alone(bad: float, place: int) -> None:
    width = 4
    rng = np.random.default_rng(0)
    source = rng.gamma(1, size=(40, 2, width)).astype(np.float32)
    measure = Measure(
        SIGNALS,
        [
            Divergence(np.zeros(width, np.float32), np.ones(width, np.float32)),
            Departure(*moment_whitening(source)),
            Distance(np.zeros(width), np.eye(width)),
            None,
        ],
    )
    given = [source[:3].copy(), *(rng.normal(size=(3, width)).astype(np.float32) for _ in range(2))]
    usual, spoilt = np.empty((3, 4)), np.empty((3, 4))
    measure(given[0], given[1], given[2], usual)
    given[place][1, ..., 1] = bad
    measure(given[0], given[1], given[2], spoilt)
    assert (spoilt[[0, 2]] == usual[[0, 2]]).all()
    touched = [[0, 1], [2], [3]][place]
    assert np.isfinite(usual).all()
    assert (bad == -np.inf and place == 2) or not np.isfinite(spoilt[1, touched]).any()


def test_entropy_is_scipys() -> None:
    logits = np.random.default_rng(0).normal(scale=4, size=(20, 7)).astype(np.float32)
    assert entropy(logits) == pytest.approx(stats.entropy(special.softmax(logits, axis=1), axis=1), rel=1e-6)


def test_entropy_at_its_ends() -> None:
    assert entropy(np.zeros((1, 8))) == pytest.approx([np.log(8)])
    assert entropy(np.array([[1e30, 0.0, 0.0]])) == pytest.approx([0.0], abs=1e-12)
    assert entropy(np.array([[0.0, 0.0, -np.inf]])) == pytest.approx([np.log(2)])


@given(st.integers(0, 10**6), st.floats(-1e3, 1e3))
def test_entropy_does_not_mind_a_shift(seed: int, shift: float) -> None:
    logits = np.random.default_rng(seed).normal(size=(3, 5))
    assert entropy(logits + shift) == pytest.approx(entropy(logits), abs=1e-9)


def test_whitening_whitens() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    cov = root @ root.T
    whiten = whitening(cov, shrinkage=0.0)
    assert whiten @ cov @ whiten.T == pytest.approx(np.eye(6), abs=1e-6)


def test_whitening_bears_what_is_flat() -> None:
    for cov in (np.zeros((3, 3)), np.ones((3, 3)), np.diag([1.0, 0.0, 0.0])):
        assert np.isfinite(whitening(cov)).all()


@pytest.mark.parametrize("cov", [np.ones((2, 3)), np.diag([1.0, np.nan]), np.diag([1.0, -2.0])])
def test_wrong_covariances_are_refused(cov: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="covariance"):
        whitening(cov)


def test_distance_is_scipys_per_dimension() -> None:
    rng = np.random.default_rng(1)
    root = rng.normal(size=(4, 4))
    cov, mean = root @ root.T, rng.normal(size=4)
    features = rng.normal(size=(5, 4))
    found = distance(features, mean, whitening(cov, shrinkage=0.0))
    precision = np.linalg.inv(cov)
    expected = [float(np.sqrt((f - mean) @ precision @ (f - mean) / 4)) for f in features]
    assert found == pytest.approx(expected, rel=1e-6)


def correlated(n: int, rng: np.random.Generator, channels: int = 12) -> NDArray[np.float32]:
    """Moments whose channels hang together: three sources behind twelve channels."""
    mix = np.random.default_rng(0).normal(size=(3, channels))
    mean = rng.normal(size=(n, 3)) @ mix + 0.05 * rng.normal(size=(n, channels))
    var = np.exp(rng.normal(size=(n, 3)) @ mix * 0.3 + 0.1 * rng.normal(size=(n, channels)))
    return np.stack([mean, var], 1).astype(np.float32)


@pytest.mark.parametrize("projected", [256, 8])
def test_departure_is_about_one_on_the_source(projected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.drift.signals.PROJECTED", projected)
    rng = np.random.default_rng(1)
    source = correlated(2000, rng)
    centre, whiten = moment_whitening(source, shrinkage=0.0)
    assert whiten.shape == (min(projected, 24), 24)
    assert (departure(source, centre, whiten) ** 2).mean() == pytest.approx(1.0, rel=1e-3)


def test_departure_sees_what_divergence_cannot() -> None:
    """A channel turned round keeps its own distribution, and breaks how it hangs together with the others."""
    rng = np.random.default_rng(1)
    source, seen = correlated(2000, rng), correlated(200, rng)
    turned = seen.copy()
    turned[:, 0, 0] *= -1
    centre, whiten = moment_whitening(source)
    mean, var = source[:, 0].mean(0, dtype=np.float64), source[:, 1].mean(0) + source[:, 0].var(0)
    by_channel = divergence(turned, mean, var.astype(np.float64)) - divergence(seen, mean, var.astype(np.float64))
    together = departure(turned, centre, whiten) / departure(seen, centre, whiten)
    assert abs(np.median(by_channel)) < 0.01
    assert np.median(together) > 1.5


def test_departure_bears_channels_that_never_vary() -> None:
    rng = np.random.default_rng(1)
    source = correlated(200, rng)
    source[:, 1] = 0.0
    source[:, 0, 3] = 2.5
    centre, whiten = moment_whitening(source)
    assert np.isfinite(departure(source, centre, whiten)).all()


@pytest.mark.parametrize("moments", [np.ones((7, 2, 3)), np.full((20, 2, 3), np.nan)])
def test_moments_that_tell_nothing_are_refused(moments: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="at least 8 samples of finite moments"):
        moment_whitening(moments)
