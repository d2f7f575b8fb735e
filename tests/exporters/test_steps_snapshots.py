"""PETAL's posterior from snapshots of the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import trimtab.adapters
from trimtab.exporters import MethodChoice, export
from trimtab.runtime.errors import ExportError

torch.set_num_threads(1)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.BatchNorm1d(6), nn.Linear(6, 3))


def made(out: Path, snapshots: list[dict[str, Tensor]], method: str = "petal") -> None:
    rng = np.random.default_rng(0)
    source = [(rng.standard_normal((64, 4)).astype(np.float32), rng.integers(0, 3, 64))]
    choice = MethodChoice(method, optimiser="sgd")
    export(
        small().eval(),
        torch.zeros(2, 4),
        source,
        out,
        name="s",
        classes=list("abc"),
        methods=[choice],
        snapshots=snapshots,
    )


def test_the_posterior_is_that_of_the_snapshots(tmp_path: Path) -> None:
    model, snapshots, seen = small(), [], []
    for _ in range(5):
        with torch.no_grad():
            for value in model.parameters():
                value += 0.01 * torch.randn_like(value)
        snapshots.append({name: value.clone() for name, value in model.state_dict().items()})
        seen.append(torch.cat([value.detach().reshape(-1) for value in model.parameters()]).double().numpy())
    made(tmp_path, snapshots)
    given = {"lr": 0.1, "restore": 0.0, "confidence": 1.0, "augmentations": 2, "prior": 1e-4}
    adapter = trimtab.adapters.load(tmp_path, "petal", threads=1, **given)
    order = [f"norm.{n}" if n.startswith("1.") else f"model.{n}" for n, _ in model.named_parameters()]
    assert set(order) == {p.name for p in adapter.parts}

    def arranged() -> np.ndarray:
        return np.concatenate([adapter.part(name).reshape(-1) for name in order])

    np.testing.assert_allclose(arranged(), np.mean(seen, 0), rtol=1e-5, atol=1e-6)
    x = np.random.default_rng(1).standard_normal((16, 4)).astype(np.float32)
    for _ in range(3):
        adapter.step(x)
    apart = (arranged() - np.mean(seen, 0)) ** 2
    adapter.step(x)
    wanted = 0.5 * (apart / (np.var(seen, 0) + 1e-6)).sum()
    assert wanted > 0
    assert adapter.metrics["prior"] == pytest.approx(wanted, rel=0.02)


def test_snapshots_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    snapshot = small().state_dict()
    with pytest.raises(ExportError, match="snapshots: there is one"):
        made(tmp_path, [snapshot])
    with pytest.raises(ExportError, match="snapshots: none of the methods makes use of them"):
        made(tmp_path, [snapshot, snapshot], "tent")
    with pytest.raises(ExportError, match=r"snapshots: number 1 is not one of the model: Missing key.*2\.bias"):
        made(tmp_path, [snapshot, {"0.bias": snapshot["0.bias"]}])
