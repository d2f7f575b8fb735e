"""What every adaptation method must keep to, whatever it does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.adapters.conftest import MIRRORED, as_windows
from trimtab.adapters import catalogue
from trimtab.adapters.guard import judge
from trimtab.adapters.methods import Context, Declined, Method, Proposal, Windows

OWN = {
    "input_calibration": None,  # a setting is tried on top of the source's vector, so that all may go back to it
    "norm_statistics": {"norm.mean", "norm.var"},
    "bias_vector": {"feature.shift", "channel.bias"},
}
Served = Callable[[str], tuple[NDArray[np.float32], NDArray[np.int64]]]


@pytest.fixture(params=catalogue.names())
def method(request: pytest.FixtureRequest) -> Method:
    return catalogue.build(request.param, {"span": 1})


@pytest.fixture
def left(served: Served) -> Windows:
    return as_windows(served("left")[0][:256])


def test_same_windows_same_proposal(method: Method, watch: Context, left: Windows) -> None:
    one, two = (method.propose(watch, watch.source.theta, left) for _ in range(2))
    assert type(one) is type(two)
    assert one.evidence == two.evidence
    if isinstance(one, Proposal) and isinstance(two, Proposal):
        assert one.theta.tobytes() == two.theta.tobytes()


def test_theta_and_windows_are_left_alone(method: Method, watch: Context, left: Windows) -> None:
    theta, x = watch.source.theta.copy(), left.inputs["x"].copy()
    method.propose(watch, theta, left)
    assert np.array_equal(theta, watch.source.theta)
    assert np.array_equal(x, left.inputs["x"])


def test_a_proposal_is_finite_and_changes_only_its_own_parameters(
    method: Method, watch: Context, left: Windows
) -> None:
    proposal = method.propose(watch, watch.source.theta, left)
    assert isinstance(proposal, Proposal), proposal
    assert proposal.theta.dtype == np.float32
    assert proposal.theta.shape == watch.source.theta.shape
    assert np.isfinite(proposal.theta).all()
    assert all(np.isfinite(v) for v in proposal.evidence.values())
    own = OWN[method.name]
    for part in watch.layout:
        value = proposal.theta[part.slice]
        if part.kind == "norm.var":
            assert (value >= 0).all()
        if own is not None and part.kind not in own:
            assert np.array_equal(value, watch.source.theta[part.slice]), part.name


def test_trying_twice_changes_nothing_more(method: Method, watch: Context, left: Windows) -> None:
    first = method.propose(watch, watch.source.theta, left)
    assert isinstance(first, Proposal)
    second = method.propose(watch, first.theta, left)
    if isinstance(second, Proposal):
        # Norm statistics of deeper layers may still settle, and predictions with them; but by much less.
        before = np.linalg.norm(first.theta - watch.source.theta)
        assert np.linalg.norm(second.theta - first.theta) < 0.5 * before


def test_windows_that_are_not_finite_are_ignored(method: Method, watch: Context, left: Windows) -> None:
    x = np.concatenate([left.inputs["x"], left.inputs["x"][:3]])
    x[-3, 0, 0], x[-2, 1, 5], x[-1] = np.nan, np.inf, -np.inf
    spoilt = method.propose(watch, watch.source.theta, as_windows(x))
    clean = method.propose(watch, watch.source.theta, left)
    assert isinstance(spoilt, Proposal)
    assert isinstance(clean, Proposal)
    assert np.array_equal(spoilt.theta, clean.theta)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_a_window(method: Method, watch: Context, left: Windows, count: int) -> None:
    found = method.propose(watch, watch.source.theta, left.take(np.arange(count)))
    if count == 0:
        assert isinstance(found, Declined)
        assert found.reason
    elif isinstance(found, Proposal):
        assert np.isfinite(found.theta).all()


def test_all_windows_alike(method: Method, watch: Context) -> None:
    """A sensor that stands still: variances are 0, and nothing may divide by them."""
    x = np.zeros((64, 6, 128), np.float32)
    with np.errstate(all="raise", under="ignore"):
        found = method.propose(watch, watch.source.theta, as_windows(x))
    if isinstance(found, Proposal):
        assert np.isfinite(found.theta).all()


def test_without_drift_nothing_worse_comes_of_it(method: Method, watch: Context, served: Served) -> None:
    """On the arm that the model knows: no proposal, or one that the guard turns down, or one that does no harm."""
    x, exercises = served("right")
    spread = np.arange(len(x))
    # The unseen people one after another, every other run held back, as the runtime does it.
    held = (spread // 8) % 4 == 3
    chosen = spread[~held][::4]
    proposal = method.propose(watch, watch.source.theta, as_windows(x[chosen], chosen))
    if isinstance(proposal, Proposal):
        judged = spread[held][::4]
        verdict = judge(watch, watch.source.theta, proposal.theta, as_windows(x[judged], judged), 0.05)
        slot = np.repeat([0, 1], len(x))
        rows = np.stack([watch.source.theta, proposal.theta])
        y = watch.probe({"x": np.concatenate([x, x])}, rows, slot).y.argmax(axis=1).reshape(2, -1)
        static, adapted = (y == exercises).mean(axis=1)
        assert not verdict.accepted or adapted > static - 0.03


def test_one_class_for_long_is_no_reason(watch: Context, served: Served) -> None:
    """Correlated as can be: one exercise only. With their usual options, methods of statistics hold back."""
    x, exercises = served("right")
    one = x[exercises == 2][:200]
    for name in ("norm_statistics", "bias_vector"):
        found = catalogue.build(name).propose(watch, watch.source.theta, as_windows(one, np.arange(len(one)) * 2))
        assert isinstance(found, Declined)
        assert "classes" in found.reason
    found = catalogue.build("input_calibration").propose(watch, watch.source.theta, as_windows(one))
    assert isinstance(found, Declined)


def test_regression_with_a_norm_over_single_values(method: Method, regression: Context) -> None:
    """[N, C] inputs: moments have variance 0 in each sample, and there are no classes."""
    x = np.random.default_rng(1).standard_normal((256, 4)).astype(np.float32) * 1.5 + 0.5
    found = method.propose(regression, regression.source.theta, as_windows(x))
    assert isinstance(found, Proposal)
    assert np.isfinite(found.theta).all()
    rows = np.stack([regression.source.theta, found.theta])
    y = regression.probe({"x": np.concatenate([x, x])}, rows, np.repeat([0, 1], len(x))).y.reshape(2, -1)
    assert abs(y[1].mean()) < abs(y[0].mean())  # the source's mean is 0


def test_mirrored_is_what_the_left_arm_is(watch: Context, left: Windows) -> None:
    found = catalogue.build("input_calibration").propose(watch, watch.source.theta, left)
    assert isinstance(found, Proposal)
    assert found.tested
    assert np.array_equal(watch.layout.view(found.theta, "input.x.gain"), MIRRORED)
