"""The test of single values: its chances against their definitions, seasons, states, scales."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from trimtab.drift.tail_test import START, WINDOW, Tail, TailTest

HOUR = 3600.0


def test_the_chance_of_a_distance_in_a_pareto_tail() -> None:
    # P(d >= x) = x^-2 for x >= 1: the evidence of x is 2 ln x, but for the estimate of exponent and quantile.
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        tail = Tail()
        for distance in rng.pareto(2.0, WINDOW) + 1.0:
            tail.update(float(distance))
        found.append(tail.update(30.0))
    assert np.median(found) == pytest.approx(2 * math.log(30), rel=0.15)


def test_the_quantile_and_the_exponent_are_those_of_the_newest_distances() -> None:
    distances = np.random.default_rng(1).exponential(size=2000)
    tail = Tail()
    for distance in distances:
        tail.update(float(distance))
    ordered = np.sort(distances[-WINDOW:])
    quantile = ordered[-15]  # a fiftieth of 700 lie above
    expected = math.log(50) + math.log(9.0 / quantile) / np.log(ordered[-14:] / quantile).mean()
    assert tail.update(9.0) == pytest.approx(expected)
    assert tail.update(float(quantile)) == 0.0


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e12])
def test_evidence_does_not_depend_on_scale_or_origin(scale: float) -> None:
    values = np.random.default_rng(2).standard_normal(600)
    values[590] = 9.0
    first, second = TailTest(), TailTest()
    one = [first.update(600.0 * i, float(v)) for i, v in enumerate(values)]
    two = [second.update(600.0 * i, scale * (float(v) + 4.0)) for i, v in enumerate(values)]
    assert two == pytest.approx(one, abs=1e-6)
    assert max(one) == one[590] > math.log(WINDOW)
    assert not any(one[:START])


def test_a_usual_value_at_an_unusual_hour_is_evidence_where_the_time_is_known() -> None:
    rng = np.random.default_rng(3)
    hours = np.arange(24 * 40)
    values = np.where((hours % 24 >= 9) & (hours % 24 < 18), 80.0, 20.0) + rng.random(hours.size)
    values[24 * 35 + 12] = 20.5
    seasonal, plain = TailTest(), TailTest()
    with_time = [seasonal.update(HOUR * h, v) for h, v in zip(hours.tolist(), values.tolist(), strict=True)]
    without = [plain.update(None, v) for v in values.tolist()]
    assert with_time[24 * 35 + 12] > 40 > math.log(WINDOW) > max(without)
    assert all(i % 24 == 12 for i, e in enumerate(with_time[: 24 * 36]) if e > math.log(WINDOW))


def test_what_hardly_moves_has_no_tail() -> None:
    rounding = TailTest()
    assert not any(rounding.update(600.0 * i, 0.1 + 1e-17 * (i % 3)) for i in range(900))
    square = TailTest()
    assert not any(square.update(HOUR * i, 80.0 if i % 24 > 12 else 20.0) for i in range(2000))


def test_it_goes_on_exactly_from_its_state() -> None:
    records = [(600.0 * i, float(v)) for i, v in enumerate(np.random.default_rng(4).standard_t(3, 1500))]
    for cut in (0, 90, 1010):
        first, second = TailTest(), TailTest()
        for record in records[:cut]:
            first.update(*record)
        text = json.dumps(first.state(), allow_nan=False)
        second.restore(json.loads(text))
        assert [first.update(*r) for r in records[cut:]] == [second.update(*r) for r in records[cut:]]
        assert first.state() == second.state()
