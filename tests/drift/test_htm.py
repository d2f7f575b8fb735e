"""HTM on streams: baseline, likelihood, the two tests, states, causality."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.drift.anomaly_likelihood import log_scale, tail
from trimtab.drift.htm import HtmAnomaly
from trimtab.drift.htm_score import HtmScore
from trimtab.drift.htm_sprt import HtmSprtAnomaly, ScoreTest
from trimtab.drift.range_rule import RangeRule
from trimtab.drift.score_baseline import ScoreBaseline, Usual
from trimtab.drift.scoring import scorer

SMALL = {"columns": 512, "cells": 8, "segments": 2000}
START = 1.4e9


def wave(n: int, seed: int = 0) -> list[tuple[float, float]]:
    """A daily cycle in steps of 20 minutes, with a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    v = np.sin(2 * np.pi * t / 72) + 0.3 * np.sin(2 * np.pi * t / 12) + 0.02 * rng.standard_normal(n)
    return [(START + 1200.0 * i, float(x)) for i, x in enumerate(v)]


KINDS: dict[str, Callable[..., Any]] = {"htm": HtmAnomaly, "htm_sprt": HtmSprtAnomaly}


@pytest.fixture(params=list(KINDS))
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return KINDS[str(request.param)]


def test_what_is_usual_is_the_mean_of_ten() -> None:
    rng = np.random.default_rng(1)
    scores = (0.4 * rng.random(3000)).tolist()
    baseline = ScoreBaseline(learning=50, estimation=100, refresh=1, span=1e9)
    for score in scores:
        average, usual = baseline.update(score)
    assert usual is not None
    means = [np.mean(scores[i - 9 : i + 1]) for i in range(100, 2999)]
    assert average == pytest.approx(np.mean(scores[-10:]))
    assert usual.mean == pytest.approx(np.mean(means))
    assert usual.deviation == pytest.approx(np.std(means))


def test_what_is_usual_is_never_too_exact() -> None:
    baseline = ScoreBaseline(learning=10, estimation=10)
    for _ in range(300):
        usual = baseline.update(0.0)[1]
    assert usual == (0.03, math.sqrt(0.0003))


def test_the_likelihood_is_the_normal_tail() -> None:
    # P(N(0, 1) > 1.959964) = 0.025; > 4.264891: 1e-5 (tables).
    assert tail(0.3 + 1.959964 * 0.1, Usual(0.3, 0.1)) == pytest.approx(0.025, rel=1e-5)
    assert tail(0.3 + 4.264891 * 0.1, Usual(0.3, 0.1)) == pytest.approx(1e-5, rel=1e-5)
    assert log_scale(1e-5) == pytest.approx(0.5, abs=1e-5)
    assert log_scale(1.0) == 0.0
    assert log_scale(0.0) == 1.0


def test_the_range_rule() -> None:
    rule = RangeRule(0.05)
    found = [rule.update(v) for v in (1.0, 1.0, 5.0, 2.0, 11.0, 11.4, 12.0, 0.9, 0.0)]
    # 5.0 comes where there is no range yet; 11.4 and 0.9 lie within 5 % of the range, 12.0 and 0.0 do not.
    assert found == [False, False, False, False, True, False, True, False, True]


def test_the_repeated_test_has_at_least_the_run_length_asked() -> None:
    # Scores that are normal and independent, as the tests take them to be; one value, so that means of ten are, too.
    rng = np.random.default_rng(0)
    test = ScoreTest(every=300.0, hold=1)
    scores = np.clip(0.5 + 0.05 * rng.standard_normal(60000), 0, 1)
    alarms = sum(test.update(float(s))[0] for s in scores)
    assert 0 < alarms <= 60000 / 300


