"""Step graphs that propose a parameter vector, on a real model and under the real guard."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import trimtab.adapters
from tests.adapters.conftest import as_windows, context_of
from trimtab.adapters.gradient_steps import GradientSteps, is_row
from trimtab.adapters.guard import judge
from trimtab.adapters.methods import Context, Declined, Proposal, Windows
from trimtab.adapters.steps import Part, packed, read, unpacked
from trimtab.runtime.bundle import load_bundle

SPREAD = np.arange(256) * 2
"""Window numbers: far enough apart to say something."""


@pytest.fixture(scope="module")
def context(waves: Any) -> Context:
    return context_of(load_bundle(waves.path))


@pytest.fixture(scope="module")
def windows(waves: Any) -> Windows:
    labels = np.random.default_rng(0).integers(0, 3, 256)
    return as_windows(waves.windows(labels, 3, faulty=True), SPREAD)


def tent(waves: Any, **given: Any) -> GradientSteps:
    return GradientSteps(read(waves.path, "tent"), {"lr": 0.01}, **given)


def proposed(method: GradientSteps, context: Context, theta: NDArray[np.float32], *rest: Any) -> Proposal:
    found = method.propose(context, theta, *rest)
    assert isinstance(found, Proposal), found
    return found


def test_what_it_proposes_is_accepted_and_right(waves: Any, context: Context, windows: Windows) -> None:
    theta = context.source.theta
    found = proposed(tent(waves), context, theta, windows)
    labels = np.random.default_rng(9).integers(0, 3, 128)
    fresh = waves.windows(labels, 4, faulty=True)
    verdict = judge(context, theta, found.theta, as_windows(fresh), 0.05)
    assert verdict.accepted, verdict
    y = context.probe({"x": fresh}, np.stack([theta, found.theta]), np.zeros(128, np.int64)).y
    better = context.probe({"x": fresh}, found.theta[None], np.zeros(128, np.int64)).y
    assert (y.argmax(axis=1) == labels).mean() < 0.6 < 0.9 < (better.argmax(axis=1) == labels).mean()
    assert found.evidence["steps"] == 4


def test_the_same_windows_give_the_same_proposal(waves: Any, context: Context, windows: Windows) -> None:
    first, second = (proposed(tent(waves), context, context.source.theta, windows) for _ in range(2))
    np.testing.assert_array_equal(first.theta, second.theta)


def test_it_steps_as_the_step_graph_does_and_goes_on_from_its_state(
    waves: Any, context: Context, windows: Windows
) -> None:
    layout = context.layout
    adapter = trimtab.adapters.load(waves.path, "tent", lr=0.01, threads=1)
    theta, state = context.source.theta, None
    for _ in range(2):
        found = proposed(tent(waves), context, theta, windows, state)
        for n in range(4):
            adapter.step(windows.inputs["x"][n::4])
        theta, state = found.theta, found.state
        for part in adapter.parts:
            np.testing.assert_array_equal(layout.view(theta, part.name), adapter.part(part.name))
    assert state is not None
    assert float(state["updates"]) == 8.0
    again = unpacked(packed({"tent": dict(state)}))["tent"]
    assert set(again) == set(state)
    assert all(np.array_equal(again[name], state[name]) for name in state)


def test_it_steps_with_the_calibration_in_use(waves: Any, context: Context, windows: Windows) -> None:
    layout = context.layout
    theta = context.source.theta.copy()
    layout.view(theta, "input.x.gain")[:] = 4.0
    scaled = replace(windows, inputs={"x": windows.inputs["x"] / np.float32(4.0)})
    method = tent(waves)
    plain, calibrated = (proposed(method, context, t, w) for t, w in ((context.source.theta, windows), (theta, scaled)))
    for part in method.graph.parts:
        np.testing.assert_allclose(
            layout.view(calibrated.theta, part.name), layout.view(plain.theta, part.name), rtol=1e-4, atol=1e-5
        )


def test_windows_that_say_nothing_are_declined(waves: Any, context: Context, windows: Windows) -> None:
    few = windows.take(np.arange(4))
    for some, reason in ((few, "4 finite windows"), (windows.take(np.arange(64)), "the windows span 127")):
        found = tent(waves).propose(context, context.source.theta, some)
        assert isinstance(found, Declined)
        assert reason in found.reason
    broken = replace(windows, inputs={"x": np.full_like(windows.inputs["x"], np.nan)})
    assert isinstance(tent(waves).propose(context, context.source.theta, broken), Declined)


def test_only_what_changes_the_vector_alone_can_propose(waves: Any, context: Context) -> None:
    tent, prior_correction = (read(waves.path, name) for name in ("tent", "prior_correction"))
    assert is_row(tent, context.layout)
    assert not is_row(prior_correction, context.layout)
    assert not is_row(replace(tent, parts=(*tent.parts, Part("model.8.weight", (3, 8)))), context.layout)


@pytest.mark.parametrize(
    ("given", "hyper", "message"),
    [
        ({"batch": 0}, {}, "batch is 0"),
        ({"passes": 0}, {}, "passes is 0"),
        ({"span": 0}, {}, "span is 0"),
        ({}, {"lr": 11.0}, "lr is 11; give one from 0 to 10"),
        ({}, {"lr": "fast"}, "lr is 'fast'; give a number"),
        ({}, {"rate": 1.0}, "no hyperparameter 'rate'; it has lr"),
    ],
)
def test_wrong_options(waves: Any, given: dict[str, int], hyper: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientSteps(read(waves.path, "tent"), hyper, **given)


def test_damaged_states_are_said_to_be() -> None:
    assert unpacked(packed({})) == {}
    with pytest.raises(ValueError, match="damaged"):
        unpacked(b"no archive")
