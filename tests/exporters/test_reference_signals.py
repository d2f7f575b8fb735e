"""Signals of source samples by statistics of the others, against samples that are new indeed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.drift import signals
from trimtab.drift.input_signals import figures, layout, unusual, usual
from trimtab.exporters.reference_signals import reference_signals


def drawn(n: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float32]]:
    """Logits of three classes, 20 features, and moments of 40 norm channels."""
    moments = np.stack([rng.standard_normal((n, 40)), np.exp(rng.standard_normal((n, 40)))], axis=1)
    y = 3 * rng.standard_normal((n, 3))
    return y.astype(np.float32), rng.standard_normal((n, 20)), moments.astype(np.float32)


def test_reference_signals_are_as_those_of_new_samples() -> None:
    rng = np.random.default_rng(0)
    y, features, moments = drawn(300, rng)
    _, new_features, new_moments = drawn(4000, rng)
    windows, new_windows = rng.standard_normal((300, 20, 16)), rng.standard_normal((4000, 20, 16))
    inputs = {"raw": (figures("raw", [windows]), layout("raw", [[20, 16]]))}
    known = reference_signals(y, features, moments, y.argmax(1), inputs)
    new = {
        "departure": lambda m: signals.departure(new_moments, *signals.moment_whitening(m)),
        "distance": lambda f: signals.distance(new_features, f.mean(0), signals.whitening(np.cov(f.T))),
        "raw": lambda x: unusual(figures("raw", [new_windows]), usual(figures("raw", [x]), layout("raw", [[20, 16]]))),
    }
    within = {
        "departure": signals.departure(moments, *signals.moment_whitening(moments)),
        "distance": signals.distance(features, features.mean(0), signals.whitening(np.cov(features.T))),
        "raw": unusual(inputs["raw"][0], usual(*inputs["raw"])),
    }
    for name, taken in (("departure", moments), ("distance", features), ("raw", windows)):
        fresh = new[name](taken).mean()
        # By four fifths of the samples: a little further off than by all of them.
        assert known[name].mean() == pytest.approx(fresh, rel=0.06)
        assert within[name].mean() < fresh - 1.5 * abs(known[name].mean() - fresh)


def test_shuffled_samples_come_in_runs_of_a_class() -> None:
    rng = np.random.default_rng(1)
    y, features, moments = drawn(600, rng)
    sure = y.argmax(1) == 0
    y[sure] *= 10  # its entropy is low
    recorded = signals.entropy(y)
    entropy = reference_signals(y, features, moments, y.argmax(1), {})["entropy"]
    np.testing.assert_array_equal(np.sort(entropy), np.sort(recorded))
    assert np.corrcoef(entropy[1:], entropy[:-1])[0, 1] > 0.2 > abs(np.corrcoef(recorded[1:], recorded[:-1])[0, 1])


def test_a_few_samples_and_a_regression() -> None:
    rng = np.random.default_rng(2)
    y, features, moments = drawn(12, rng)
    few = reference_signals(y, features, moments[:, :, :0], None, {})
    assert set(few) == {"distance"}
    assert few["distance"].shape == (12,)
    assert set(reference_signals(y, features[:, :0], moments, y.argmax(1), {})) == {"divergence", "entropy"}