def test_the_evidence_is_the_mixture_of_repeated_tests() -> None:
    # Against the definition, with the baseline that the test has by then: S_k = max(0, S_k + s/10 (z - s/2)).
    rng = np.random.default_rng(5)
    test, baseline = ScoreTest(every=1e9, hold=100), ScoreBaseline(span=4000)
    sums = np.zeros(4)
    shifts = np.array([1.0, 2.0, 4.0, 8.0])
    for score in np.concatenate([0.3 + 0.05 * rng.standard_normal(400), 0.33 + 0.05 * rng.standard_normal(30)]):
        usual = baseline.update(float(score))[1]
        test.update(float(score))
        if usual is not None:
            sums = np.maximum(0, sums + shifts / 10 * ((score - usual.mean) / usual.deviation - shifts / 2))
        assert test.evidence == pytest.approx(np.log(np.mean(np.exp(sums))), abs=1e-9)
    assert 0 < test.evidence < test.threshold


def test_one_record_alone_is_no_anomaly_and_two_are() -> None:
    quiet = [0.0] * 400
    test = ScoreTest(every=1e5, hold=100)
    assert run(test, np.array([*quiet, 1.0, *quiet[:20], 1.0, 1.0])) == ["anomaly 422"]


def test_seeds_differ() -> None:
    records = wave(500)
    first, same, other = (HtmScore(**SMALL, regions=1, seed=seed) for seed in (1, 1, 2))
    found = [[score.update(*record) for record in records] for score in (first, same, other)]
    assert found[0] == found[1] != found[2]


def run(test: ScoreTest, scores: np.ndarray) -> list[str]:
    out = []
    for i, score in enumerate(scores):
        anomaly, drift = test.update(float(score))
        if anomaly or drift:
            out.append(f"{'anomaly' if anomaly else 'drift'} {i}")
    return out


def test_a_short_surprise_is_an_anomaly_and_a_lasting_one_a_drift() -> None:
    rng = np.random.default_rng(3)
    quiet = 0.1 + 0.03 * rng.random(900)
    surprise = np.full(12, 0.6)
    test = ScoreTest(every=1e6, hold=100)
    assert run(test, quiet) == []
    found = run(test, np.concatenate([surprise, quiet[:300]]))
    assert [f.split()[0] for f in found] == ["anomaly"]
    assert int(found[0].split()[1]) < 12
    found = run(test, np.full(400, 0.6) + 0.03 * rng.random(400))
    assert [f.split()[0] for f in found] == ["anomaly", "drift"], "and then it is usual"
    assert 35 <= int(found[1].split()[1]) < 100


def test_a_break_of_a_cycle_is_seen(make: Callable[..., Any]) -> None:
    records = wave(2200)
    for i in range(2000, 2036):
        records[i] = (records[i][0], 0.1)  # within the range, but flat
    detector = make(**SMALL, range_rule=False)
    scores = [detector.update(*record) for record in records]
    assert all(0.0 <= s <= 1.0 for s in scores)
    assert max(scores[:200]) == 0.0, "while it learns"
    alarms = [i for i, s in enumerate(scores) if s >= detector.alarm_at]
    assert any(2000 <= i < 2045 for i in alarms)
    assert sum(i >= 1000 for i in alarms) <= 3


def test_a_value_out_of_range_scores_one(make: Callable[..., Any]) -> None:
    records = wave(500)
    records[450] = (records[450][0], 9.0)
    detector = make(**SMALL)
    assert [detector.update(*record) for record in records][450] == 1.0


def test_scores_do_not_depend_on_what_comes_later(make: Callable[..., Any]) -> None:
    records = wave(900)
    other = records[:800] + [(t, v + 3.0) for t, v in records[800:]]
    first, second = make(**SMALL), make(**SMALL)
    assert [first.update(*r) for r in records][:800] == [second.update(*r) for r in other][:800]


