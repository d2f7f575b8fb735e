"""Streams whose changes are known: that what they say changes does, there and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.drift.streams import DAY, EARLIEST, STREAMS, draw

N = 20000


@pytest.mark.parametrize("name", list(STREAMS))
@pytest.mark.parametrize("n", [100, 1001])
def test_a_stream_has_its_length_and_rising_changes_after_a_quiet_part(name: str, n: int) -> None:
    for repeat in range(20):
        values, changes = draw(name, n, repeat)
        assert values.shape == (n,)
        assert np.isfinite(values).all()
        assert list(changes) == sorted(set(changes))
        assert all(EARLIEST * n <= c < n for c in changes)


def test_a_stream_is_the_same_each_time_and_another_for_each_seed_and_repeat() -> None:
    first, again = draw("abrupt", 500, 3), draw("abrupt", 500, 3)
    assert np.array_equal(first[0], again[0])
    assert first[1] == again[1]
    others = [draw("abrupt", 500, 4), draw("abrupt", 500, 3, seed=1), draw("heavy_tailed", 500, 3)]
    assert not any(np.array_equal(first[0], values) for values, _ in others)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("stable", [0.0]),
        ("abrupt", [0.0, 1.0]),
        ("recurring", [0.0, 1.5, 0.0, 1.5]),
        ("variance", [0.0, 0.0]),
        ("autocorrelated", [0.0, 2.0]),
        ("heavy_tailed", [0.0, 1.0]),
        ("error_rate", [0.1, 0.3]),
    ],
)
def test_the_mean_is_what_it_says_between_changes(name: str, levels: list[float]) -> None:
    values, changes = draw(name, N, 0)
    means = [part.mean() for part in np.split(values, changes)]
    assert means == pytest.approx(levels, abs=0.1)


def test_the_deviation_is_what_it_says() -> None:
    for name in ("stable", "abrupt", "gradual", "variance", "autocorrelated", "heavy_tailed"):
        values, changes = draw(name, N, 1)
        assert values[: changes[0] if changes else N].std() == pytest.approx(1, abs=0.1)
    values, (at,) = draw("variance", N, 0)
    assert values[at:].std() == pytest.approx(2, abs=0.1)


def test_values_of_the_autocorrelated_stream_hang_together_by_0_7() -> None:
    values, (at,) = draw("autocorrelated", N, 0)
    assert np.corrcoef(values[: at - 1], values[1:at])[0, 1] == pytest.approx(0.7, abs=0.03)


def test_a_gradual_change_takes_an_eighth_of_the_stream() -> None:
    values, (at,) = draw("gradual", N, 0)
    assert values[:at].mean() == pytest.approx(0, abs=0.05)
    assert values[at : at + N // 8].mean() == pytest.approx(1, abs=0.1)
    assert values[at + N // 8 :].mean() == pytest.approx(2, abs=0.1)


def test_the_seasonal_stream_repeats_each_day_and_its_change_is_no_cycle() -> None:
    values, (at,) = draw("seasonal", N, 0)
    before, after = (part[: len(part) // DAY * DAY].reshape(-1, DAY).mean(0) for part in np.split(values, [at]))
    assert np.ptp(before) > 5
    assert after.mean() - before.mean() == pytest.approx(3, abs=0.05)


def test_an_unknown_stream_and_a_short_one_are_told() -> None:
    with pytest.raises(ValueError, match="stream 'abrubt' is unknown; choose one of stable, abrupt"):
        draw("abrubt", 1000, 0)
    with pytest.raises(ValueError, match="100 values or more, not 99"):
        draw("abrupt", 99, 0)
