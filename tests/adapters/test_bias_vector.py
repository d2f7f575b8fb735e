from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.adapters.conftest import as_windows
from trimtab.adapters.bias_vector import BiasVector
from trimtab.adapters.methods import Context, Declined, Proposal


def test_shifted_features_are_shifted_back(regression: Context) -> None:
    """Regression: the shift is the difference of means, shrunk by n / (n + prior)."""
    x = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32) + 0.4
    found = BiasVector(prior=100, caution=0).propose(regression, regression.source.theta, as_windows(x))
    assert isinstance(found, Proposal)
    features = regression.probe({"x": x}, regression.source.theta[None], np.zeros(300, np.int64)).features
    assert features is not None
    expected = (regression.source.feature_mean - features.mean(axis=0, dtype=np.float64)) * 0.75
    np.testing.assert_allclose(regression.layout.view(found.theta, "feature.shift"), expected, rtol=1e-4, atol=1e-5)


def test_labels_move_the_outputs_of_a_regression(regression: Context) -> None:
    x = np.random.default_rng(1).standard_normal((300, 4)).astype(np.float32)
    labels = np.full(300, np.nan)
    labels[:64] = x[:64].sum(axis=1) + 2.0
    found = BiasVector(prior=0).propose(regression, regression.source.theta, as_windows(x, labels=labels))
    assert isinstance(found, Proposal)
    y = regression.probe({"x": x[:64]}, found.theta[None], np.zeros(64, np.int64)).y[:, 0]
    assert abs(float((y - labels[:64]).mean())) < 0.02


def test_a_stream_of_few_classes_does_not_pull_the_others_along(
    watch: Context, served: Callable[[str], tuple[NDArray[np.float32], NDArray[np.int64]]]
) -> None:
    x, exercises = served("right")
    one = x[exercises == 2]
    found = BiasVector(span=1, caution=0).propose(watch, watch.source.theta, as_windows(one))
    assert isinstance(found, Proposal)
    features = watch.probe({"x": one}, watch.source.theta[None], np.zeros(len(one), np.int64)).features
    assert features is not None
    naive = np.linalg.norm(watch.source.feature_mean - features.mean(axis=0))
    assert np.linalg.norm(watch.layout.view(found.theta, "feature.shift")) < 0.5 * naive


def test_what_comes_and_goes_is_no_shift(regression: Context) -> None:
    """Levels that change from run to run, like people who come and go, say nothing of the sensor."""
    rng = np.random.default_rng(3)
    levels = np.repeat(rng.normal(0, 0.5, (4, 4)), 64, axis=0)
    levels -= 0.9 * levels.mean(axis=0)  # what is left of their mean is less than its standard error
    x = (rng.standard_normal((256, 4)) + levels).astype(np.float32)
    found = BiasVector().propose(regression, regression.source.theta, as_windows(x))
    assert isinstance(found, Declined)
    assert "already those" in found.reason
