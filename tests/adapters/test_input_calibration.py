from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.adapters.conftest import MIRRORED, as_windows
from trimtab.adapters import input_calibration
from trimtab.adapters.fit import measure
from trimtab.adapters.input_calibration import InputCalibration
from trimtab.adapters.methods import Context, Declined, Proposal

Served = Callable[[str], tuple[NDArray[np.float32], NDArray[np.int64]]]


def mirrored(context: Context) -> NDArray[np.float32]:
    theta = context.source.theta.copy()
    context.layout.view(theta, "input.x.gain")[:] = MIRRORED
    return theta


def test_few_windows_are_no_evidence(watch: Context, served: Served) -> None:
    found = InputCalibration().propose(watch, watch.source.theta, as_windows(served("left")[0][:32]))
    assert isinstance(found, Declined)
    assert "by chance" in found.reason


def test_the_way_back_is_found(watch: Context, served: Served) -> None:
    found = InputCalibration().propose(watch, mirrored(watch), as_windows(served("right")[0][:256]))
    assert isinstance(found, Proposal)
    assert np.array_equal(found.theta, watch.source.theta)


def test_the_right_setting_is_left_alone(watch: Context, served: Served) -> None:
    for theta, arm in ((watch.source.theta, "right"), (mirrored(watch), "left")):
        found = InputCalibration().propose(watch, theta, as_windows(served(arm)[0][:256]))
        assert isinstance(found, Declined)
        assert found.reason == "the present setting fits best"


def test_what_was_adapted_under_a_wrong_setting_does_not_keep_it(watch: Context, served: Served) -> None:
    wrong = watch.source.theta.copy()
    for part in watch.layout.of_kind("norm.mean"):
        wrong[part.slice] *= 1.3
    found = InputCalibration().propose(watch, wrong, as_windows(served("left")[0][:256]))
    assert isinstance(found, Proposal)
    assert np.array_equal(found.theta, mirrored(watch))


def test_too_many_settings_are_searched_by_coordinates(
    watch: Context, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_calibration, "WHOLE", 32)
    found = InputCalibration().propose(watch, watch.source.theta, as_windows(served("left")[0][:256]))
    assert isinstance(found, Proposal)
    tried = measure(watch, np.stack([found.theta, watch.source.theta]), as_windows(served("left")[0][:256])).misfit()
    assert tried[0] < tried[1] - 1


def test_swapped_channels_and_a_flipped_one(regression: Context) -> None:
    """Features of a sum do not tell channels apart, but norm inputs do: channels are given spreads of their own."""
    scale = np.array([2.0, 0.5, 1.0, 1.0])
    context = rescaled(regression, scale)
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((256, 4)) * scale + np.array([1.0, -1.0, 0.5, 0.7])).astype(np.float32)
    context = resourced(context, x)
    wrong = x[:, [1, 0, 2, 3]] * np.array([1, 1, 1, -1], np.float32)
    found = InputCalibration().propose(context, context.source.theta, as_windows(wrong))
    assert isinstance(found, Proposal)
    assert context.layout.view(found.theta, "input.x.order").tolist() == [1, 0, 2, 3]
    assert context.layout.view(found.theta, "input.x.gain").tolist() == [1, 1, 1, -1]


def test_gain_and_offset_are_matched(regression: Context) -> None:
    rng = np.random.default_rng(6)
    gain, offset = np.array([1, 1.8, 1, 0.6]), np.array([0.8, 0, -0.7, 0])
    x = ((rng.standard_normal((512, 4)) - offset) / gain).astype(np.float32)
    found = InputCalibration(span=1).propose(regression, regression.source.theta, as_windows(x))
    assert isinstance(found, Proposal)
    np.testing.assert_allclose(np.abs(regression.layout.view(found.theta, "input.x.gain")), gain, rtol=0.15)


def test_one_channel_at_fault_leaves_the_others_alone(regression: Context) -> None:
    x = np.random.default_rng(7).standard_normal((512, 4)).astype(np.float32)
    x[:, 1] -= 1.2
    wiring = SimpleNamespace(signs=[], orders=[], gain=True)
    sensor = SimpleNamespace(name="x", shape=[4], mean=[0.0] * 4, std=[1.0] * 4, calibration=wiring)
    context = replace(regression, inputs=[sensor])
    found = InputCalibration(span=1).propose(context, regression.source.theta, as_windows(x))
    assert isinstance(found, Proposal)
    offset = regression.layout.view(found.theta, "input.x.offset")
    assert abs(offset[1] - 1.2) < 0.15
    others = [0, 2, 3]
    assert not offset[others].any()
    assert regression.layout.view(found.theta, "input.x.gain")[others].tolist() == [1, 1, 1]


def test_a_channel_that_stands_still_is_not_explained_by_a_mounting(watch: Context, served: Served) -> None:
    x = served("right")[0][:256].copy()
    x[:, 4] = 3.0
    found = InputCalibration().propose(watch, watch.source.theta, as_windows(x))
    assert isinstance(found, Declined)


def test_a_large_net_is_tried_on_few_windows_first(watch: Context, served: Served) -> None:
    probed = []

    def counting(inputs, rows, slot):  # type: ignore[no-untyped-def]
        probed.append(len(slot))
        return watch.probe(inputs, rows, slot)

    found = InputCalibration().propose(
        replace(watch, probe=counting), watch.source.theta, as_windows(served("left")[0][:256])
    )
    assert isinstance(found, Proposal)
    assert np.array_equal(found.theta, mirrored(watch))
    assert sum(probed) <= 64 * 16 + 17 * 64 + 9 * 256 + 3 * 256


def test_a_bundle_that_declares_nothing(watch: Context, served: Served) -> None:
    sensor = watch.inputs[0]
    plain = SimpleNamespace(name="x", shape=sensor.shape, mean=sensor.mean, std=sensor.std, calibration=None)
    found = InputCalibration().propose(
        replace(watch, inputs=[plain]), watch.source.theta, as_windows(served("left")[0][:64])
    )
    assert isinstance(found, Declined)
    assert "declares no signs" in found.reason


def rescaled(context: Context, scale: NDArray[np.float64]) -> Context:
    """The same model for a sensor whose channels have these spreads; without gain."""
    sensor = context.inputs[0]
    wiring = SimpleNamespace(signs=[0, 3], orders=[[1, 0, 2, 3]], gain=False)
    other = SimpleNamespace(name="x", shape=sensor.shape, mean=sensor.mean, std=list(scale), calibration=wiring)
    return replace(context, inputs=[other])


def resourced(context: Context, x: NDArray[np.float32]) -> Context:
    """The same model as if `x` had been its source."""
    outputs = context.probe({"x": x}, context.source.theta[None], np.zeros(len(x), np.int64))
    moments = np.asarray(outputs.moments, np.float64)
    features = np.asarray(outputs.features, np.float64)
    old = context.source
    source = SimpleNamespace(
        theta=old.theta,
        moments_mean=moments[:, 0].mean(axis=0),
        moments_var=moments[:, 1].mean(axis=0) + moments[:, 0].var(axis=0),
        moments_centre=np.zeros(0),
        moments_whitening=np.zeros((0, 0), np.float32),
        feature_mean=features.mean(axis=0),
        feature_cov=np.cov(features.T, bias=True),
        class_prior=old.class_prior,
        class_feature_mean=old.class_feature_mean,
        class_feature_cov=old.class_feature_cov,
        reference={},
    )
    return replace(context, source=source)
