"""Models that are trained with instance-aware norms, against a literal writing, and in a bundle."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import trimtab.adapters
from tests.exporters.oracles.streams import Aware
from trimtab.exporters import export, instance_aware
from trimtab.runtime.bundle import load_bundle

torch.set_num_threads(1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(3, 6, 3, padding=1),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Sequential(nn.Conv1d(6, 6, 3, 2), nn.BatchNorm1d(6)),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.BatchNorm1d(6),
        nn.Linear(6, 4),
    )


def samples(count: int, seed: int = 0) -> np.ndarray:
    """Each of a level and a size of its own, so that some differ much and some little."""
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((count, 3, 12)) * rng.uniform(0.3, 3, (count, 1, 1)) + rng.uniform(-2, 2, (count, 3, 1))
    ).astype(np.float32)


@pytest.mark.parametrize("shape", [(16, 5, 9), (16, 5, 4, 4), (16, 5)])
def test_as_the_paper_has_it(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    norm = kind(5, momentum=0.2).double()
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -1, 1)
    literal, ours = Aware(norm, 1.0, 0.2), instance_aware(copy.deepcopy(norm), 1.0)
    for mode in (True, True, False):
        x = (torch.randn(shape) * 2 + torch.randn(shape[:2]).reshape(*shape[:2], *[1] * (len(shape) - 2))).double()
        given = [x.clone().requires_grad_() for _ in range(2)]
        y = [module.train(mode)(g) for module, g in zip((literal, ours), given, strict=True)]
        torch.testing.assert_close(*y)
        weights = torch.randn(shape, dtype=torch.float64)
        grads = [torch.autograd.grad((v * weights).sum(), g)[0] for v, g in zip(y, given, strict=True)]
        torch.testing.assert_close(*grads)
        torch.testing.assert_close(ours.norm.running_mean, literal.mean)
        torch.testing.assert_close(ours.norm.running_var, literal.var)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    model = instance_aware(network(), 1.0)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for turn in range(30):
        x = torch.from_numpy(samples(64, turn))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), x.mean((1, 2)).mul(2).long().clamp(0, 3)).backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("aware")
    source = [(samples(64, s), None) for s in (100, 101)]
    export(
        model.eval(),
        torch.zeros(2, 3, 12),
        source,
        path,
        name="aware",
        classes=list("abcd"),
        methods=["note", "feature_shift", "tent"],
    )
    return model, path


def test_the_bundle_is_the_model_and_so_are_the_methods(trained: tuple[nn.Module, Path]) -> None:
    model, path = trained
    x = samples(48, 7)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    names = [norm.name for norm in load_bundle(path).manifest.norms]
    assert names == ["1.norm", "3.1.norm", "6.norm"]
    static = trimtab.adapters.guarded(path, "feature_shift", threads=1, smoothing=1.0)
    static.step(x)
    np.testing.assert_allclose(static.static_y, wanted, rtol=1e-4, atol=1e-4)
    note = trimtab.adapters.load(path, "note", threads=1, k=1.0)
    np.testing.assert_allclose(note.step(x), wanted, rtol=1e-4, atol=1e-4)


def test_methods_that_normalise_by_the_batch_do_it_as_in_training(trained: tuple[nn.Module, Path]) -> None:
    """But for the variance, which is biased in all other methods' batch norms."""
    model, path = trained
    x = samples(400, 8)
    with torch.no_grad():
        wanted: Tensor = copy.deepcopy(model).train()(torch.from_numpy(x))
    y = trimtab.adapters.load(path, "tent", threads=1).step(x)
    np.testing.assert_allclose(y, wanted.numpy(), rtol=0.02, atol=0.02)
