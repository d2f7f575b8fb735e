"""Calibration on recordings: autocorrelated and class-switching signals keep to the false alarms asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from trimtab.drift.reference import RUN, as_streamed, height, in_runs, inflation, resample
from trimtab.drift.run_length import threshold
from trimtab.drift.sprt import Sprt

Array = NDArray[np.float64]


def autoregressive(phi: float) -> Callable[[int, np.random.Generator], Array]:
    def draw(n: int, rng: np.random.Generator) -> Array:
        noise = rng.standard_normal(n + 200) * np.sqrt(1 - phi * phi)
        return np.asarray(lfilter([1.0], [1.0, -phi], noise)[200:])

    return draw


def switching(n: int, rng: np.random.Generator) -> Array:
    """Seven classes, each with a level of its own, for 24 to 36 values at a time."""
    levels = np.array([-1.2, -0.8, -0.3, 0.0, 0.2, 0.7, 1.6])
    within = autoregressive(0.5)
    parts: list[Array] = []
    while sum(map(len, parts)) < n:
        level = levels[rng.integers(7)] + 0.25 * rng.standard_normal()
        parts.append(level + 0.35 * within(int(rng.integers(24, 37)), rng))
    return np.concatenate(parts)[:n]


def skewed(n: int, rng: np.random.Generator) -> Array:
    return rng.gamma(1.5, size=n)


def heavy(n: int, rng: np.random.Generator) -> Array:
    return rng.standard_t(3, n)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_inflation_of_an_autoregression(phi: float) -> None:
    """(1 + phi) / (1 - phi), from its autocorrelation phi^j."""
    found = np.median([inflation(autoregressive(phi)(4000, np.random.default_rng(i))) for i in range(15)])
    assert found == pytest.approx((1 + phi) / (1 - phi), rel=0.15, abs=0.1)


def test_inflation_is_at_least_one() -> None:
    assert inflation(np.tile([1.0, -1.0], 100)) == 1.0
    assert inflation(np.ones(100)) == 1.0
    assert inflation(np.array([1.0, 2.0])) == 1.0


def test_smoothing_moves_levels_and_keeps_their_deviation() -> None:
    values = np.repeat(np.random.default_rng(0).standard_normal(400), 50)
    plain, smooth = (resample(values, 50, 400, 500, np.random.default_rng(1), smoothing=s) for s in (False, True))
    assert smooth.std() == pytest.approx(plain.std(), rel=0.02)
    assert smooth.mean() == pytest.approx(plain.mean(), abs=0.02)
    assert np.unique(smooth.round(9)).size > 5 * np.unique(plain).size


def test_resampling_keeps_blocks_whole() -> None:
    drawn = resample(np.arange(100.0), 10, 7, 95, np.random.default_rng(0))
    assert drawn.shape == (7, 95)
    steps = np.diff(drawn, axis=1) % 100
    assert (np.delete(steps, np.arange(9, 94, 10), axis=1) == 1).all()


def test_heights_are_extrapolated_to_rare_ones() -> None:
    """Exponential excursions, one in two values: the height of one in 10^7 values is ln(10^7 / 2)."""
    drawn = np.random.default_rng(0).exponential(size=100_000)
    assert height(drawn, 200_000 / 1e3) == pytest.approx(np.log(1e3 / 2), rel=0.05)
    assert height(drawn, 200_000 / 1e7) == pytest.approx(np.log(1e7 / 2), rel=0.12)


def test_heights_of_nothing() -> None:
    assert height(np.zeros(0), 10.0) == 0.0
    assert height(np.array([3.0]), 0.001) == 0.0


def test_a_gaussian_recording_gives_the_thresholds_of_theory() -> None:
    recording = np.random.default_rng(3).standard_normal(200_000)
    detector = Sprt(every=5000, shifts=[1.0], reference=recording)
    finding = detector.update(0.0)
    assert finding.threshold == pytest.approx(threshold(0.5, 2 * 5000, 3.0), rel=0.06)


@pytest.mark.parametrize(
    "draw",
    [autoregressive(0.5), autoregressive(0.9), switching, skewed, heavy],
    ids=["ar5", "ar9", "switch", "skew", "t3"],
)
def test_false_alarms_keep_to_the_rate(draw: Callable[[int, np.random.Generator], Array]) -> None:
    rng = np.random.default_rng(11)
    every, alarms, values = 2000, 0, 0
    for _ in range(5):
        recording = draw(2000, rng)
        for _ in range(2):
            detector = Sprt(every=every, reference=recording)
            alarms += sum(detector.update(v).alarm for v in draw(4000, rng).tolist())
            values += 4000
    expected = values / every
    assert alarms <= expected + 2 * np.sqrt(expected)


def test_one_value_beyond_a_recording_without_a_tail_is_no_alarm() -> None:
    """Nothing in this recording comes near 3 deviations, so that it has no excursion to read a threshold off."""
    recording = np.repeat(np.random.default_rng(2).uniform(-1.0, 1.0, 100), 20)
    assert inflation((recording - recording.mean()) / recording.std()) > 10
    detector = Sprt(every=1e6, shifts=[6.0], reference=recording)
    beyond = recording.mean() + 3.5 * recording.std()
    finding = detector.update(beyond)
    assert not finding.alarm
    assert finding.threshold >= 6.0 * threshold(3.0, 2 * 1e6)
    assert any(detector.update(recording.mean() + 12.0 * recording.std()).alarm for _ in range(8))


def test_what_goes_beyond_the_usual_levels_is_seen_at_once() -> None:
    rng = np.random.default_rng(5)
    delays = []
    for _ in range(6):
        detector = Sprt(every=20000, reference=switching(2000, rng))
        for value in switching(600, rng).tolist():
            detector.update(value)
        after = (switching(200, rng) + 6.0).tolist()
        delays.append(next(i for i, value in enumerate(after) if detector.update(value).alarm))
    assert max(delays) < 30
    assert np.median(delays) < 10


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_in_runs_is_a_permutation_in_which_classes_last(order: str) -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice(5, 2000, p=[0.4, 0.3, 0.2, 0.09, 0.01])
    if order == "sorted":
        classes = np.sort(classes)
    found = in_runs(classes)
    np.testing.assert_array_equal(np.sort(found), np.arange(2000))
    changes = np.flatnonzero(np.diff(classes[found])) + 1
    lengths = np.diff([0, *changes, 2000])
    assert RUN[0] * 0.8 < lengths.mean() < 2 * RUN[1]  # two runs of one class may meet
    for k in range(5):  # each class in recorded order within its runs
        members = found[classes[found] == k]
        assert (np.diff(members) > 0).mean() > 0.9


def test_as_streamed_keeps_an_order_that_hangs_together_more() -> None:
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 4, 1000)
    days = np.repeat([-1.0, 0.5, 2.0, -0.5], 250) + 0.3 * rng.standard_normal(1000)
    np.testing.assert_array_equal(as_streamed(days, classes), days)
    levels = 1.0 * classes + 0.3 * rng.standard_normal(1000)
    assert inflation(as_streamed(levels, classes) - 1.5) > 5 > inflation(levels - 1.5)
    np.testing.assert_array_equal(as_streamed(np.ones(1000), classes), np.ones(1000))
