"""A small trained model, exported with step graphs, and windows for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trimtab.exporters import MethodChoice, export
from trimtab.runtime.bundle import Window

METHODS = [MethodChoice("tent", streams=True), "tent+label_shift", "prior_correction", "feature_shift"]
CLASSES = ["low", "middle", "high"]
FAULT = 0.12
"""The gain of a faulty sensor: the model as exported is right about less than half of the windows then."""


@dataclass(frozen=True)
class Waves:
    """Three classes of sine waves on three channels, told apart by their frequency; two batch norms; and METHODS."""

    path: Path

    def windows(
        self, labels: Sequence[int] | NDArray[np.int64], seed: int, faulty: bool = False, noise: float = 0.7
    ) -> NDArray[np.float32]:
        """`[len(labels), 3, 16]`"""
        rng = np.random.default_rng(seed)
        t = np.arange(16) / 16.0
        waves = np.stack([np.sin(2 * np.pi * (1 + k) * t + rng.uniform(0, 0.5)) for k in labels])
        x = waves[:, None] + rng.normal(0, noise, (len(labels), 3, 16))
        return np.asarray(x * FAULT if faulty else x, np.float32)


def exported(path: Path) -> Waves:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = Waves(path)
    model = nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 8, 5, padding=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.AvgPool1d(16),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    labels = np.arange(600) % 3
    x, y = torch.from_numpy(found.windows(labels, 1)), torch.from_numpy(labels)
    optimiser = torch.optim.Adam(model.train().parameters(), 1e-2)
    for _ in range(6):
        for part in torch.randperm(len(x)).split(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    batches = [(x[i : i + 100], y[i : i + 100]) for i in range(0, 600, 100)]
    window = Window(rows=16, hop=16, rate=16.0)
    export(
        model.eval(),
        torch.zeros(2, 3, 16),
        batches,
        path,
        name="waves",
        classes=CLASSES,
        window=window,
        methods=METHODS,
    )
    return found
