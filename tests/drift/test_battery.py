"""What every detector of the catalogue must hold, checked alike for each of them."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.drift.catalogue import build, describe, names
from trimtab.drift.detector import Detector, Finding

SCALED = [n for n in names() if describe(n).values == "any"]
WITH_REFERENCE = ["sprt", "sprt_bernoulli"]

SMALL = {"columns": 512, "cells": 4, "segments": 512}
OPTIONS: dict[str, dict[str, Any]] = {"htm": SMALL, "htm_sprt": SMALL}
"""HTMs take their time at full size."""


def quiet(name: str, n: int, seed: int) -> NDArray[np.float64]:
    """A stream without drift: white noise, or 0s and 1s at a rate of 0.3."""
    rng = np.random.default_rng(seed)
    if describe(name).values == "any":
        return rng.standard_normal(n)
    return (rng.random(n) < 0.3).astype(np.float64)


def moved(name: str, n: int, seed: int) -> NDArray[np.float64]:
    """After an obvious drift: 3 deviations higher, or a rate of 0.9."""
    rng = np.random.default_rng(seed)
    if describe(name).values == "any":
        return rng.standard_normal(n) + 3.0
    return (rng.random(n) < 0.9).astype(np.float64)


def drifting(name: str, seed: int = 0) -> list[float]:
    """300 values without, 100 after a drift, 50 after one back."""
    parts = [quiet(name, 300, seed), moved(name, 100, seed + 1), quiet(name, 50, seed + 2)]
    return list(map(float, np.concatenate(parts)))


def run(detector: Detector, values: list[float]) -> list[Finding]:
    return [detector.update(v) for v in values]


@pytest.fixture(params=[*names(), *(f"{n}+reference" for n in WITH_REFERENCE)])
def kind(request: pytest.FixtureRequest) -> tuple[str, partial[Detector]]:
    """Name and maker: `make(every=...)`."""
    name, _, with_reference = str(request.param).partition("+")
    known: dict[str, Any] = {"reference": quiet(name, 1000, 99)} if with_reference else {}
    return name, partial(build, name, every=1000, options=OPTIONS.get(name), **known)


Kind = tuple[str, "partial[Detector]"]


def test_it_is_a_detector(kind: Kind) -> None:
    name, make = kind
    detector = make()
    assert isinstance(detector, Detector)
    assert detector.name == name


def test_the_same_values_give_the_same_findings(kind: Kind) -> None:
    name, make = kind
    assert run(make(), drifting(name)) == run(make(), drifting(name))


@pytest.mark.parametrize("cut", [0, 1, 40, 64, 299, 303, 320, 420])
def test_it_goes_on_exactly_from_its_state(kind: Kind, cut: int) -> None:
    name, make = kind
    values = drifting(name, seed=5)
    first, second = make(), make()
    run(first, values[:cut])
    run(second, moved(name, 30, 8).tolist())
    text = json.dumps(first.state(), allow_nan=False)
    second.restore(json.loads(text))
    assert json.dumps(second.state(), allow_nan=False) == text
    assert run(second, values[cut:]) == run(first, values[cut:])


def test_a_state_is_a_snapshot(kind: Kind) -> None:
    name, make = kind
    detector = make()
    run(detector, drifting(name)[:50])
    state = detector.state()
    text = json.dumps(state)
    run(detector, drifting(name)[50:])
    assert json.dumps(state) == text


def test_a_state_of_another_is_refused(kind: Kind) -> None:
    name, make = kind
    other = next(n for n in names() if n != name)
    with pytest.raises(ValueError, match=r"reset the detector"):
        make().restore(build(other, every=1000, options=OPTIONS.get(other)).state())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_skipped(kind: Kind, bad: float) -> None:
    name, make = kind
    values = drifting(name)
    clean, dirty = make(), make()
    for i, value in enumerate(values):
        if i % 7 == 0:
            before = json.dumps(dirty.state())
            finding = dirty.update(bad)
            assert not finding.alarm
            assert math.isfinite(finding.statistic)
            assert json.dumps(dirty.state()) == before
        assert dirty.update(value) == clean.update(value)


CONSTANTS = [
    (name, value)
    for name in names()
    for value in (0.0, 1.0, -3.5, 1e9, 0.1)
    if describe(name).values == "any" or 0 <= value <= 1
]


@pytest.mark.parametrize(("name", "value"), CONSTANTS)
def test_a_constant_stream_gives_no_alarm(name: str, value: float) -> None:
    assert not any(f.alarm for f in run(build(name, every=1000), [value] * 800))


def test_an_obvious_drift_is_found_soon_and_once(kind: Kind) -> None:
    name, make = kind
    detector = make(every=20000)
    assert not any(f.alarm for f in run(detector, quiet(name, 600, 21).tolist()))
    found = [(i, f) for i, f in enumerate(run(detector, moved(name, 400, 22).tolist())) if f.alarm]
    assert len(found) == 1, "once, since the detector learns the new level"
    delay, finding = found[0]
    assert delay < 100
    assert finding.statistic >= finding.threshold > 0
    # ADWIN's buckets and KSWIN's window are coarser than that.
    if finding.onset is not None and name not in {"adwin", "kswin"}:
        assert abs(finding.onset - delay) <= 60


def test_statistics_stay_under_the_threshold_until_the_alarm(kind: Kind) -> None:
    name, make = kind
    for finding in run(make(), drifting(name)):
        assert math.isfinite(finding.statistic)
        assert math.isfinite(finding.threshold)
        if finding.alarm:
            assert finding.statistic >= finding.threshold
        else:
            assert finding.onset is None


def test_a_reset_makes_it_new(kind: Kind) -> None:
    name, make = kind
    detector = make()
    run(detector, drifting(name)[:320])
    detector.reset()
    assert json.dumps(detector.state()) == json.dumps(make().state())
    assert run(detector, drifting(name)) == run(make(), drifting(name))


def test_its_state_stays_small(kind: Kind) -> None:
    name, make = kind
    detector = make(every=1e6)
    run(detector, quiet(name, 500, 3).tolist())
    early = len(json.dumps(detector.state()))
    run(detector, quiet(name, 4000, 4).tolist())
    assert len(json.dumps(detector.state())) < 2 * early + 500


def test_false_alarms_are_at_most_as_frequent_as_asked(kind: Kind) -> None:
    name, make = kind
    streams, length, every = (4, 2000, 400) if name in {"kswin", *OPTIONS} else (20, 2500, 500)
    alarms = sum(
        sum(f.alarm for f in run(make(every=every), quiet(name, length, 100 + i).tolist())) for i in range(streams)
    )
    expected = streams * length / every
    assert alarms <= expected + 3 * math.sqrt(expected)


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize(("factor", "offset"), [(1e-100, 0.0), (1e100, 0.0), (-3.0, 0.0), (1e-3, 5.0), (2.0, -1e6)])
def test_scale_and_shift_change_nothing(name: str, factor: float, offset: float) -> None:
    values = drifting(name)
    plain = run(build(name, every=1000, options=OPTIONS.get(name)), values)
    scaled = run(build(name, every=1000, options=OPTIONS.get(name)), [factor * v + offset for v in values])
    assert [f.alarm for f in scaled] == [f.alarm for f in plain]
    assert [f.onset for f in scaled] == [f.onset for f in plain]


@pytest.mark.parametrize("name", names())
def test_options_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=rf"detector {name} has no option 'colour'; (use one of|leave it out)"):
        build(name, every=1000, options={"colour": 1})
    for key, option in describe(name).options.items():
        for wrong in ("much", option.high * 2, option.low / 2 - 1, True, None, math.nan, [option.high * 2]):
            with pytest.raises(ValueError, match=rf"^detector {name}: option {key} is .*; give "):
                build(name, every=1000, options={key: wrong})
        right = option.default if option.default is not None else [1.0]
        build(name, every=1000, options={key: right})


@pytest.mark.parametrize("every", [0.0, 9.0, 1e12, math.nan, math.inf, -5.0])
def test_the_accepted_run_length_is_checked(every: float) -> None:
    with pytest.raises(ValueError, match=r"^one false alarm in .* is asked for; give a number from 10 to 1e\+09"):
        build("sprt", every=every)


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^detector 'psychic' is unknown; choose one of sprt, "):
        build("psychic", every=1000)


@pytest.mark.parametrize("name", WITH_REFERENCE)
@pytest.mark.parametrize("reference", [np.ones(500), np.arange(50.0) / 50, np.full(500, np.nan), np.zeros(0)])
def test_a_reference_that_tells_nothing_is_left_out(name: str, reference: NDArray[np.float64]) -> None:
    plain = build(name, every=1000)
    assert run(build(name, every=1000, reference=reference), drifting(name)) == run(plain, drifting(name))
