"""Replays of a recording are like it, and thresholds from them give the run length asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter

from trimtab.drift.catalogue import build
from trimtab.drift.detector_bank import DetectorBank
from trimtab.drift.reference import block_length, inflation
from trimtab.drift.replay import autoregression, doubt, rarer, replayed, share, threshold

Array = NDArray[np.float64]
Draw = Callable[[tuple[int, ...], np.random.Generator], Array]


def autoregressive(phi: float) -> Draw:
    def draw(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        noise = rng.standard_normal((shape[0] + 200, *shape[1:])) * math.sqrt(1 - phi * phi)
        return np.asarray(lfilter([1.0], [1.0, -phi], noise, axis=0)[200:])

    return draw


def student(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return rng.standard_t(3, shape) / math.sqrt(3)


def test_an_autoregression_is_found() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(50_000)
    values = lfilter([1.0], [1.0, -0.5, 0.3], noise)
    assert autoregression(values - values.mean(), 48) == pytest.approx([0.5, -0.3], abs=0.02)
    assert autoregression(noise - noise.mean(), 48).size == 0


def test_a_cycle_is_no_autoregression() -> None:
    rng = np.random.default_rng(1)
    values = 3 * np.sin(2 * np.pi * np.arange(750) / 288) + 0.3 * rng.standard_normal(750)
    assert autoregression(values - values.mean(), block_length(inflation(values))).size == 0


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_replays_hang_together_as_the_recording_does(phi: float) -> None:
    rng = np.random.default_rng(2)
    values = autoregressive(phi)((20_000,), rng) + 5
    streams = replayed(values, block_length(inflation(values)), 100, 4000, rng)
    found = np.mean([inflation(stream) for stream in streams.T])
    assert found == pytest.approx(inflation(values), rel=0.12)
    assert streams.mean() == pytest.approx(values.mean(), abs=0.05)
    for part in (streams, streams[:50]):  # from the first value on
        assert part.std() == pytest.approx(values.std(), rel=0.07)


def test_a_short_recording_is_doubted_and_a_long_one_given_a_margin() -> None:
    assert rarer(2000, 1e6) == 1e6
    assert rarer(50_000, 1000) == pytest.approx(1010, abs=1)
    assert doubt(50_000, 3.0, 1000) == 1.0
    expected = stats.t.isf(3e-3, 300 / 16) / stats.norm.isf(3e-3)
    assert doubt(300, 3.0, 1000) == pytest.approx(expected) == pytest.approx(1.13, abs=0.01)
    assert doubt(300, 40.0, 1000) == pytest.approx(math.sqrt(1 + math.sqrt(2 / (300 / 201)))), "and no more than that"


def test_normal_replays_have_the_recordings_variance_and_correlation_and_no_bound() -> None:
    rng = np.random.default_rng(7)
    values = np.clip(autoregressive(0.7)((3000,), rng), -1.0, 1.0)
    streams = replayed(values, block_length(inflation(values)), 50, 2000, rng, normal=True)
    assert streams.std() == pytest.approx(values.std(), rel=0.05)
    assert np.mean([inflation(stream) for stream in streams.T]) == pytest.approx(inflation(values), rel=0.1)
    assert streams.max() > 1.5


def test_where_many_are_equal_a_threshold_lies_beyond_them() -> None:
    found = np.minimum(np.random.default_rng(4).exponential(size=1000), 2.0)
    assert 2.0 < threshold(found, 1, 20.0) < 2.001


def test_a_threshold_is_reached_once_in_so_many_values() -> None:
    """The largest of `length` exponential values, one of which is above h once in exp(h)."""
    found = np.random.default_rng(3).exponential(size=(4000, 200)).max(axis=1)
    for every in (150.0, 2000.0, 1e5):
        assert threshold(found, 200, every) == pytest.approx(math.log(every), rel=0.04)
    assert share(200, 1e5) == pytest.approx(0.002, rel=0.01)


@pytest.mark.parametrize("draw", [student, autoregressive(0.5)], ids=["student-t", "autoregressive"])
@pytest.mark.parametrize("name", ["sprt", "ewma", "shiryaev_roberts"])
def test_a_long_recording_gives_the_run_length_asked_for(name: str, draw: Draw) -> None:
    """Of 50 times the run length, on average over 10 of them: about 1,600 alarms in all."""
    rng = np.random.default_rng(12)
    every, each, length = 500.0, 40, 2200
    detectors = [build(name, every=every, reference=draw((25_000,), rng)) for _ in range(10)]
    assert run_length(detectors, each, draw((length, len(detectors) * each), rng)) == pytest.approx(every, rel=0.12)


@pytest.mark.parametrize(
    ("name", "n", "draw"),
    [("sprt", 100, student), ("sprt", 100, autoregressive(0.5)), ("ewma", 300, autoregressive(0.5))],
    ids=["sprt-student-t", "sprt-autoregressive", "ewma-autoregressive"],
)
def test_short_recordings_alarm_no_more_often_than_asked(name: str, n: int, draw: Draw) -> None:
    """On average over 10 of them: how wrong each may be is in the threshold."""
    rng = np.random.default_rng(13)
    every, each = 500.0, 20
    detectors = [build(name, every=every, reference=draw((n,), rng)) for _ in range(10)]
    assert run_length(detectors, each, draw((1000, len(detectors) * each), rng)) > 0.9 * every


def run_length(detectors: list[Any], each: int, values: Array) -> float:
    """Values between alarms of so many streams of each detector, but those that it learns from after an alarm."""
    bank = DetectorBank([d for d in detectors for _ in range(each)])
    found = sum(int(bank.update(row).alarm.sum()) for row in values)
    return (values.size - 64 * found) / max(found, 1)


@pytest.mark.parametrize("name", ["shiryaev_roberts", "e_detector"])
def test_sums_beyond_all_numbers_leave_thresholds_finite_and_in_order(name: str) -> None:
    """Of a signal that is nearly always 0: one value that is not is so unlikely that sums of ratios overflow."""
    rng = np.random.default_rng(0)
    recorded = np.where(rng.random(2000) < 0.002, rng.random(2000), 0.0)
    heights = [build(name, every=every, reference=recorded).height for every in (1e3, 1e4)]
    assert np.isfinite(heights).all()
    assert heights[0] <= heights[1]
