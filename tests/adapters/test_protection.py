"""Step graphs under guard, on a real model; and what the guard goes by, on outputs made up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import trimtab.adapters
from trimtab.adapters.evidence import LEAST, RUN, Evidence
from trimtab.adapters.protection import Guarded
from trimtab.adapters.steps import StepAdapter, read

BATCH = 64


def mixed(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, 3, count)


def repeated(count: int) -> NDArray[np.int64]:
    """Somebody does one thing for a while, as recorded."""
    return np.repeat(np.random.default_rng(0).integers(0, 3, count // 40 + 1), 40)[:count]


def opened(waves: Any, method: str = "tent", **hyper: float) -> Guarded:
    return trimtab.adapters.guarded(waves.path, method, threads=1, **hyper)


def batches(x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(x), BATCH):
        yield x[start : start + BATCH]


def accuracies(guarded: Guarded, x: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float, float]:
    """Of what is given, of the source model, and of the method, over all batches."""
    found = []
    for part in batches(x):
        y = guarded.step(part)
        assert guarded.static_y is not None
        assert guarded.method_y is not None
        found.append([a.argmax(axis=1) for a in (y, guarded.static_y, guarded.method_y)])
    whole = np.concatenate(found, axis=1) == labels
    given, static, method = whole.mean(axis=1).tolist()
    return given, static, method


def test_a_method_that_is_better_is_taken(waves: Any) -> None:
    labels = mixed(1920)
    guarded = opened(waves)
    given, static, method = accuracies(guarded, waves.windows(labels, 3, faulty=True), labels)
    assert static < 0.6 < 0.8 < given <= method
    assert guarded.trusted
    assert guarded.events == []
    assert guarded.finding is not None
    assert guarded.finding.kind == "sureness"


def test_a_method_that_is_worse_is_not_and_begins_anew_now_and_then(waves: Any) -> None:
    labels = repeated(5120)
    guarded = opened(waves)
    given, static, bare = accuracies(guarded, waves.windows(labels, 3), labels)
    assert bare < 0.8
    assert static - given < 0.01
    # The wait doubles: 512, 1024, ...; nobody is told of it at every batch.
    assert 2 <= len(guarded.events) <= 5
    assert all("worse" in e.reason or "classes" in e.reason for e in guarded.events)


@pytest.mark.parametrize("drawn", [[0, 1], [2]])
def test_a_stream_of_few_classes_is_not_spread_over_all(waves: Any, drawn: list[int]) -> None:
    labels = np.random.default_rng(0).choice(drawn, 2560)
    guarded = opened(waves)
    given, static, bare = accuracies(guarded, waves.windows(labels, 3), labels)
    assert bare < static - 0.1
    assert static - given < 0.01


def test_a_collapse_is_undone(waves: Any) -> None:
    labels = mixed(1280)
    guarded = opened(waves)
    spoiled = guarded.adapter.state()
    spoiled["theta"] = np.zeros_like(spoiled["theta"])  # the same for whatever is fed
    guarded.adapter.restore(spoiled)
    given, static, _ = accuracies(guarded, waves.windows(labels, 3), labels)
    assert given == static
    assert [(e.to, e.reason) for e in guarded.events] == [
        ("start", "it predicts 1.0 classes where the source model predicts 3.0")
    ]
    assert accuracies(guarded, waves.windows(labels, 4), labels)[2] > 0.98


def test_it_goes_back_to_when_it_was_trusted(waves: Any) -> None:
    labels = mixed(1280)
    x = waves.windows(labels, 3, faulty=True)
    guarded = opened(waves)
    accuracies(guarded, x, labels)
    before = guarded.adapter.state()
    infinite = {**before, "theta": np.full_like(before["theta"], 3e38)}
    guarded.adapter.restore(infinite)
    guarded.step(x[:BATCH])
    assert [(e.to, e.reason) for e in guarded.events] == [("trusted", "its state was not finite")]
    assert not guarded.trusted
    np.testing.assert_array_equal(guarded.adapter.theta, before["theta"])


def test_what_rewrites_outputs_is_not_taken_for_being_sure(waves: Any) -> None:
    labels = mixed(1280)
    guarded = opened(waves, "prior_correction")
    given, static, _ = accuracies(guarded, waves.windows(labels, 3, faulty=True), labels)
    assert given == static


def test_a_state_goes_on_bit_for_bit(waves: Any) -> None:
    labels = mixed(2560)
    parts = list(batches(waves.windows(labels, 3, faulty=True)))
    one, other = opened(waves), opened(waves)
    for part in parts[:17]:
        one.step(part)
    other.restore(one.state())
    for part in parts[17:]:
        np.testing.assert_array_equal(one.step(part), other.step(part))
        assert one.trusted == other.trusted
    assert one.trusted
    other.reset()
    np.testing.assert_array_equal(other.adapter.theta, opened(waves).adapter.theta)
    assert not other.trusted
    with pytest.raises(ValueError, match="not that of a guarded method"):
        one.restore({})
    with pytest.raises(ValueError, match="another bundle"):
        one.restore({**one.state(), "guard.evidence.last": np.zeros(7, np.int64)})


def test_samples_that_are_not_finite_get_nan(waves: Any) -> None:
    x = waves.windows(mixed(8), 3)
    x[2, 0, 0] = np.nan
    guarded = opened(waves)
    y = guarded.step(x)
    assert np.flatnonzero(np.isnan(y).any(axis=1)).tolist() == [2]
    assert np.isnan(guarded.step(x[2:3])).all()
    with pytest.raises(ValueError, match="give the source model"):
        Guarded(guarded.adapter).step(x)


def test_a_regression_has_no_guard(waves: Any) -> None:
    with pytest.raises(ValueError, match="judges classes, and this bundle is a regression"):
        Guarded(StepAdapter(replace(read(waves.path, "tent"), classifies=False), {}, threads=1))


def logits(predicted: NDArray[np.int64], sure: float | NDArray[np.float64], classes: int = 4) -> NDArray[np.float32]:
    return np.asarray(np.eye(classes)[predicted] * np.reshape(sure, (-1, 1)), np.float32)


def test_evidence_keeps_the_newest_runs_however_they_come() -> None:
    rng = np.random.default_rng(0)
    y, static = (logits(rng.integers(0, 4, 1000), 3.0) for _ in range(2))
    whole, cut, anew = Evidence(4), Evidence(4), Evidence(4)
    whole.add(y[: LEAST * RUN], static[: LEAST * RUN])
    assert whole.finding() is None
    whole.add(y[LEAST * RUN :], static[LEAST * RUN :])
    for start in range(0, 1000, 24):
        cut.add(y[start : start + 24], static[start : start + 24])
    found, again = whole.finding(), cut.finding()
    assert found is not None
    assert again is not None
    assert replace(found, spread=0.0) == replace(again, spread=0.0)
    assert found.spread == pytest.approx(again.spread)
    anew.restore(cut.state())
    assert anew.finding() == cut.finding()
    cut.clear()
    assert cut.finding() is None


def test_equal_outputs_are_no_gain() -> None:
    y = logits(np.random.default_rng(0).integers(0, 4, 1000), 3.0)
    evidence = Evidence(4)
    evidence.add(y, y)
    found = evidence.finding()
    assert found is not None
    assert (found.gain, found.chance, found.spread) == (0.0, 0.5, 0.0)


def test_a_method_that_makes_batches_agree_makes_no_stream_persistent() -> None:
    rng = np.random.default_rng(3)
    static = rng.integers(0, 4, 1024)
    evidence = Evidence(4)
    evidence.add(logits(np.repeat(static[::16], 16), 3.0), logits(static, 2.0))
    found = evidence.finding()
    assert found is not None
    assert found.kind == "sureness"


def test_in_a_persistent_stream_errors_show_as_breaks() -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat(rng.integers(0, 4, 30), 30)
    wrong = np.where(rng.random(900) < 0.2, rng.integers(0, 4, 900), truth)
    for first, second, sign in ((truth, wrong, 1), (wrong, truth, -1)):
        evidence = Evidence(4)
        evidence.add(logits(first, 3.0), logits(second, 3.0))
        found = evidence.finding()
        assert found is not None
        assert found.kind == "persistence"
        assert sign * found.gain > 0.1
        assert found.chance < 0.05 or found.chance > 0.95


def test_sureness_everywhere_is_no_evidence() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 4, 1000)
    right = rng.random(1000) < 0.9
    static = np.where(right, truth, rng.integers(0, 4, 1000))
    sure = np.where(right, 3.0, 1.0)
    # A method that is as sure where it agrees as where it errs, and ever more so.
    method = np.where(rng.random(1000) < 0.8, static, rng.integers(0, 4, 1000))
    gains = []
    for sharpness in (1.0, 10.0):
        evidence = Evidence(4)
        evidence.add(logits(method, 3.0 * sharpness), logits(static, sure))
        found = evidence.finding()
        assert found is not None
        assert found.kind == "sureness"
        gains.append(found.gain)
    assert abs(gains[1] - gains[0]) < 0.01
    assert max(gains) < 0.03


@pytest.mark.parametrize("make", [trimtab.adapters.load, trimtab.adapters.guarded])
@pytest.mark.parametrize("providers", [["Foo"], ["CPUExecutionProvider", "Foo"], "Foo"])
def test_a_provider_that_there_is_not_is_refused(waves: Any, make: Any, providers: Any) -> None:
    with pytest.raises(ValueError, match=r"'Foo' is no .*; give .*CPUExecutionProvider"):
        make(waves.path, "tent", providers=providers)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [1e300, -1e300, 1e39])
def test_what_is_beyond_float32_is_infinite(waves: Any, value: float) -> None:
    """Without a word, and like a sample that holds infinity."""
    x = waves.windows(mixed(8), 1).astype(np.float64)
    wild, infinite = x.copy(), x.copy()
    wild[3, 0, 5] = value
    infinite[3, 0, 5] = np.copysign(np.inf, value)
    found, expected = (opened(waves).step(v) for v in (wild, infinite))
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(found[3]).all()
    assert np.isfinite(np.delete(found, 3, axis=0)).all()
