"""What every detector of the catalogue must hold, checked alike for each of them."""

from __future__ import annotations

import itertools
import json
import math
from functools import lru_cache, partial
from statistics import median
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.drift.catalogue import build, describe, names
from trimtab.drift.detector import Detector, Finding, many

SCALED = [n for n in names() if describe(n).values == "any"]
SLOW = {"kswin", "ks", "cramer_von_mises", "wasserstein", "psi", "mmd", "lsdd"}
"""Those that take a tenth of a millisecond or more a value, or to learn."""

WITH_REFERENCE = [
    "sprt",
    "sprt_bernoulli",
    "sprt_poisson",
    "sprt_exponential",
    "glr",
    "shiryaev_roberts",
    "ewma",
    "cusum_variance",
    "e_detector",
    "conformal_martingale",
    "ks",
]

SMALL = {"columns": 512, "cells": 4, "segments": 512}
OPTIONS: dict[str, dict[str, Any]] = {"htm": SMALL, "htm_sprt": SMALL}
"""HTMs take their time at full size."""


def quiet(name: str, n: int, seed: int) -> NDArray[np.float64]:
    """A stream without drift: white noise; 0s and 1s at a rate of 0.3; counts or waiting times of mean 4."""
    rng = np.random.default_rng(seed)
    if name == "sprt_poisson":
        return rng.poisson(4.0, n).astype(np.float64)
    if name == "sprt_exponential":
        return rng.exponential(4.0, n)
    if describe(name).values == "any":
        return rng.standard_normal(n)
    return (rng.random(n) < 0.3).astype(np.float64)


def moved(name: str, n: int, seed: int) -> NDArray[np.float64]:
    """After an obvious drift: 3 deviations higher, a rate of 0.9, or 4 times the mean."""
    if describe(name).values == "any":
        return quiet(name, n, seed) + 3.0
    if name == "sprt_poisson":
        return np.random.default_rng(seed).poisson(16.0, n).astype(np.float64)
    if name == "sprt_exponential":
        return quiet(name, n, seed) * 4.0
    return (np.random.default_rng(seed).random(n) < 0.9).astype(np.float64)


def drifting(name: str, seed: int = 0) -> list[float]:
    """300 values without, 100 after a drift, 50 after one back."""
    parts = [quiet(name, 300, seed), moved(name, 100, seed + 1), quiet(name, 50, seed + 2)]
    return list(map(float, np.concatenate(parts)))


def run(detector: Detector, values: list[float]) -> list[Finding]:
    return [detector.update(v) for v in values]


def maker(kind: str) -> tuple[str, partial[Detector]]:
    """Name and maker, `make(every=...)`, of "name" or "name+reference"."""
    name, _, with_reference = kind.partition("+")
    known: dict[str, Any] = {"reference": quiet(name, 1000, 99)} if with_reference else {}
    return name, partial(build, name, every=1000, options=OPTIONS.get(name), **known)


@lru_cache(maxsize=64)
def usual(kind: str) -> list[Finding]:
    """What a new detector finds in `drifting`: several tests hold another against that."""
    name, make = maker(kind)
    return run(make(), drifting(name))


@pytest.fixture(params=[*names(), *(f"{n}+reference" for n in WITH_REFERENCE)])
def parameter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kind(parameter: str) -> tuple[str, partial[Detector]]:
    return maker(parameter)


Kind = tuple[str, "partial[Detector]"]


def test_it_is_a_detector(kind: Kind) -> None:
    name, make = kind
    detector = make()
    assert isinstance(detector, Detector)
    assert detector.name == name


def test_the_same_values_give_the_same_findings(kind: Kind, parameter: str) -> None:
    name, make = kind
    assert run(make(), drifting(name)) == usual(parameter)


