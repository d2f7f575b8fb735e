from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.adapters.conftest import MIRRORED, as_windows
from trimtab.adapters.fit import measure
from trimtab.adapters.guard import judge
from trimtab.adapters.methods import Context

Served = Callable[[str], tuple[NDArray[np.float32], NDArray[np.int64]]]


@pytest.fixture
def mirrored(watch: Context) -> NDArray[np.float32]:
    theta = watch.source.theta.copy()
    watch.layout.view(theta, "input.x.gain")[:] = MIRRORED
    return theta


def test_accepts_what_fits_and_not_the_reverse(watch: Context, served: Served, mirrored: NDArray[np.float32]) -> None:
    held = as_windows(served("left")[0][:256:4], np.arange(64) * 4)
    verdict = judge(watch, watch.source.theta, mirrored, held, 0.05)
    assert verdict.accepted
    assert verdict.scores["moments"] < verdict.scores["moments_now"]
    back = judge(watch, mirrored, watch.source.theta, held, 0.05)
    assert not back.accepted
    assert back.gain == pytest.approx(-verdict.gain)


def test_the_same_vector_is_not_better(watch: Context, served: Served) -> None:
    held = as_windows(served("left")[0][:64])
    assert not judge(watch, watch.source.theta, watch.source.theta.copy(), held, 0.0).accepted


@pytest.mark.parametrize("count", [0, 1, 16])
def test_few_windows_decide_nothing(watch: Context, served: Served, mirrored: NDArray[np.float32], count: int) -> None:
    verdict = judge(watch, watch.source.theta, mirrored, as_windows(served("left")[0][:count]), 0.05)
    assert not verdict.accepted
    assert verdict.reason


def test_outputs_that_are_not_finite_are_turned_down(watch: Context, served: Served) -> None:
    broken = watch.source.theta.copy()
    watch.layout.view(broken, "output.shift")[0] = np.nan
    verdict = judge(watch, watch.source.theta, broken, as_windows(served("right")[0][:64]), 0.05)
    assert not verdict.accepted
    assert "not finite" in verdict.reason
    assert judge(watch, broken, watch.source.theta, as_windows(served("right")[0][:64]), 0.05).accepted


def test_a_collapse_to_one_class_is_turned_down(watch: Context, served: Served) -> None:
    sure = watch.source.theta.copy()
    watch.layout.view(sure, "output.shift")[2] = 50.0
    verdict = judge(
        watch,
        watch.source.theta,
        sure,
        as_windows(served("right")[0][::4], np.arange(0, 10**4, 4)[: len(served("right")[0][::4])]),
        0.0,
    )
    assert not verdict.accepted
    assert "one class" in verdict.reason


def test_labels_decide_where_they_came(watch: Context, served: Served, mirrored: NDArray[np.float32]) -> None:
    """Even against the fit: these labels are what the unmirrored model says of the left arm."""
    x = served("left")[0][:64]
    said = watch.probe({"x": x}, watch.source.theta[None], np.zeros(len(x), np.int64)).y.argmax(axis=1)
    held = as_windows(x, labels=said.astype(np.float64))
    verdict = judge(watch, watch.source.theta, mirrored, held, 0.05)
    assert not verdict.accepted
    assert verdict.scores["accuracy_now"] == 1.0
    assert judge(watch, mirrored, watch.source.theta, held, 0.05).accepted


def test_regression_by_labels(regression: Context) -> None:
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    moved = regression.source.theta.copy()
    regression.layout.view(moved, "output.shift")[:] = 3.0
    held = as_windows(x, labels=x.sum(axis=1).astype(np.float64) + 3.0)
    verdict = judge(regression, regression.source.theta, moved, held, 0.05)
    assert verdict.accepted
    assert verdict.scores["squared_error"] < 0.1 * verdict.scores["squared_error_now"]


def test_certainty_counts_runs_and_not_windows(watch: Context, served: Served, mirrored: NDArray[np.float32]) -> None:
    """The same 64 windows sixteen times over, within the same runs, are no more evidence than once."""
    x = served("left")[0][:64]
    rows = np.stack([mirrored, watch.source.theta])
    gain, chance = measure(watch, rows, as_windows(x)).certainty(0, 1)
    again, repeated = measure(watch, rows, as_windows(np.repeat(x, 4, axis=0), np.repeat(np.arange(64), 4))).certainty(
        0, 1
    )
    assert again == pytest.approx(gain, rel=1e-6)
    assert repeated == pytest.approx(chance, rel=1e-4)


def test_certainty_is_nominal_where_nothing_differs(watch: Context, served: Served) -> None:
    """Against itself plus noise in a parameter, a gain is rarely called certain."""
    rng = np.random.default_rng(1)
    x = served("right")[0][:256]
    called = 0
    for _ in range(40):
        other = watch.source.theta.copy()
        shift = watch.layout.view(other, "output.shift")
        shift[:] = 1e-3 * rng.standard_normal(len(shift))
        gain, chance = measure(watch, np.stack([other, watch.source.theta]), as_windows(x)).certainty(0, 1)
        called += gain > 0 and chance < 0.001
    assert called <= 4
