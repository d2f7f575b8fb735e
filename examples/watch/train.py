"""Train the network on right arms and export it: `python -m trimtab.examples.watch.train --out DIR`.

Some seconds on one core. It computes in float64 with NumPy's random numbers, so that another machine's rounding
does not grow into another network; the bundle holds float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from trimtab.examples.watch.network import Network
from trimtab.examples.watch.recordings import (
    CHANNELS,
    EXERCISES,
    HOP,
    PEOPLE,
    RATE,
    ROWS,
    UNSEEN,
    Recording,
    load,
    windows,
    worn,
)
from trimtab.exporters import ExportSpec
from trimtab.runtime.bundle import Calibration, Window

EPOCHS = 10
BATCH = 64
RATE_OF_LEARNING = 6e-3
WEIGHT_DECAY = 1e-2
SMOOTHING = 0.1
TILT = np.deg2rad(10.0)
"""No two people wear a watch alike: windows are rotated by a random angle of this standard deviation per axis ..."""
GAIN = 0.2
"""... and channels scaled by 1 + this, normal."""


@dataclass(frozen=True)
class Trained:
    network: Network
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    windows: NDArray[np.float32]
    """[n, 6, 128] what it was trained on, in recorded order."""
    exercises: NDArray[np.int64]


def train(people: Sequence[int], seed: int = 0, recordings: Sequence[Recording] | None = None) -> Trained:
    """Train on the right arms of `people`. The same arguments give the same network."""
    known = load() if recordings is None else recordings
    x, y = windows(worn(known, people, "right"))
    mean, std = x.mean(axis=(0, 2), dtype=np.float64), x.std(axis=(0, 2), dtype=np.float64)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = Network().double()
    optimiser = torch.optim.AdamW(network.parameters(), RATE_OF_LEARNING, weight_decay=WEIGHT_DECAY)
    # Whole batches only: batch statistics of a few windows are noise.
    per_epoch = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE_OF_LEARNING, total_steps=EPOCHS * per_epoch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network.train()
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for i in range(per_epoch):
            batch = np.sort(order[i * BATCH : (i + 1) * BATCH])
            varied = (_turned(x[batch].astype(np.float64), rng) - mean[:, None]) / std[:, None]
            varied *= 1 + GAIN * rng.standard_normal((len(batch), len(CHANNELS), 1))
            loss = cross_entropy(
                network(torch.from_numpy(varied)), torch.from_numpy(y[batch]), label_smoothing=SMOOTHING
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    torch.set_num_threads(threads)
    return Trained(network.float().eval(), mean, std, x, y)


def _turned(x: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Rotate each window's acceleration and angular velocity by the same small random rotation (Rodrigues)."""
    axis = rng.standard_normal((len(x), 3)) * TILT
    angle = np.linalg.norm(axis, axis=1)[:, None, None]
    unit = axis / angle[:, :, 0]
    cross = np.zeros((len(x), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -unit[:, 2], unit[:, 1], -unit[:, 0]
    cross -= cross.transpose(0, 2, 1)
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return np.concatenate([rotation @ x[:, :3], rotation @ x[:, 3:]], axis=1)


def spec(
    people: Sequence[int] | None = None, seed: int = 0, recordings: Sequence[Recording] | None = None
) -> ExportSpec:
    """Train, and say how the result is exported. `people`: default all that are not UNSEEN."""
    chosen = [p for p in PEOPLE if p not in UNSEEN] if people is None else people
    trained = train(chosen, seed, recordings)

    def batches() -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        for i in range(0, len(trained.windows), 256):
            yield trained.windows[i : i + 256], trained.exercises[i : i + 256]

    return ExportSpec(
        model=trained.network,
        example_inputs=torch.from_numpy(trained.windows[:4]),
        source_batches=batches(),
        name="watch",
        classes=EXERCISES,
        window=Window(rows=ROWS, hop=HOP, rate=RATE),
        channels=CHANNELS,
        mean=trained.mean.tolist(),
        std=trained.std.tolist(),
        # On the other arm, or strapped on upside down, any axis may point the other way.
        calibration=Calibration(signs=list(range(len(CHANNELS)))),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the smartwatch example and write its bundle.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "bundle", help="folder of the bundle")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    spec(seed=chosen.seed).export(chosen.out)


if __name__ == "__main__":
    main()
