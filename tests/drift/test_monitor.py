"""One alarm per drift, over several signals."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trimtab.drift.catalogue import build, build_monitor
from trimtab.drift.monitor import Alarm, Monitor
from trimtab.drift.sprt import Sprt

SIGNALS = ["divergence", "distance", "entropy"]


rng = np.random.default_rng(7)
RECORDED: list[dict[str, NDArray[np.float64]]] = [
    {},
    {"divergence": rng.standard_normal(500), "entropy": np.repeat(rng.standard_normal(100), 5)},
]
"""Of none of the signals, or of two; the second's detectors watch for two shifts."""


def stream(n: int, seed: int, shift: float = 0.0) -> list[dict[str, float]]:
    values = np.random.default_rng(seed).standard_normal((n, 3)) + shift
    return [dict(zip(SIGNALS, map(float, row), strict=True)) for row in values]


def run(monitor: Monitor, windows: list[dict[str, float]]) -> list[tuple[int, Alarm]]:
    return [(i, alarm) for i, values in enumerate(windows) if (alarm := monitor.update(values)) is not None]


def test_a_drift_of_all_signals_is_one_alarm() -> None:
    monitor = build_monitor(SIGNALS, "sprt", every=1e6, refractory=256)
    found = run(monitor, stream(400, 0) + stream(600, 1, shift=3.0))
    assert len(found) == 1
    at, alarm = found[0]
    assert 400 <= at < 420
    assert alarm.signal in SIGNALS
    assert alarm.detector == "sprt"
    assert alarm.onset == pytest.approx(at - 400, abs=5)
    assert alarm.statistic >= alarm.threshold
    assert set(alarm.evidence) == set(SIGNALS)
    assert alarm.evidence[alarm.signal] >= 1


def test_the_next_drift_is_told_again_after_the_refractory_period() -> None:
    windows = stream(400, 0) + stream(300, 1, shift=3.0) + stream(300, 2, shift=8.0)
    monitor = build_monitor(SIGNALS, "sprt", every=1e6, refractory=256)
    assert [at // 100 for at, _ in run(monitor, windows)] == [4, 7]
    monitor = build_monitor(SIGNALS, "sprt", every=1e6, refractory=1000)
    assert [at // 100 for at, _ in run(monitor, windows)] == [4]


def test_the_rate_is_shared_by_the_signals() -> None:
    alone = build("sprt", every=3 * 5000.0)
    monitor = build_monitor(SIGNALS, "sprt", every=5000.0, refractory=0)
    values = stream(300, 3)
    shares = []
    for window in values:
        monitor.update(window)
        finding = alone.update(window["entropy"])
        shares.append(finding.statistic / finding.threshold)
    assert monitor.update({}) is None
    assert shares[-1] <= monitor.pressure <= 1


def test_false_alarms_of_all_signals_together_keep_to_the_rate() -> None:
    found = 0
    for seed in range(10):
        found += len(run(build_monitor(SIGNALS, "sprt", every=1000, refractory=0), stream(3000, 50 + seed)))
    assert found <= 30 + 3 * math.sqrt(30)


def test_signals_may_be_missing_or_not_finite() -> None:
    monitor = build_monitor(SIGNALS, "sprt", every=20000, refractory=10)
    plain = build_monitor(SIGNALS, "sprt", every=20000, refractory=10)
    for i, window in enumerate(stream(300, 0)):
        kept = dict(window)
        if i % 2:
            del kept["divergence"]
            monitor.update({})
            monitor.update({"entropy": math.nan, "distance": math.inf})
        monitor.update(kept)
        plain.update(kept)
    assert monitor.state()["detectors"] == plain.state()["detectors"]


def test_onset_is_counted_in_windows() -> None:
    """Every fourth window is observed: 10 values ago are 40 windows ago."""
    monitor = Monitor({"entropy": Sprt(every=20000)}, refractory=0)
    windows: list[dict[str, float]] = []
    for window in stream(300, 0) + stream(100, 1, shift=1.5):
        windows += [{"entropy": window["entropy"]}, {}, {}, {}]
    at, alarm = run(monitor, windows)[0]
    assert alarm.onset is not None
    assert at - alarm.onset == pytest.approx(1200, abs=24)


def test_a_signal_that_is_not_watched_is_refused() -> None:
    with pytest.raises(KeyError, match="colour"):
        build_monitor(SIGNALS, "sprt", every=20000, refractory=10).update({"colour": 1.0})


@pytest.mark.parametrize("cut", [0, 100, 402, 405, 500])
def test_it_goes_on_exactly_from_its_state(cut: int) -> None:
    def fresh() -> Monitor:
        return build_monitor(SIGNALS, "sprt", every=2000, refractory=50)

    windows = stream(400, 0) + stream(200, 1, shift=2.0)
    first, second = fresh(), fresh()
    run(first, windows[:cut])
    second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert run(second, windows[cut:]) == run(first, windows[cut:])
    assert second.state() == first.state()
    assert second.pressure == first.pressure


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0, 5, 100]),
    st.sampled_from(["sprt", "sprt compiled", "sprt with a season", "ewma"]),
    st.booleans(),
)
def test_many_windows_at_once_are_taken_as_one_by_one(seed: int, refractory: int, detector: str, known: bool) -> None:
    """Wherever they are cut; with values missing and not finite; with recordings that hang together or without."""
    rng = np.random.default_rng(seed)
    options = {"season": 24} if detector.endswith("season") else {}
    single, whole = (
        build_monitor(
            SIGNALS, detector.split()[0], every=200, refractory=refractory, options=options, reference=RECORDED[known]
        )
        for _ in range(2)
    )
    if detector.endswith("compiled"):
        whole.compile()
    windows = stream(150, seed) + stream(120, seed + 1, shift=3.0) + stream(80, seed + 2)
    for window in windows:
        for signal in SIGNALS:
            chance = rng.random()
            if chance < 0.01:
                del window[signal]
            elif chance < 0.02:
                window[signal] = float(rng.choice([math.nan, math.inf, -math.inf, 1e200]))
    begin, found = 0, 0
    while begin < len(windows):
        part = windows[begin : begin + int(rng.integers(1, 70))]
        begin += len(part)
        alarms, pressures = whole.update_many([[values.get(s, math.nan) for s in SIGNALS] for values in part])
        one_by_one = [(single.update(values), single.pressure) for values in part]
        assert [(alarms.get(i), pressure) for i, pressure in enumerate(pressures)] == one_by_one
        assert json.dumps(whole.state()) == json.dumps(single.state())
        found += len(alarms)
    assert found