@pytest.mark.parametrize("cut", [100, 200, 760])
def test_it_goes_on_exactly_from_its_state(make: Callable[..., Any], cut: int) -> None:
    records = wave(1000, 4)
    first, second = make(**SMALL), make(**SMALL)
    for record in records[:cut]:
        first.update(*record)
    text = json.dumps(first.state(), allow_nan=False)
    second.restore(json.loads(text))
    assert json.dumps(second.state()) == text
    assert [first.update(*r) for r in records[cut:]] == [second.update(*r) for r in records[cut:]]
    with pytest.raises(ValueError, match="reset the detector"):
        make(**{**SMALL, "columns": 640}).restore(json.loads(text))
    with pytest.raises(ValueError, match="reset the detector"):
        make(**SMALL, range_rule=False).restore(json.loads(text))


def test_the_resolution_follows_the_range_at_the_marks() -> None:
    score = HtmScore(**SMALL, regions=1)
    values = [0.0] * 400 + [float(i % 10) for i in range(200)] + [float(i % 60) for i in range(900)]
    given = [score.update(None, v) is not None for v in values]
    # 150 values, the last of which is the first that differs; before, there is no range.
    assert given.index(True) == 400 + 1
    assert all(given[401:])
    assert score.state()["resolution"] == pytest.approx(59 / 130)
    assert score.state()["seen"] == []


def test_in_noise_the_resolution_is_a_share_of_the_steps_where_times_are_known() -> None:
    values = np.random.default_rng(7).standard_normal(150)
    timed, plain = HtmScore(**SMALL, regions=1), HtmScore(**SMALL, regions=1)
    for i, value in enumerate(values.tolist()):
        timed.update(START + 300.0 * i, value)
        plain.update(None, value)
    assert timed.state()["resolution"] == pytest.approx(0.25 * np.median(np.abs(np.diff(values))))
    assert plain.state()["resolution"] == pytest.approx(np.ptp(values) / 130)
    assert timed.state()["resolution"] > plain.state()["resolution"]


def test_what_is_not_finite_is_skipped(make: Callable[..., Any]) -> None:
    detector, clean = make(**SMALL), make(**SMALL)
    for time, value in wave(400):
        assert detector.update(time, math.nan) == 0.0
        assert detector.update(time, math.inf) == 0.0
        assert detector.update(time, value) == clean.update(time, value)


def test_any_detector_scores_from_0_to_1_and_half_at_an_alarm() -> None:
    rng = np.random.default_rng(0)
    score = scorer("sprt", every=1000)
    found = [score(None, float(v)) for v in np.concatenate([rng.standard_normal(300), rng.standard_normal(50) + 3])]
    assert any(alarm for _, alarm in found[300:])
    assert all(0 <= s <= 1 and (s >= 0.5) == alarm for s, alarm in found)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="detector htm: option columns is 3; give a whole number from 64"):
        scorer("htm", options={"columns": 3})
    with pytest.raises(ValueError, match="one false alarm in 2 values is asked for"):
        scorer("htm", every=2)
    with pytest.raises(ValueError, match="detector 'psychic' is unknown"):
        scorer("psychic")
    with pytest.raises(ValueError, match="must be at least 1"):
        ScoreBaseline(refresh=0)


def test_without_numba_one_sentence_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("trimtab.drift.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    from trimtab.drift.catalogue import build

    with pytest.raises(ModuleNotFoundError, match=r"^HTM needs numba, which is not installed; install trimtab\[htm\]$"):
        build("htm", every=1000)


def test_where_code_may_not_be_made_one_sentence_says_so(tmp_path: Path) -> None:
    """What numba does under systemd's MemoryDenyWriteExecute, when it is imported."""
    (tmp_path / "numba.py").write_text("raise PermissionError(13, 'cannot allocate executable memory')\n")
    build = (
        "from trimtab.drift.catalogue import build\ntry: build('htm', every=1000)\nexcept ImportError as e: print(e)"
    )
    run = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{build}"
    said = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, timeout=60, check=True).stdout
    possible = run.replace(build, "from trimtab.drift.compiled import possible; print(possible())")
    assert subprocess.run([sys.executable, "-c", possible], capture_output=True, text=True).stdout == "False\n"
    assert said == (
        "HTM compiles its code when it starts, which this process may not (cannot allocate executable memory); "
        "under systemd, set MemoryDenyWriteExecute=no\n"
    )


