"""Two years of ageing gas sensors: trained on the first two batches, streamed through the next four.

    python -m benchmarks.gas [--seeds 5]

The data (UCI 270, Vergara 2012) are read from `$TRIMTAB_DATA/gas_drift`, by default `../shared/data` beside the
checkout. A file holds its batch gas by gas, which is no order of time; so the stream is run twice, as it stands in
the file (`file`: hundreds of samples of one gas in a row, the hardest case for any adaptation) and with each batch
shuffled (`mixed`: gases come as they may). Batches keep their order. Labels only count the hits.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks import report
from benchmarks.watch import METHODS, Kept, configured
from trimtab.exporters import ExportSpec
from trimtab.runtime.blocks import Block
from trimtab.runtime.bundle import Calibration
from trimtab.runtime.replay import replay

FILE = Path("gas_drift") / "gas_drift_b1-6.npz"
TRAINED, STREAMED = (1, 2), (3, 4, 5, 6)
EPOCHS = 40
BATCH = 64


def data() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Features `[N, 128]` on a logarithmic scale, gases `[N]` from 0, batches `[N]`, names of the gases."""
    folder = Path(os.environ.get("TRIMTAB_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
    file = folder / FILE
    if not file.exists():
        sys.exit(f"{file} is not there; set TRIMTAB_DATA to the folder that holds {FILE}")
    with np.load(file, allow_pickle=False) as arrays:
        x = arrays["X"].astype(np.float64)
        features = scaled(x)  # resistances and their changes range over five decades
        names = [str(n) for n in arrays["gas_names"] if n]
        return features, arrays["y"].astype(np.int64) - 1, arrays["batch"].astype(np.int64), names


def scaled(x: NDArray[np.float64]) -> NDArray[np.float32]:
    """On a logarithmic scale, either side of 0."""
    return np.asarray(np.sign(x) * np.log1p(np.abs(x)), np.float32)


class Network(nn.Module):
    """[N, F] standardised features -> [N, K] logits."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(inputs, 64, bias=False),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, 32, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x))
        return logits


def spec(seed: int, x: NDArray[np.float32], y: NDArray[np.int64], names: list[str], name: str = "gas") -> ExportSpec:
    """Train on `x`, `y`, and say how the result is exported."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    centre, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    network = Network(x.shape[1], len(names))
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    inputs, gases = torch.from_numpy((x - centre) / spread), torch.from_numpy(y)
    for _ in range(EPOCHS):
        order = torch.from_numpy(rng.permutation(len(x)))
        for batch in order.split(BATCH):
            if len(batch) < BATCH // 2:
                continue
            noisy = inputs[batch] + 0.2 * torch.from_numpy(
                rng.standard_normal((len(batch), x.shape[1])).astype(np.float32)
            )
            loss = cross_entropy(network(noisy), gases[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return ExportSpec(
        model=network.eval(),
        example_inputs=torch.from_numpy(x[:4]),
        source_batches=[(x, y)],
        name=name,
        classes=names,
        mean=centre.tolist(),
        std=spread.tolist(),
        calibration=Calibration(gain=True),
    )


def in_order(kind: str, batch: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The streamed samples, batch after batch, each as it stands in the `file` or `mixed`."""
    rng = np.random.default_rng(seed)
    parts = [np.flatnonzero(batch == b) for b in STREAMED]
    return np.concatenate([p if kind == "file" else rng.permutation(p) for p in parts])


def blocks(
    x: NDArray[np.float32], y: NDArray[np.int64], batch: NDArray[np.int64], names: list[str], order: NDArray[np.int64]
) -> Iterator[Block]:
    for t, i in enumerate(order):
        yield Block("gas", float(t), {"x": x[i]}, labels=[names[y[i]]], segment=str(batch[i]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(METHODS), help="rows to run")
    given = parser.parse_args()
    x, y, batch, names = data()
    known = np.isin(batch, TRAINED)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            bundle = spec(seed, x[known], y[known], names).export(Path(folder) / str(seed)).bundle
            for kind in ("file", "mixed"):
                order = in_order(kind, batch, seed)
                for name in given.only:
                    kept = Kept()
                    config = configured(bundle, METHODS[name])
                    replay(bundle, config, blocks(x, y, batch, names, order), [kept])
                    right = np.array([d.output == d.truth for d in kept.decisions])
                    segment = np.array([d.segment for d in kept.decisions])
                    moved = [e for e in kept.events if e.topic.startswith("adaptation/")]
                    rows.append(
                        {
                            "seed": seed,
                            "order": kind,
                            "methods": name,
                            **{f"batch {b}": float(right[segment == str(b)].mean()) for b in STREAMED},
                            "all": float(right.mean()),
                            "alarms": sum(e.topic.startswith("drift/") for e in kept.events),
                            "switches": sum(e.payload["from"] != e.payload["to"] for e in moved),
                        }
                    )
                    print(rows[-1], flush=True)
    columns = [f"batch {b}" for b in STREAMED] + ["all"]
    rows += [
        {
            "seed": "mean",
            "order": kind,
            "methods": name,
            **{c: mean(r[c] for r in rows if (r["order"], r["methods"]) == (kind, name)) for c in columns},
        }
        for kind in ("file", "mixed")
        for name in given.only
    ]
    report.write("gas", rows, settings=f"trained on batches {TRAINED}, streamed {STREAMED}")


if __name__ == "__main__":
    main()
