"""SprtBernoulli's own promises."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.drift.sprt_bernoulli import SprtBernoulli


def alarms(detector: SprtBernoulli, values: list[float]) -> list[int]:
    return [i for i, value in enumerate(values) if detector.update(value).alarm]


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.2, 0.5, 0.98, 1.0])
def test_false_alarms_keep_to_the_rate(rate: float) -> None:
    rng = np.random.default_rng(int(100 * rate))
    streams = [(rng.random(3000) < rate).astype(float).tolist() for _ in range(20)]
    assert sum(len(alarms(SprtBernoulli(every=1000), s)) for s in streams) <= 60


def test_shares_give_fewer_false_alarms_than_ones() -> None:
    rng = np.random.default_rng(0)
    shares = [rng.beta(2, 3, 3000).tolist() for _ in range(20)]
    assert sum(len(alarms(SprtBernoulli(every=1000), s)) for s in shares) <= 20


def test_runs_of_equal_values_are_one_when_the_reference_says_so() -> None:
    rng = np.random.default_rng(1)

    def runs(n: int) -> np.ndarray:
        return np.repeat((rng.random(n // 10) < 0.3).astype(float), 10)

    found = 0
    for _ in range(10):
        detector = SprtBernoulli(every=1000, reference=runs(4000))
        found += len(alarms(detector, runs(4000).tolist()))
    assert found <= 40


@pytest.mark.parametrize(("before", "after"), [(0.1, 0.4), (0.4, 0.1), (0.5, 0.9), (0.02, 0.2)])
def test_a_change_of_rate_is_found(before: float, after: float) -> None:
    rng = np.random.default_rng(2)
    delays = []
    for _ in range(10):
        detector = SprtBernoulli(every=5000)
        alarms(detector, (rng.random(800) < before).astype(float).tolist())
        delays.append(alarms(detector, (rng.random(400) < after).astype(float).tolist())[0])
    assert np.median(delays) < 80


@pytest.mark.parametrize("value", [-0.01, 1.01, 1e300])
def test_values_out_of_range_are_skipped(value: float) -> None:
    detector = SprtBernoulli(every=1000)
    alarms(detector, [0.0, 1.0] * 50)
    before = detector.state()
    assert not detector.update(value).alarm
    assert detector.state() == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"odds": 1.0}, "odds must be over 1"),
        ({"warmup": 2}, "warmup from 3"),
        ({"reference": np.array([0.2, 1.2])}, "numbers from 0 to 1"),
        ({"reference": np.zeros(0)}, "numbers from 0 to 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SprtBernoulli(every=1000, **options)  # type: ignore[arg-type]