def test_a_state_of_other_signals_is_refused() -> None:
    state = build_monitor(["entropy"], "sprt", every=2000, refractory=50).state()
    with pytest.raises(ValueError, match="of other signals or of another version"):
        build_monitor(SIGNALS, "sprt", every=2000, refractory=50).restore(state)


def test_a_reset_makes_it_new() -> None:
    monitor = build_monitor(SIGNALS, "sprt", every=2000, refractory=50)
    windows = stream(400, 0) + stream(200, 1, shift=2.0)
    first = run(monitor, windows)
    monitor.reset()
    assert run(monitor, windows) == first


def test_detectors_of_rates_do_not_watch_unbounded_signals() -> None:
    with pytest.raises(ValueError, match="detector ddm takes numbers from 0 to 1, and entropy is not"):
        build_monitor(["entropy"], "ddm", every=2000, refractory=50)


def test_references_reach_their_signals() -> None:
    """With a reference there is no warm-up: a drift at the very start is seen."""
    reference = {"entropy": np.random.default_rng(0).standard_normal(1000)}
    monitor = build_monitor(SIGNALS, "sprt", every=20000, refractory=50, reference=reference)
    found = run(monitor, stream(30, 1, shift=4.0))
    assert [alarm.signal for _, alarm in found] == ["entropy"]


def test_damaged_machine_code_is_done_without(tmp_path: Path) -> None:
    """What was kept and then cut short, as after a loss of power."""
    run = """
import sys
from trimtab.drift.catalogue import build
from trimtab.drift.swift import swift
print(swift([build("sprt", every=1000.0)]) is not None)
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def began() -> tuple[str, str]:
        done = subprocess.run([sys.executable, "-c", run], env=environment, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    assert began() == ("True\n", "")
    kept = list(tmp_path.rglob("*.nbi"))
    assert kept
    for file in kept:
        file.write_bytes(b"")
    said, log = began()
    assert said == "False\n"
    assert log.startswith("detectors go on without machine code: EOFError")
