"""A bank agrees with the scalar detectors of its streams, whatever comes, and goes on exactly from its state."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trimtab.drift.bank import Bank, Findings
from trimtab.drift.run_length import threshold
from trimtab.drift.sprt import Sprt

Array = NDArray[np.float64]


def streams(seed: int, count: int = 7, length: int = 400) -> Array:
    """`[length, count]`: other scales and offsets, shifts and gaps at other times; a constant one among them."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((length, count))
    for i in range(count):
        values[rng.integers(100, length) :, i] += rng.normal(0, 3)
    values = values * 10.0 ** rng.integers(-5, 6, count) + rng.normal(0, 100, count)
    values[:, 0] = 0.1
    values[rng.random((length, count)) < 0.03] = np.nan
    values[rng.random((length, count)) < 0.01] = np.inf
    values[rng.random((length, count)) < 0.005] = 1e100
    return values


def run(bank: Bank, values: Array) -> list[Findings]:
    return [bank.update(row) for row in values]


def same(one: list[Findings], other: list[Findings]) -> bool:
    return all(np.array_equal(a, b) for f, g in zip(one, other, strict=True) for a, b in zip(f, g, strict=True))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6))
def test_each_stream_is_an_sprt(seed: int) -> None:
    values = streams(seed)
    options = {"every": 200, "shifts": (0.5, 2.0), "warmup": 20, "memory": 100}
    found = run(Bank(values.shape[1], **options), values)  # type: ignore[arg-type]
    for i in range(values.shape[1]):
        detector = Sprt(**options)  # type: ignore[arg-type]
        for value, row in zip(values[:, i].tolist(), found, strict=True):
            alone = detector.update(value)
            assert row.alarm[i] == alone.alarm
            assert row.onset[i] == (-1 if alone.onset is None else alone.onset)
            assert row.statistic[i] == pytest.approx(alone.statistic, rel=1e-6, abs=1e-6)


def test_a_given_baseline_makes_plain_cusums() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, (300, 50))
    values[200:] += 3
    bank = Bank(50, every=1000, baseline=(5.0, np.full(50, 2.0)))
    height = threshold(0.5, 2000.0, 3.0)
    for i, found in enumerate(zip(*[run_plain((values[:, j] - 5) / 2, height) for j in range(50)], strict=True)):
        assert bank.update(values[i]).alarm.tolist() == list(found)


def run_plain(z: Array, height: float) -> list[bool]:
    """Page's CUSUM, both directions, as it stands in the books."""
    up = down = 0.0
    alarms = []
    for value in np.clip(z, -3, 3):
        up, down = max(0.0, up + value - 0.5), max(0.0, down - value - 0.5)
        alarms.append(up >= height or down >= height)
        if alarms[-1]:
            up = down = 0.0
    return alarms


def test_false_alarms_are_as_frequent_as_asked() -> None:
    rng = np.random.default_rng(1)
    bank = Bank(1000, every=1000)
    alarms = sum(int(bank.update(rng.standard_normal(1000)).alarm.sum()) for _ in range(1064))
    # Of 1,000 streams x 1,000 values after the warm-up, less the warm-ups that follow alarms.
    expected = 1000 * 1000 / 1064
    assert alarms == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("given_baseline", [None, (0.0, 1.0)])
def test_it_goes_on_exactly_from_its_state(given_baseline: tuple[float, float] | None) -> None:
    values = streams(3)
    first, second = (Bank(7, every=100, warmup=20, baseline=given_baseline) for _ in range(2))
    run(first, values[:230])
    file = io.BytesIO()
    np.savez(file, **first.state())  # type: ignore[arg-type]
    file.seek(0)
    second.restore(dict(np.load(file, allow_pickle=False)))
    assert same(run(second, values[230:]), run(first, values[230:]))


def test_a_state_is_a_snapshot() -> None:
    values = streams(4)
    bank = Bank(7, every=100, warmup=20)
    run(bank, values[:100])
    state = bank.state()
    copies = {name: array.copy() for name, array in state.items()}
    run(bank, values[100:])
    assert all(np.array_equal(state[name], copies[name]) for name in copies)


def test_chosen_streams_are_reset() -> None:
    values = streams(5)
    one, other = Bank(7, every=100, warmup=20), Bank(7, every=100, warmup=20)
    run(one, values[:150])
    run(other, values[:150])
    one.reset([2, 5])
    fresh = Bank(7, every=100, warmup=20)
    for row in values[150:]:
        a, b, c = one.update(row), other.update(row), fresh.update(row)
        for x, y, z in zip(a, b, c, strict=True):
            assert np.array_equal(x[[2, 5]], z[[2, 5]])
            assert np.array_equal(np.delete(x, [2, 5]), np.delete(y, [2, 5]))


def test_wrong_states_shapes_and_options_are_refused() -> None:
    bank = Bank(3, every=100)
    with pytest.raises(ValueError, match="the bank has 3 streams, and values have shape"):
        bank.update([1.0, 2.0])
    with pytest.raises(ValueError, match="reset the bank"):
        bank.restore(Bank(4, every=100).state())
    with pytest.raises(ValueError, match="reset the bank"):
        bank.restore({})
    for options, sentence in (
        ({"streams": 0}, "at least one stream"),
        ({"shifts": ()}, "shifts must be"),
        ({"shifts": (9.0,)}, "shifts must be"),
        ({"warmup": 2}, "warmup must be"),
        ({"baseline": (0.0, 0.0)}, "the baseline must hold"),
        ({"baseline": (np.nan, 1.0)}, "the baseline must hold"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Bank(**{"streams": 3, "every": 100, **options})  # type: ignore[arg-type]
