"""Cycles: that they do not alarm, that drifts do, and what is exact about it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trimtab.drift.catalogue import CATALOGUE, build, build_monitor
from trimtab.drift.detector import Detector
from trimtab.drift.seasonal import fitted, lines_of, period_of, residuals
from trimtab.drift.streams import draw

Array = NDArray[np.float64]

DAY = 48


def daily(n: int, seed: int, begin: int = 0) -> Array:
    """A cycle of DAY values, ten deviations from low to high, in white noise."""
    phase = 2 * np.pi * (begin + np.arange(n)) / DAY
    return 4 * np.sin(phase) - 2 * np.cos(3 * phase) + np.random.default_rng(seed).standard_normal(n)


def alarms(detector: Detector, values: Array) -> list[int]:
    return [t for t, value in enumerate(values.tolist()) if detector.update(value).alarm]


@pytest.mark.parametrize("name", ["sprt", "glr", "ewma", "shiryaev_roberts", "page_hinkley", "adwin", "ks"])
@pytest.mark.parametrize("reference", [0, 480])
def test_a_cycle_does_not_alarm_and_a_drift_does(name: str, reference: int) -> None:
    false = missed = 0
    for seed in range(4):
        values = daily(2000 if name == "ks" else 3000, seed)
        known = values[:reference] if reference else None
        detector = build(name, every=1000, options={"season": DAY}, reference=known, follows=True)
        false += len(alarms(detector, values[reference:]))
        # Quiet until then, lest it learn just when the drift comes.
        later = daily(400, seed + 50, begin=values.size)
        learning = bool(alarms(detector, later[:100]))
        missed += not (alarms(detector, later[100:] + 3.0) or learning)
    assert false <= 12 + 3 * math.sqrt(12)
    assert missed <= 1


def test_the_run_length_is_the_one_asked_for() -> None:
    """Though the cycle is estimated: in 60,000 values, some 240 alarms."""
    values = daily(60_000, 1)
    found = alarms(build("sprt", every=200, options={"season": DAY}), values)
    expected = values.size / (200 + 64)
    assert len(found) == pytest.approx(expected, abs=3 * math.sqrt(expected))


def test_without_a_season_a_cycle_alarms() -> None:
    assert len(alarms(build("sprt", every=1000), daily(3000, 0))) > 20


def test_residuals_are_white_and_of_the_noises_deviation() -> None:
    rest, cycle = residuals(daily(960, 3), [DAY])
    assert (cycle.lines * DAY).round(6).tolist()[:2] == [1.0, 3.0]
    assert rest.std() == pytest.approx(1.0, abs=0.08)
    assert abs(np.corrcoef(rest[1:], rest[:-1])[0, 1]) < 0.1


def test_a_fit_is_that_of_the_cycle() -> None:
    _, weights, scale = fitted(np.arange(4800.0), daily(4800, 4) + 7.0, np.array([1.0, 3.0]) / DAY)
    assert weights == pytest.approx(np.array([-4j, -2.0]), abs=0.1)
    assert scale == pytest.approx(1.0, abs=0.05)


def test_what_has_no_cycle_is_given_none() -> None:
    white = np.random.default_rng(5).standard_normal(2000)
    coloured = draw("autocorrelated", 5000, 0)[0][:2000]
    # 64 harmonics of 288, tested at 1 %.
    assert lines_of(white, [288]).size <= 4
    assert lines_of(coloured, [288]).size <= 4
    assert period_of(white) is None
    assert period_of(coloured) is None
    assert period_of(np.cumsum(white)) is None
    assert period_of(np.ones(2000)) is None
    assert period_of(daily(150, 0)) is None, "too short to tell"


def test_a_period_is_found() -> None:
    assert period_of(daily(1000, 6)) == DAY
    gaps = daily(1000, 6)
    gaps[::7] = np.nan
    assert period_of(gaps) == DAY
    assert period_of(draw("seasonal_week", 3000, 0)[0][:1100]) == 168


def test_two_periods_at_once() -> None:
    """A day of 24 values in a week of 168: the seventh harmonic of the week is the day's first, and is taken once."""
    values = draw("seasonal_week", 6000, 1)[0][:2000]
    both, week = lines_of(values, [24, 168]), lines_of(values, [168])
    assert np.unique(np.round(both, 9)).size == both.size
    assert set(week.round(9)) <= set(both.round(9))
    assert np.any(np.isclose(both, 1 / 24))


def test_a_long_cycle_is_learnt_in_parts_and_stays_small() -> None:
    """A day of 2,880 values, in parts of eleven; nothing but the first harmonic and the 64th, ten minutes long."""
    times = np.arange(4 * 2880)
    cycle = 3 * np.sin(2 * np.pi * times / 2880) + 2 * np.cos(2 * np.pi * times * 64 / 2880)
    values = cycle + np.random.default_rng(20).standard_normal(times.size)
    detector = build("sprt", every=10_000, options={"season": 2880})
    assert not alarms(detector, values[:5000])
    assert len(json.dumps(detector.state())) < 15_000
    assert len(alarms(detector, values[5000:])) <= 2
    known = detector.state()["cycle"]
    found = dict(zip(np.round(np.array(known["lines"]) * 2880).tolist(), known["weights"], strict=True))
    assert found[1.0] == pytest.approx([0.0, -3.0], abs=0.15)
    assert found[64.0] == pytest.approx([2.0, 0.0], abs=0.15)


