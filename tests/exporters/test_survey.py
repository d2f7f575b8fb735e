"""The source statistics of a bundle, against PyTorch and NumPy computed from their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trimtab.drift import signals
from trimtab.drift.input_signals import figures, unusual
from trimtab.exporters.survey import named
from trimtab.runtime.bundle import Input
from trimtab.runtime.errors import ExportError


@pytest.fixture(scope="module")
def taken(case: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    hooks = [
        getattr(case.model, name).register_forward_pre_hook(
            lambda m, a, n=name: values.__setitem__(n, a[0].detach().double())
        )
        for name in ("bn", "bn_depthwise", "bn_point", "fc")
    ]
    with torch.no_grad():
        values["y"] = case.model(case.standard(case.x)).double().numpy()
    for hook in hooks:
        hook.remove()
    return values


def test_norm_inputs(case: Any, taken: dict[str, Any]) -> None:
    source = case.exported.bundle.source
    values = [taken[n] for n in ("bn", "bn_depthwise", "bn_point")]
    np.testing.assert_allclose(
        source.moments_mean, np.concatenate([v.mean((0, 2, 3)) for v in values]), rtol=1e-4, atol=1e-5
    )
    # the variance over all samples and positions together, not the mean of the variances within samples
    pooled = np.concatenate([v.var((0, 2, 3), unbiased=False) for v in values])
    np.testing.assert_allclose(source.moments_var, pooled, rtol=1e-4, atol=1e-6)


def test_features(case: Any, taken: dict[str, Any]) -> None:
    source = case.exported.bundle.source
    features = taken["fc"].numpy()
    np.testing.assert_allclose(source.feature_mean, features.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(source.feature_cov, np.cov(features.T, bias=True), rtol=1e-3, atol=1e-6)
    for k in (0, 1):
        of_class = features[case.labels == k]
        np.testing.assert_allclose(source.class_feature_mean[k], of_class.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(source.class_feature_cov[k], np.cov(of_class.T, bias=True), rtol=1e-3, atol=1e-6)
    assert not source.class_feature_mean[2].any()
    assert not source.class_feature_cov[2].any()
    np.testing.assert_allclose(source.class_prior, [(case.labels == k).mean() for k in range(3)])


def test_reference_signals_are_those_of_samples_by_statistics_of_others(case: Any, taken: dict[str, Any]) -> None:
    source = case.exported.bundle.source
    values = [taken[n].numpy() for n in ("bn", "bn_depthwise", "bn_point")]
    moments = np.concatenate([np.stack([v.mean((2, 3)), v.var((2, 3))], 1) for v in values], axis=2)
    moments[:, 1] = np.maximum(moments[:, 1], 1e-12)  # a variance of 0 is said of norms without any axis to vary over
    within = {
        "divergence": signals.divergence(moments, source.moments_mean, source.moments_var),
        "departure": signals.departure(moments, *signals.moment_whitening(moments)),
        "distance": signals.distance(taken["fc"].numpy(), source.feature_mean, signals.whitening(source.feature_cov)),
    }
    assert set(source.reference) == {*within, "entropy", "raw"}
    np.testing.assert_allclose(
        np.sort(source.reference["entropy"]), np.sort(signals.entropy(taken["y"])), rtol=1e-3, atol=1e-4
    )
    for name in ("departure", "distance"):
        # Nearer to statistics that they took part in.
        assert source.reference[name].mean() > within[name].mean()
        assert source.reference[name].mean() < 2 * within[name].mean()
    np.testing.assert_allclose(source.reference["divergence"].mean(), within["divergence"].mean(), rtol=0.2)


def test_signals_of_the_inputs(case: Any) -> None:
    """An image has levels, and no rows for a spectrum."""
    source = case.exported.bundle.source
    assert set(source.usual) == {"raw"}
    found = figures("raw", [case.x])
    np.testing.assert_allclose(
        found, np.concatenate([case.x.mean((2, 3)), case.x.var((2, 3))], 1), rtol=1e-4, atol=1e-5
    )
    within = unusual(found, source.usual["raw"])
    assert within.mean() < source.reference["raw"].mean() < 2 * within.mean()


def test_inputs_and_theta(case: Any) -> None:
    bundle = case.exported.bundle
    wide = case.x.astype(np.float64)
    np.testing.assert_allclose(bundle.source.input_mean, wide.mean((0, 2, 3)))
    np.testing.assert_allclose(bundle.source.input_var, wide.var((0, 2, 3)))
    theta = bundle.source.theta
    np.testing.assert_array_equal(bundle.layout.view(theta, "input.x.order"), [0, 1, 2])
    np.testing.assert_array_equal(bundle.layout.view(theta, "input.x.gain"), [1, 1, 1])
    np.testing.assert_array_equal(bundle.layout.view(theta, "norm.bn_point.var"), case.model.bn_point.running_var)
    assert not bundle.layout.view(theta, "feature.shift").any()
    assert [p.kind for p in bundle.layout][:3] == ["input.order", "input.gain", "input.offset"]
    assert bundle.manifest.provenance["source_samples"] == 90


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 4)), "shape [2, 4] where [n, 3] is needed"),
        (np.full((2, 3), np.nan), "x holds NaN"),
        ({"z": np.zeros((2, 3))}, "inputs are x"),
        ([np.zeros((2, 3)), np.zeros((2, 3))], "inputs are x"),
    ],
)
def test_a_batch_that_does_not_fit(inputs: Any, message: str) -> None:
    with pytest.raises(ExportError) as caught:
        named(inputs, [Input(name="x", shape=[3])], "source batch 4")
    assert message in str(caught.value)
    assert str(caught.value).startswith("source batch 4: ")
