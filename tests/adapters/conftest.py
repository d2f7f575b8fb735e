"""Real models for the adapters: the shipped smartwatch bundle, a regression, and one whose norm was folded away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from trimtab.adapters.methods import Context, Windows
from trimtab.examples.watch import BUNDLE
from trimtab.examples.watch.recordings import UNSEEN, Arm, load, windows, worn
from trimtab.exporters import export
from trimtab.runtime.bundle import Bundle, Calibration, load_bundle

MIRRORED = np.array([-1, 1, 1, 1, -1, -1], np.float32)
"""What the other arm does to the six channels: the body's mirror plane turns ax, and spins about y and z, round."""


@dataclass(frozen=True)
class Taps:
    y: NDArray[np.float32]
    features: NDArray[np.float32]
    moments: NDArray[np.float32]


def context_of(bundle: Bundle) -> Context:
    """A context whose probe is ONNX Runtime on the bundle's probe graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(bundle.graph("probe"), options, providers=["CPUExecutionProvider"])

    def probe(inputs: dict[str, NDArray[np.float32]], rows: NDArray[np.float32], slot: NDArray[np.int64]) -> Taps:
        feed = {**inputs, "bank": np.ascontiguousarray(rows), "slot": slot}
        return Taps(*session.run(["y", "features", "moments"], feed))

    manifest = bundle.manifest
    return Context(
        bundle.layout, bundle.source, manifest.inputs, manifest.norms, manifest.task, len(manifest.outputs), probe
    )


def as_windows(
    x: NDArray[np.float32], sequence: NDArray[np.int64] | None = None, labels: NDArray[np.float64] | None = None
) -> Windows:
    n = len(x)
    return Windows(
        {"x": x},
        np.arange(n) if sequence is None else sequence,
        np.full(n, -1, np.int64),
        np.full(n, np.nan) if labels is None else labels,
    )


@pytest.fixture(scope="session")
def watch() -> Context:
    return context_of(load_bundle(BUNDLE))


@pytest.fixture(scope="session")
def served() -> Callable[[Arm], tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Windows in recorded order and their exercises, of people that the model never saw."""
    recordings = load()
    found = {arm: windows(worn(recordings, UNSEEN, arm)) for arm in ("left", "right")}
    return lambda arm: found[arm]


@pytest.fixture(scope="session")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """y = sum of 4 channels, by a network with a batch norm on [N, C]; gain and offset may be wrong."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = nn.Sequential(nn.Linear(4, 16, bias=False), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))
    x = np.random.default_rng(0).standard_normal((1024, 4)).astype(np.float32)
    y = x.sum(axis=1, keepdims=True)
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(200):
        loss = ((network(torch.from_numpy(x)) - torch.from_numpy(y)) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    out = tmp_path_factory.mktemp("regression")
    export(
        network.eval(),
        torch.from_numpy(x[:4]),
        [(x, y)],
        Path(out) / "bundle",
        name="sum",
        targets=["sum"],
        mean=[0.0] * 4,
        std=[1.0] * 4,
        calibration=Calibration(gain=True, signs=[0, 3], orders=[[1, 0, 2, 3]]),
    )
    return context_of(load_bundle(Path(out) / "bundle"))
