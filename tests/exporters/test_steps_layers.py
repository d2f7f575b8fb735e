"""Methods that move a layer or add some, in ONNX Runtime against a second, literal writing in float64."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import trimtab.adapters
from tests.exporters.oracles import layers, literal
from tests.exporters.test_steps_streams import Signals, stream
from trimtab.exporters import MethodChoice, export
from trimtab.exporters.steps.export import settle
from trimtab.runtime.errors import ExportError

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, list[Any]]:
    torch.manual_seed(2)
    model = Signals()
    for _ in range(30):
        model(torch.randn(64, 3, 20))
    model.eval()
    path = tmp_path_factory.mktemp("layers")
    source = [(torch.randn(64, 3, 20), torch.randint(5, (64,))) for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = [(x.numpy(), labels.numpy()) for x, labels in source]
        export(model, torch.zeros(2, 3, 20), given, path, name="case", classes=list("abcde"), methods=["nhl", "itta"])
    return model, path, source


def test_nhl(case: Any) -> None:
    model, path, _ = case
    adapter = trimtab.adapters.load(path, "nhl", lr=0.01, eta=0.1, temperature=0.5, threads=1)
    oracle = layers.Nhl(model, "body.0", "body.1", 0.01, 0.1, 0.5)
    assert [p.name for p in adapter.parts] == ["model.body.0.weight", "modulator"]
    for x in [*stream(model, 16, 5, False), *stream(model, 7, 3, False)]:
        np.testing.assert_allclose(adapter.step(x), oracle.step(torch.from_numpy(x).double()), rtol=1e-3, atol=1e-3)
    theta = literal.flat(oracle.parameters).numpy()
    assert np.linalg.norm(adapter.theta - theta) < 1e-4 * np.linalg.norm(theta)
    assert np.abs(adapter.part("model.body.0.weight") - model.body[0].weight.detach().numpy()).max() > 1e-3
    assert np.abs(adapter.part("modulator") - 1.0).max() > 0.01


def test_the_hebbian_rule_brings_a_winner_to_its_input(tmp_path: Path) -> None:
    """With one input again and again, the weights of the channel that wins become that input at unit length."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.LayerNorm(4), nn.Linear(4, 3))
    x = np.tile(np.random.default_rng(0).standard_normal(6).astype(np.float32), (8, 1))
    winner = int(model[0](torch.from_numpy(x[:1])).argmax())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(model, torch.zeros(2, 6), [(x, None)], tmp_path, name="m", classes=list("abc"), methods=["nhl"])
    adapter = trimtab.adapters.load(tmp_path, "nhl", threads=1, lr=0.0, eta=0.5, temperature=0.1)
    for _ in range(200):
        adapter.step(x)
    learnt = adapter.part("model.0.weight")[winner]
    np.testing.assert_allclose(learnt, x[0] / np.linalg.norm(x[0]), atol=1e-3)


def test_itta_with_its_source_training(case: Any) -> None:
    model, path, source = case
    adapter = trimtab.adapters.load(path, "itta", lr=0.003, scale=1.0, threads=1)
    names = ["body.1", "norm", "hidden.1"]
    assert [p.name for p in adapter.parts] == [f"block.{n}.{part}" for n in names for part in ("weight", "bias")]
    halves = [(x.double()[part], labels[part]) for x, labels in source for part in (slice(32), slice(32, 64))]
    oracle = layers.Itta(model, "head", names, halves)
    np.testing.assert_allclose(adapter.theta, literal.flat(oracle.parameters), atol=1e-3)
    assert np.abs(adapter.theta - np.round(adapter.theta)).max() > 0.01  # no longer ones and zeros
    oracle.begin(0.003, 1.0)
    for x in [*stream(model, 16, 5, False), *stream(model, 7, 3, False)]:
        np.testing.assert_allclose(adapter.step(x), oracle.step(torch.from_numpy(x).double()), rtol=1e-2, atol=2e-3)
    theta = literal.flat(oracle.parameters).numpy()
    assert np.linalg.norm(adapter.theta - theta) < 1e-3 * np.linalg.norm(theta)


def test_what_moves_is_not_for_choice() -> None:
    with pytest.raises(ExportError, match="itta: it changes blocks and nothing else; leave `changes` out"):
        settle([MethodChoice("itta", changes="affine")])
