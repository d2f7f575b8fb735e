"""Distances against scipy's and against closed forms; thresholds against the run length asked for."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from trimtab.drift import cramer_von_mises, ks, lsdd, mmd, psi, wasserstein
from trimtab.drift.catalogue import build
from trimtab.drift.windowed import Windowed, height, highest, of_uniform

RNG = np.random.default_rng(0)
PAIRS = [
    (np.sort(RNG.standard_normal(300)), np.sort(RNG.standard_normal(100))),
    (np.sort(RNG.standard_normal(300)), np.sort(2 * RNG.standard_normal(100) + 1)),
    (np.sort(RNG.integers(0, 5, 50).astype(float)), np.sort(RNG.integers(1, 9, 20).astype(float))),
    (np.arange(10.0), np.arange(10.0) + 100),
]
KINDS = {
    "ks": ks,
    "cramer_von_mises": cramer_von_mises,
    "wasserstein": wasserstein,
    "psi": psi,
    "mmd": mmd,
    "lsdd": lsdd,
}


def apart(kind: ModuleType, reference: np.ndarray, window: np.ndarray) -> float:
    return float(kind.distance(reference)(window[None])[0])


@pytest.mark.parametrize("pair", PAIRS)
def test_ks_is_scipys(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert apart(ks, pair[0], pair[1]) == pytest.approx(stats.ks_2samp(*pair).statistic)


@pytest.mark.parametrize("pair", [PAIRS[0], PAIRS[1], PAIRS[3]])
def test_cramer_von_mises_is_scipys(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Without ties, of which scipy makes midranks."""
    assert apart(cramer_von_mises, pair[0], pair[1]) == pytest.approx(stats.cramervonmises_2samp(*pair).statistic)


@pytest.mark.parametrize("pair", PAIRS)
def test_wasserstein_is_scipys_in_deviations(pair: tuple[np.ndarray, np.ndarray]) -> None:
    expected = stats.wasserstein_distance(*pair) / pair[0].std()
    assert apart(wasserstein, pair[0], pair[1]) == pytest.approx(expected)


def test_psi_by_hand() -> None:
    """Ten values in each of ten bins, and a window of ten in the lowest bin."""
    found = apart(psi, np.arange(100.0), np.zeros(10))
    low, other, expected = 10.5 / 15, 0.5 / 15, 10.5 / 105
    by_hand = (low - expected) * math.log(low / expected) + 9 * (other - expected) * math.log(other / expected)
    assert found == pytest.approx(by_hand)


def test_mmd_of_gaussians() -> None:
    """Gaussian kernel of width s, N(0, 1) against N(m, 1): 2 s / sqrt(s^2 + 2) (1 - exp(-m^2 / (2 (s^2 + 2))))."""
    reference = stats.norm.ppf((np.arange(1500) + 0.5) / 1500)
    width = float(np.median(np.abs(reference[:, None] - reference)))
    expected = 2 * width / math.sqrt(width**2 + 2) * (1 - math.exp(-0.5 / (width**2 + 2)))
    assert apart(mmd, reference, reference + 1) == pytest.approx(expected, rel=0.01)


def test_lsdd_of_gaussians() -> None:
    """(1 - exp(-m^2 / 4)) / sqrt(pi) for N(0, 1) against N(m, 1); the ridge pulls it down a little."""
    reference = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    expected = (1 - math.exp(-1 / 4)) / math.sqrt(math.pi)
    assert apart(lsdd, reference, reference + 1) == pytest.approx(expected, rel=0.15)
    assert apart(lsdd, reference, reference) == 0.0


@pytest.mark.parametrize("name", ["ks", "cramer_von_mises", "psi"])
def test_a_threshold_is_reached_by_as_many_as_of_a_poisson_process(name: str) -> None:
    """63 % of detectors within the run length, from other uniform numbers than those that it was found with."""
    power = 2 if name == "ks" else 1
    rng = np.random.default_rng(5)
    limit = height(of_uniform(KINDS[name].distance, 200, 50, 10) ** power, 100, 2000) ** (1 / power)
    found = highest(KINDS[name].distance, rng.random((150, 200)), rng.random((150, 2050)), 50, 10)
    assert np.mean(found.max(axis=1) >= limit) == pytest.approx(0.6, abs=0.12)


def test_heights_are_those_of_gumbels_of_many_locations() -> None:
    """Rows of location a_j and scale 2: P(row's highest of 500 x 100 values < h) = exp(-500 exp(-(h - a_j) / 2))."""
    rng = np.random.default_rng(6)
    location = 3 * rng.standard_normal((4000, 1))
    found = height(location + rng.gumbel(0, 2, (4000, 6)), 100, 50_000)
    assert np.mean(np.exp(-500 * np.exp(-(found - location) / 2))) == pytest.approx(math.exp(-1), abs=0.02)
    assert height(np.full((5, 4), 3.0), 100, 50_000) == 3.0


@pytest.mark.parametrize("name", list(KINDS))
def test_false_alarms_are_about_as_frequent_as_asked(name: str) -> None:
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(6):
        detector = build(name, every=1000, options={"size": 200, "recent": 50})
        found += sum(detector.update(v).alarm for v in rng.standard_normal(3000).tolist())
    expected = 18_000 / (1000 + 250)
    assert found <= expected + 3 * math.sqrt(expected)


@pytest.mark.parametrize("name", list(KINDS))
def test_a_change_of_spread_is_seen_and_dated(name: str) -> None:
    rng = np.random.default_rng(2)
    detector = build("ks", every=100000)
    assert not any(detector.update(v).alarm for v in rng.standard_normal(600).tolist())
    findings = [detector.update(v) for v in (4 * rng.standard_normal(150)).tolist()]
    at, onset = next((i, f.onset) for i, f in enumerate(findings) if f.alarm)
    assert onset is not None
    assert abs(onset - at) <= 25


def test_a_recording_that_hangs_together_keeps_the_rate() -> None:
    rng = np.random.default_rng(3)

    def autoregressive(n: int) -> np.ndarray:
        values = rng.standard_normal(n + 100)
        for i in range(1, n + 100):
            values[i] = 0.7 * values[i - 1] + math.sqrt(1 - 0.49) * values[i]
        return values[100:]

    alone = recorded = 0
    for _ in range(8):
        values = autoregressive(3000).tolist()
        plain = build("ks", every=10000)
        alone += sum(plain.update(v).alarm for v in values)
        detector = build("ks", every=10000, reference=autoregressive(4000))
        first = next((i for i, v in enumerate(values) if detector.update(v).alarm), None)
        recorded += first is not None
    assert recorded <= 5, "of 2 expected"
    assert alone > 3 * recorded


@pytest.mark.parametrize("options", [{"recent": 400}, {"clock": 200}, {"size": 50}])
def test_windows_must_fit(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="recent must be from 10 to size"):
        build("ks", every=1000, options=options)
    assert isinstance(build("ks", every=1000), Windowed)
