"""The smartwatch example: its stream, its bundle, and that the script gives that bundle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from trimtab.examples.watch import BUNDLE, model
from trimtab.examples.watch.recordings import (
    CHANNELS,
    EXERCISES,
    HOP,
    PEOPLE,
    ROWS,
    UNSEEN,
    held_out,
    load,
    windows,
    worn,
)
from trimtab.examples.watch.stream import SEGMENTS, build
from trimtab.runtime.bundle import load_bundle


def accuracy(x: np.ndarray, exercises: np.ndarray, graph: bytes) -> float:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return float((session.run(["y"], {"x": x})[0].argmax(axis=1) == exercises).mean())


def test_the_shipped_bundle_is_small_and_declares_the_six_signs() -> None:
    bundle = load_bundle(BUNDLE)
    assert sum(f.stat().st_size for f in BUNDLE.iterdir()) < 350_000
    calibration = bundle.manifest.inputs[0].calibration
    assert calibration is not None
    assert calibration.signs == list(range(6))
    assert bundle.manifest.inputs[0].channels == CHANNELS
    assert bundle.manifest.classes == EXERCISES
    window = bundle.manifest.window
    assert window is not None
    assert (window.rows, window.hop, window.rate) == (ROWS, HOP, 50.0)


def test_it_knows_the_right_arm_of_strangers_and_not_the_left() -> None:
    graph = load_bundle(BUNDLE).graph("serve")
    recordings = load()
    assert accuracy(*windows(worn(recordings, UNSEEN, "right")), graph) > 0.8
    assert accuracy(*windows(worn(recordings, UNSEEN, "left")), graph) < 0.4


def test_the_script_gives_the_shipped_bundle(tmp_path: Path) -> None:
    model().export(tmp_path / "bundle")
    made, shipped = load_bundle(tmp_path / "bundle"), load_bundle(BUNDLE)
    np.testing.assert_allclose(made.source.theta, shipped.source.theta, rtol=1e-4, atol=1e-4)
    x = windows(worn(load(), UNSEEN, "right"))[0]
    y = [
        onnxruntime.InferenceSession(b.graph("serve"), providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]
        for b in (made, shipped)
    ]
    np.testing.assert_allclose(y[0], y[1], rtol=1e-3, atol=1e-3)
    assert (y[0].argmax(axis=1) == y[1].argmax(axis=1)).mean() > 0.999
    assert made.manifest.parameters == shipped.manifest.parameters


def test_the_stream_is_the_recordings_one_after_another() -> None:
    recordings = load()
    stream = build(recordings=recordings, start=100.0)
    n = len(stream.values)
    assert stream.values.shape == (n, 6)
    assert stream.values.dtype == np.float32
    assert len(stream.label) == len(stream.segment) == len(stream.time) == n
    assert stream.time[0] == 100.0
    np.testing.assert_allclose(np.diff(stream.time), 0.02, atol=1e-6)
    assert list(dict.fromkeys(stream.segment)) == list(SEGMENTS)
    right = worn(recordings, UNSEEN, "right")
    assert [r.person for r in right] == [p for p in UNSEEN for _ in EXERCISES]
    assert np.array_equal(stream.values[: len(right[0].rows)], right[0].rows)
    assert set(stream.label) == set(EXERCISES)
    columns = stream.columns("arm")
    assert list(columns) == ["time", "stream", *CHANNELS, "label", "segment"]
    assert {len(c) for c in columns.values()} == {n}


def test_the_stream_needs_no_torch() -> None:
    code = "import sys; from trimtab.examples.watch.stream import build; build(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("seed", range(5))
def test_people_are_held_out_by_seed(seed: int) -> None:
    people = held_out(seed)
    assert len(set(people)) == 3
    assert set(people) <= set(PEOPLE)
    assert people == held_out(seed)