def test_it_goes_on_exactly_from_its_state(kind: Kind) -> None:
    """At each cut another detector takes over, which has seen other values; at the last it is the eighth."""
    name, make = kind
    values = drifting(name, seed=5)
    first, second = make(), make()
    for i, value in enumerate(values):
        if i in {0, 1, 40, 64, 299, 303, 320, 420}:
            text = json.dumps(second.state(), allow_nan=False)
            second = make()
            run(second, moved(name, 30, 8).tolist())
            second.restore(json.loads(text))
            assert json.dumps(second.state(), allow_nan=False) == text == json.dumps(first.state())
        assert second.update(value) == first.update(value)


def test_many_values_at_once_are_taken_as_one_by_one(kind: Kind) -> None:
    """Wherever they are cut, and whatever they are: alarms, shares and the state at each cut, to the last bit."""
    name, make = kind
    values = drifting(name, seed=7)
    if name in OPTIONS:
        values = values[200:350]
    values[3::50] = ([math.nan, -math.inf, 1e200] * 3)[: len(values[3::50])]
    values[110:115] = [math.inf, math.nan] * 2 + [1e6]
    single, whole = make(), make()
    update = many(whole)
    rng = np.random.default_rng(0)
    begin = 0
    while begin < len(values):
        part = values[begin : begin + int(rng.choice([1, 2, 9, 64, 100]))]
        begin += len(part)
        findings = run(single, part)
        shares, alarms = update(part)
        assert shares == [f.share for f in findings]
        assert alarms == [(i, f) for i, f in enumerate(findings) if f.alarm]
        assert json.dumps(whole.state()) == json.dumps(single.state())


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


def test_what_is_not_finite_is_skipped(kind: Kind, parameter: str) -> None:
    name, make = kind
    dirty = make()
    bad = itertools.cycle([math.nan, math.inf, -math.inf])
    for i, (value, clean) in enumerate(zip(drifting(name), usual(parameter), strict=True)):
        if i % 5 == 0:
            before = json.dumps(dirty.state())
            finding = dirty.update(next(bad))
            assert not finding.alarm
            assert math.isfinite(finding.statistic)
            assert json.dumps(dirty.state()) == before
        assert dirty.update(value) == clean


CONSTANTS = [
    (name, value)
    for name in names()
    for value in (0.0, 1.0, -3.5, 1e9, 0.1)
    if describe(name).values == "any" or (value >= 0 and (describe(name).values == "0.." or value <= 1))
]


@pytest.mark.parametrize(("name", "value"), CONSTANTS)
def test_a_constant_stream_gives_no_alarm(name: str, value: float) -> None:
    assert not any(f.alarm for f in run(build(name, every=1000), [value] * 800))