def test_values_that_are_missing_count_as_time() -> None:
    values = daily(3000, 7)
    gap = np.concatenate([values[:1500], np.full(DAY // 2, np.nan), daily(1500, 8, begin=1500 + DAY // 2)])
    assert len(alarms(build("sprt", every=10_000, options={"season": DAY}), gap)) == 0
    skipped = gap[np.isfinite(gap)]
    assert len(alarms(build("sprt", every=10_000, options={"season": DAY}), skipped)) > 0


def test_a_changed_cycle_is_told_and_learnt() -> None:
    detector = build("sprt", every=10_000, options={"season": DAY})
    assert not alarms(detector, daily(960, 9))
    times = np.arange(960, 960 + 40 * DAY)
    changed = daily(times.size, 10, begin=960) + 3 * np.cos(2 * np.pi * times / DAY)
    found = alarms(detector, changed)
    assert found
    assert found[0] < 2 * DAY
    assert found[-1] < 12 * DAY, "the new cycle is usual by then"


def test_an_odd_day_does_not_spoil_the_cycle() -> None:
    """Up by 30 deviations for most of a day: told, and then no more than it is where there is no cycle."""
    odd = np.zeros(1920)
    odd[960:1000] = 30
    found = alarms(build("sprt", every=10_000, options={"season": DAY}), daily(1920, 19) + odd)
    plain = alarms(build("sprt", every=10_000), np.random.default_rng(19).standard_normal(1920) + odd)
    assert 960 <= found[0] < 964
    assert len(found) <= len(plain) + 1
    assert found[-1] < 1000 + 6 * DAY


@pytest.mark.parametrize("reference", [False, True])
def test_it_goes_on_exactly_from_its_state(reference: bool) -> None:
    values = daily(900, 11)
    values[[3, 80, 300, 301, 302]] = [math.nan, math.inf, math.nan, math.nan, -math.inf]
    values[600:] += 4
    known = daily(480, 12) if reference else None

    def make() -> Detector:
        return build("sprt", every=1000, options={"season": DAY}, reference=known, follows=True)

    first, second = make(), make()
    raised = 0
    for i, value in enumerate(values.tolist()):
        if i in {0, 1, 4, 100, 199, 200, 301, 604, 660, 720}:
            text = json.dumps(second.state(), allow_nan=False)
            second = make()
            alarms(second, daily(250, 13))
            second.restore(json.loads(text))
            assert json.dumps(second.state(), allow_nan=False) == text == json.dumps(first.state())
        found = first.update(value)
        assert second.update(value) == found
        assert math.isfinite(found.statistic)
        raised += found.alarm
    assert raised


def test_a_state_of_another_season_is_refused() -> None:
    with pytest.raises(ValueError, match="is not of sprt with this season; reset the detector"):
        build("sprt", every=1000, options={"season": 24}).restore(
            build("sprt", every=1000, options={"season": 48}).state()
        )
    with pytest.raises(ValueError, match="reset the detector"):
        build("sprt", every=1000, options={"season": 24}).restore(build("sprt", every=1000).state())


def test_a_reset_keeps_the_time_and_the_cycle() -> None:
    detector = build("sprt", every=10_000, options={"season": DAY})
    alarms(detector, daily(500, 14))
    detector.reset()
    assert not alarms(detector, daily(500, 15, begin=500) + 6.0), "the level is learnt anew, the cycle is not"


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([-3.0, 1e-6, 1e6]), st.sampled_from([0.0, 50.0, -1e4]))
def test_scale_and_shift_change_nothing(seed: int, factor: float, offset: float) -> None:
    values = daily(700, seed)
    values[500:] += 3
    plain = build("sprt", every=1000, options={"season": DAY})
    scaled = build("sprt", every=1000, options={"season": DAY})
    assert alarms(scaled, factor * (values + offset)) == alarms(plain, values)


def test_a_constant_stream_gives_no_alarm() -> None:
    assert not alarms(build("sprt", every=1000, options={"season": 24}), np.full(800, 1e9 + 0.1))


def test_wild_values_do_not_spoil_the_cycle() -> None:
    values = daily(1500, 16)
    values[[20, 70, 110]] = 1e6
    detector = build("sprt", every=10_000, options={"season": DAY})
    assert len(alarms(detector, values)) <= 1


@pytest.mark.parametrize("wrong", [3, 0, -24, "day", [24, "x"], True, [], math.nan])
def test_a_wrong_season_is_one_sentence(wrong: object) -> None:
    with pytest.raises(
        ValueError, match=r"^detector sprt: option season is .*; give a number or a list of them from 4"
    ):
        build("sprt", every=1000, options={"season": wrong})


def test_counts_rates_and_sequences_have_no_season() -> None:
    without = [name for name, entry in CATALOGUE.items() if "season" not in entry.options]
    binary = [name for name, entry in CATALOGUE.items() if entry.values != "any"]
    assert sorted(without) == sorted([*binary, "htm", "htm_sprt"])


def test_a_monitor_counts_windows_that_were_not_observed() -> None:
    """A signal seen in every second window: the period is in windows all the same."""
    values = daily(3000, 17)
    monitor = build_monitor(["entropy"], "sprt", every=10_000, refractory=10, options={"season": DAY})
    found = [t for t, v in enumerate(values) if monitor.update({"entropy": float(v)} if t % 2 else {}) is not None]
    assert not found
    later = daily(200, 18, begin=3000) + 4
    assert any(monitor.update({"entropy": float(v)} if t % 2 else {}) is not None for t, v in enumerate(later))
