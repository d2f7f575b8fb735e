"""The test of the level beside HTM: learns from the first values how far they hang together."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trimtab.drift.htm_sprt import HtmSprt
from trimtab.drift.level_test import LEARNT, LevelTest
from trimtab.drift.sprt import Sprt

SMALL = {"columns": 256, "cells": 4, "segments": 500}


def found(test: LevelTest, values: np.ndarray) -> list[int]:
    return [i for i, v in enumerate(values.tolist()) if (f := test.update(v)) is not None and f.alarm]


def test_it_is_the_sprt_with_the_first_values_as_its_reference() -> None:
    values = np.random.default_rng(0).standard_normal(LEARNT + 400)
    values[LEARNT + 200 :] += 1.0
    test, sprt = LevelTest(every=500, reference=None), Sprt(every=500, reference=values[:LEARNT])
    assert [test.update(v) for v in values[:LEARNT].tolist()] == [None] * LEARNT
    rest = values[LEARNT:].tolist()
    assert [test.update(v) for v in rest] == [sprt.update(v) for v in rest]


def test_a_cycle_does_not_alarm_and_a_shift_of_noise_does() -> None:
    rng = np.random.default_rng(1)
    t = np.arange(3000)
    noise = rng.standard_normal(3000)
    assert found(LevelTest(every=5000, reference=None), 3 * np.sin(2 * np.pi * t / 288) + noise) == []
    shifted = found(LevelTest(every=5000, reference=None), noise + (t >= 2000))
    assert shifted
    assert 2000 <= shifted[0] < 2060


def test_what_never_moves_gives_no_reference() -> None:
    test = LevelTest(every=1000, reference=None)
    assert found(test, np.full(2 * LEARNT, 3.0)) == []
    test.restore(json.loads(json.dumps(test.state())))
    assert found(test, np.random.default_rng(2).standard_normal(LEARNT)) == []
    assert test.update(0.0) is not None or test.update(0.0) is not None, "and then there is one"


@pytest.mark.parametrize("cut", [100, LEARNT - 1, LEARNT, 900])
@pytest.mark.parametrize("known", [False, True])
def test_it_goes_on_exactly_from_its_state(cut: int, known: bool) -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal(1000).tolist()
    reference = rng.standard_normal(300) if known else None
    first, second = (LevelTest(every=1000, reference=reference) for _ in range(2))
    for value in values[:cut]:
        first.update(value)
    text = json.dumps(first.state(), allow_nan=False)
    second.restore(json.loads(text))
    assert json.dumps(second.state()) == text
    assert [first.update(v) for v in values[cut:]] == [second.update(v) for v in values[cut:]]
    if cut >= LEARNT:
        other = LevelTest(every=1000, reference=None if known else rng.standard_normal(300))
        with pytest.raises(ValueError, match="reset the detector"):
            other.restore(json.loads(text))


def test_the_hybrid_sees_a_shift_of_noise_and_calls_it_a_drift() -> None:
    values = np.random.default_rng(4).standard_normal(1400)
    values[1200:] += 1.5
    detector = HtmSprt(every=10000, **SMALL)
    alarms = []
    for i, value in enumerate(values.tolist()):
        finding = detector.update(value)
        assert (finding.statistic >= finding.threshold) == finding.alarm
        if finding.alarm:
            alarms.append((i, detector.decision, finding.onset))
    assert [decision for _, decision, _ in alarms] == ["drift"]
    i, _, onset = alarms[0]
    assert 1200 <= i < 1240
    assert onset is not None
    assert abs(i - onset - 1200) <= 5


def test_a_stream_of_two_kinds_is_tested_for_their_rate() -> None:
    rng = np.random.default_rng(8)
    values = np.where(rng.random(3000) < np.where(np.arange(3000) < 2500, 0.1, 0.4), 7.0, 3.0)
    detector = LevelTest(every=5000, reference=None)
    assert not detector.explains(7.0)
    found = [detector.update(value) for value in values.tolist()]
    assert detector.explains(7.0)
    assert detector.explains(3.0)
    assert not detector.explains(5.0)
    alarms = [t for t, finding in enumerate(found) if finding is not None and finding.alarm]
    assert 2500 <= alarms[0] < 2600
    again = LevelTest(every=5000, reference=None)
    again.restore(json.loads(json.dumps(detector.state())))
    assert [again.update(v) for v in values.tolist()] == [detector.update(v) for v in values.tolist()]


def test_a_third_kind_is_not_explained() -> None:
    detector = LevelTest(every=5000, reference=None)
    for value in [0.0, 1.0] * 10:
        detector.update(value)
    assert detector.explains(1.0)
    detector.update(0.5)
    assert not detector.explains(1.0)