def test_where_nothing_may_be_kept_on_disk_code_is_compiled_all_the_same(tmp_path: Path) -> None:
    """As in a unit or a container whose files are read-only, for a user without a home."""
    source = tmp_path / "place.py"
    source.write_text("from trimtab.drift.compiled import compiled\n@compiled\ndef double(x): return 2 * x\n")
    (tmp_path / "__pycache__").write_text("no folder")
    nowhere = str(tmp_path / "__pycache__" / "home")
    run = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import place; print(place.double(3))"
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment |= {"HOME": nowhere, "XDG_CACHE_HOME": nowhere, "IPYTHONDIR": nowhere}
    command = [sys.executable, "-B", "-c", run]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr


def test_a_stream_with_more_events_than_asked_gets_a_higher_threshold() -> None:
    test = ScoreTest(every=1000.0, hold=10)
    assert test.threshold == pytest.approx(math.log(1000))
    test.begin()
    test.begin()
    test.update(0.1)
    assert test.threshold == pytest.approx(math.log(1000) + 2 - 1 / 1000)
    for _ in range(3000):
        test.update(0.1)
    assert test.threshold == pytest.approx(math.log(1000)), "one event in `every` records is what is asked"
    # Scores that burst: far from normal, so that a fixed threshold is reached again and again.
    rng = np.random.default_rng(6)
    scores = np.where(np.convolve(rng.random(20000) < 0.004, np.ones(6))[:20000] > 0, 0.9, 0.05)
    test = ScoreTest(every=20000.0, hold=100)
    alarms = [i for i, score in enumerate(scores) if test.update(float(score))[0]]
    assert sum(i < 5000 for i in alarms) >= sum(i >= 15000 for i in alarms)
    assert len(alarms) <= 40


def fortnight(kind: str) -> list[tuple[float, float]]:
    """Two weeks in steps of 5 minutes, of the kinds that NAB's artificial recordings are described as (Lavin and Ahmad
    2015): usually a plateau every day, from 9 to 18 o'clock; what is anomalous is so on the eleventh day."""
    rng = np.random.default_rng(8)
    n = 14 * 288
    rows = np.arange(n)
    day = (rows % 288 >= 108) & (rows % 288 < 216)
    odd = rows // 288 == 10
    values = np.where(day, 80.0, 20.0)
    if kind not in ("square", "flat"):
        values += 8.0 * rng.random(n)
    match kind:
        case "jumps up":
            values[odd & day] += 70.0
        case "jumps down":
            values[odd & day] -= 30.0
        case "no jump":
            values[odd & day] -= 60.0
        case "flat middle":
            values[odd & day] = 25.0
        case "flat":
            values[:] = 45.0
        case "noise":
            values = 12.0 + 5.0 * rng.random(n)
        case "density":
            values = np.where(rows % np.where(odd, 12, 72) == 0, 20.0, 0.0)
    return [(START // 86400 * 86400 + 300.0 * i, float(v)) for i, v in enumerate(values)]


ODD = ["jumps up", "jumps down", "no jump", "flat middle", "density"]


@pytest.mark.parametrize("kind", [*ODD, "daily", "square", "flat", "noise"])
def test_odd_days_are_anomalies_and_usual_ones_are_not(kind: str) -> None:
    detector = HtmSprtAnomaly(**SMALL)
    alarms = [i for i, record in enumerate(fortnight(kind)) if detector.update(*record) >= detector.alarm_at]
    odd = [i for i in alarms if 10 * 288 <= i < 11 * 288]
    assert bool(odd) == (kind in ODD)
    assert [i for i in alarms if i >= 1000] == odd[:1], (
        "an alarm tells an event, and no other comes once HTM has learnt"
    )
