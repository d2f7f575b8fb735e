from __future__ import annotations

import numpy as np

from tests.adapters.conftest import as_windows
from trimtab.adapters.methods import Context, Declined, Proposal
from trimtab.adapters.norm_statistics import NormStatistics


def first_norm_input(context: Context, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> tuple[float, ...]:
    moments = context.probe({"x": x}, context.source.theta[None], np.zeros(len(x), np.int64)).moments
    assert moments is not None
    return moments


def test_without_a_prior_it_is_the_law_of_total_variance(regression: Context) -> None:
    """A norm over [N, C]: mean and variance are NumPy's over the samples."""
    x = np.random.default_rng(3).standard_normal((50, 4)).astype(np.float32) * 2 + 1
    found = NormStatistics(prior=0, caution=0, span=1).propose(regression, regression.source.theta, as_windows(x))
    assert isinstance(found, Proposal)
    values = first_norm_input(regression, x)[:, 0].astype(np.float64)
    name = regression.norms[0].name
    view = regression.layout.view
    np.testing.assert_allclose(view(found.theta, f"norm.{name}.mean"), values.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(view(found.theta, f"norm.{name}.var"), values.var(axis=0), rtol=1e-4)


def test_one_window_is_blended_with_the_prior(regression: Context) -> None:
    """One sample, prior 3: mean (3 m0 + m) / 4; variance of the mixture."""
    x = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    found = NormStatistics(prior=3, caution=0, span=1).propose(regression, regression.source.theta, as_windows(x))
    assert isinstance(found, Proposal)
    m = first_norm_input(regression, x)[0, 0].astype(np.float64)
    name = regression.norms[0].name
    m0 = regression.layout.view(regression.source.theta, f"norm.{name}.mean").astype(np.float64)
    v0 = regression.layout.view(regression.source.theta, f"norm.{name}.var").astype(np.float64)
    np.testing.assert_allclose(
        regression.layout.view(found.theta, f"norm.{name}.mean"), (3 * m0 + m) / 4, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        regression.layout.view(found.theta, f"norm.{name}.var"), 0.75 * v0 + 0.1875 * (m - m0) ** 2, rtol=1e-5
    )


def test_a_change_that_comes_and_goes_is_not_taken(regression: Context) -> None:
    rng = np.random.default_rng(4)
    n = np.arange(512)
    # As wide as the source in all, but by turns high and low, for 80 samples each: more often high, by chance.
    back_and_forth = np.where((n // 80) % 2, -0.95, 0.95)[:, None] + rng.standard_normal((len(n), 4)) * 0.3
    lasting = 0.6 + rng.standard_normal((len(n), 4))
    moved = []
    for x in (back_and_forth.astype(np.float32), lasting.astype(np.float32)):
        found = NormStatistics().propose(regression, regression.source.theta, as_windows(x))
        name = regression.norms[0].name
        theta = found.theta if isinstance(found, Proposal) else regression.source.theta
        change = regression.layout.view(theta - regression.source.theta, f"norm.{name}.mean")
        moved.append(float(np.abs(change).max()))
    assert moved[0] < 0.2 * moved[1]


def test_few_windows_are_too_few(regression: Context) -> None:
    x = np.ones((64, 4), np.float32)
    found = NormStatistics().propose(regression, regression.source.theta, as_windows(x))
    assert isinstance(found, Declined)
    assert "span 64 window numbers, where 256" in found.reason