def test_an_obvious_drift_is_found_soon_and_once(kind: Kind) -> None:
    name, make = kind
    streams = 4 if name in SLOW else 8
    early = late = missed = 0
    delays, errors = [], []
    for seed in range(streams):
        detector = make(every=20000)
        before = sum(f.alarm for f in run(detector, quiet(name, 600, 40 + seed).tolist()))
        findings = run(detector, moved(name, 400, 60 + seed).tolist())
        early += before
        if before:
            continue  # It may be learning when the drift comes.
        found = [(i, f) for i, f in enumerate(findings) if f.alarm]
        if not found:
            missed += 1
            continue
        late += len(found) - 1
        delay, finding = found[0]
        assert finding.statistic >= finding.threshold > 0
        delays.append(delay)
        if finding.onset is not None:
            errors.append(abs(finding.onset - delay))
    # 8 x 600 and 8 x 400 values: 0.24 false alarms are to be expected before, and 0.16 after.
    assert early <= 2
    # An HTM goes by what can be predicted, of which white noise has nothing.
    assert missed <= (streams // 2 if name == "htm" else 0)
    assert late <= 2, "once, since the detector learns the new level"
    # river's are slower, and their onsets are those of buckets and windows.
    foreign = describe(name).where.startswith("trimtab.drift.river_adapter")
    assert median(delays) < (120 if foreign else 60)
    assert foreign or not errors or median(errors) <= 20


def test_statistics_stay_under_the_threshold_until_the_alarm(parameter: str) -> None:
    for finding in usual(parameter):
        assert math.isfinite(finding.statistic)
        assert math.isfinite(finding.threshold)
        if finding.alarm:
            assert finding.statistic >= finding.threshold
        else:
            assert finding.onset is None


def test_a_reset_makes_it_new(kind: Kind, parameter: str) -> None:
    name, make = kind
    detector = make()
    run(detector, drifting(name)[:320])
    detector.reset()
    assert json.dumps(detector.state()) == json.dumps(make().state())
    assert run(detector, drifting(name)) == usual(parameter)


def test_its_state_stays_small(kind: Kind) -> None:
    name, make = kind
    detector = make(every=1e6)
    run(detector, quiet(name, 500, 3).tolist())
    early = len(json.dumps(detector.state()))
    # The largest windows are full after 500.
    run(detector, quiet(name, 1000 if name in SLOW else 2000, 4).tolist())
    assert len(json.dumps(detector.state())) < 2 * early + 500


def test_false_alarms_are_at_most_as_frequent_as_asked(kind: Kind) -> None:
    name, make = kind
    streams, length, every = 20, 1250, 250
    if name == "kswin":
        streams, length, every = 4, 500, 100
    elif name in SLOW or name in OPTIONS:
        streams, length, every = 4, 2000, 400
    alarms = sum(
        sum(f.alarm for f in run(make(every=every), quiet(name, length, 100 + i).tolist())) for i in range(streams)
    )
    # After each it learns for `warmup` values, in which there is none.
    learning = describe(name).options["warmup"].default if "warmup" in describe(name).options else 0
    expected = streams * length / (every + learning)
    assert alarms <= expected + 3 * math.sqrt(expected)


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize(("factor", "offset"), [(1e-100, 0.0), (1e100, 0.0), (-3.0, 0.0), (1e-3, 5.0), (2.0, -1e6)])
def test_scale_and_shift_change_nothing(name: str, factor: float, offset: float) -> None:
    plain = usual(name)
    scaled = run(build(name, every=1000, options=OPTIONS.get(name)), [factor * v + offset for v in drifting(name)])
    assert [f.alarm for f in scaled] == [f.alarm for f in plain]
    assert [f.onset for f in scaled] == [f.onset for f in plain]


@pytest.mark.parametrize("name", names())
def test_options_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=rf"detector {name} has no option 'colour'; (use one of|leave it out)"):
        build(name, every=1000, options={"colour": 1})
    for key, option in describe(name).options.items():
        for wrong in ("much", option.high * 2, option.low / 2 - 1, True, None, math.nan, [option.high * 2]):
            if wrong is True and option.kind is bool:
                continue
            with pytest.raises(ValueError, match=rf"^detector {name}: option {key} is .*; give "):
                build(name, every=1000, options={key: wrong})
        right = option.default if option.default is not None else [option.low]
        build(name, every=1000, options={key: right})


@pytest.mark.parametrize("every", [0.0, 9.0, 1e12, math.nan, math.inf, -5.0])
def test_the_accepted_run_length_is_checked(every: float) -> None:
    with pytest.raises(ValueError, match=r"^one false alarm in .* is asked for; give a number from 10 to 1e\+09"):
        build("sprt", every=every)


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^detector 'psychic' is unknown; choose psi, or another"):
        build("psychic", every=1000)


@pytest.mark.parametrize("name", WITH_REFERENCE)
@pytest.mark.parametrize("reference", [np.ones(500), np.arange(50.0) / 50, np.full(500, np.nan), np.zeros(0)])
def test_a_reference_that_tells_nothing_is_left_out(name: str, reference: NDArray[np.float64]) -> None:
    assert run(build(name, every=1000, reference=reference), drifting(name)) == usual(name)
