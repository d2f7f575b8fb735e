"""Methods for correlated streams, in ONNX Runtime against a second, literal writing of the papers in float64."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import trimtab.adapters
from tests.exporters.oracles import literal, streams
from trimtab.adapters.steps import StepAdapter
from trimtab.exporters import export
from trimtab.exporters.methods import note, rotta
from trimtab.exporters.steps import chance, memory

torch.set_num_threads(1)

CLASSES = 5


class Signals(nn.Module):
    """Convolutions over time with batch norms, and one over features alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(3, 8, 5, 2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=1))
        self.norm = nn.BatchNorm1d(8)
        self.hidden = nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.SiLU())
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(torch.tanh(self.norm(self.body(x))).mean(2)))


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(2)
    model = Signals()
    for _ in range(30):  # so that the norms' statistics are those of the source
        model(torch.randn(64, 3, 20))
    model.head.weight.data *= 8  # sure of itself, so that samples differ in their entropy
    model.eval()
    model.head.bias.data -= model(torch.randn(256, 3, 20)).mean(0).detach()  # no class is the default
    path = tmp_path_factory.mktemp("streams")
    source = [(torch.randn(64, 3, 20).numpy(), None) for _ in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(
            model, torch.zeros(2, 3, 20), source, path, name="case", classes=list("abcde"), methods=["rotta", "note"]
        )
    return model, path


def stream(model: nn.Module, size: int, steps: int, correlated: bool) -> list[np.ndarray]:
    """Drifted batches; `correlated`: those of one class (as the source model sees it) come one after another."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((size * steps, 3, 20)) * rng.uniform(0.5, 1.6, (size * steps, 3, 1)) + 0.2
    x = x.astype(np.float32)
    if correlated:
        with torch.no_grad():
            x = x[np.argsort(model(torch.from_numpy(x)).argmax(1).numpy(), kind="stable")]
    return list(x.reshape(steps, size, 3, 20))


def follow(adapter: StepAdapter, oracle: Any, xs: list[np.ndarray]) -> None:
    """Predictions, the memory and what is learnt are the oracle's after each step."""
    for x in xs:
        y, wanted = adapter.step(x), oracle.step(torch.from_numpy(x).double())
        np.testing.assert_allclose(y, wanted.numpy(), rtol=1e-3, atol=1e-3)
        state, items = adapter.state(), oracle.memory.items()
        kept = state["kept.kind"] >= 0
        assert state["kept.kind"][kept].tolist() == [item.kind for item in items]
        np.testing.assert_allclose(state["sample.x"][kept], torch.stack([i.x for i in items]).numpy(), rtol=1e-5)
        assert state["seen"] == oracle.seen
    theta = literal.flat(oracle.parameters).numpy()
    assert np.linalg.norm(adapter.theta - theta) < 1e-4 * np.linalg.norm(theta)
    assert np.abs(adapter.theta - adapter._described.start["theta"]).max() > 1e-3


def running(model: nn.Module) -> np.ndarray:
    norms = [m for m in model.modules() if isinstance(m, (streams.Robust, streams.Aware))]
    return np.stack([torch.cat([n.mean for n in norms]).numpy(), torch.cat([n.var for n in norms]).numpy()])


@given(st.sampled_from([2, 5, 40, 100]), st.integers(1, 8), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_memories_hold_what_the_papers_say(classes: int, run: int, seed: int) -> None:
    """Over 300 samples whose classes come in runs, few classes or more than there are places."""
    rng = np.random.default_rng(seed)
    kinds = np.repeat(rng.integers(0, classes, 300 // run + 1), run)[:300]
    doubts = rng.uniform(0, np.log(classes), 300)
    numbers = torch.arange(1, 301)
    facts = [
        {"kind": torch.from_numpy(kinds), "doubt": torch.from_numpy(doubts / np.log(classes))},
        {"kind": torch.from_numpy(kinds), "chance": chance.each(numbers, 0), "choice": chance.each(numbers, 1)},
    ]
    hyper = {"timeliness": torch.tensor(1.0), "uncertainty": torch.tensor(1.0)}
    free = torch.full((64,), memory.FREE)
    ages = {"age": torch.zeros(64, dtype=torch.float64), "doubt": torch.zeros(64, dtype=torch.float64)}
    start = [{"kind": free, **ages}, {"kind": free, "seen": torch.zeros(classes)}]
    adds = [partial(rotta._add, 64 / classes), note._add]
    for add, kept, each, oracle in zip(
        adds, start, facts, (streams.Balanced(classes), streams.Reservoir(classes)), strict=True
    ):
        place = torch.full((64,), -1)
        for n in range(300):
            kept, taken = add(kept, {name: value[n : n + 1] for name, value in each.items()}, hyper)
            place = torch.where(taken, n, place)
            oracle.add(streams.Item(torch.tensor(n), int(kinds[n]), float(doubts[n])))
        held = oracle.items()
        assert place[: len(held)].tolist() == [int(item.x) for item in held]
        assert (place[len(held) :] == -1).all()


SIZES = pytest.mark.parametrize(("size", "steps"), [(1, 150), (5, 60), (16, 30), (64, 8), (100, 6)])


@SIZES
@pytest.mark.parametrize("correlated", [False, True])
def test_rotta(case: Any, size: int, steps: int, correlated: bool) -> None:
    model, path = case
    adapter = trimtab.adapters.load(path, "rotta", lr=0.01, alpha=0.2, nu=0.1, threads=1)
    oracle = streams.Rotta(model, CLASSES, 0.01, 0.2, 0.1)
    follow(adapter, oracle, stream(model, size, steps, correlated))
    state, items = adapter.state(), oracle.memory.items()
    kept = state["kept.kind"] >= 0
    assert state["kept.age"][kept].tolist() == [item.age for item in items]
    np.testing.assert_allclose(state["kept.doubt"][kept] * np.log(CLASSES), [i.doubt for i in items], atol=1e-4)
    np.testing.assert_allclose(state["teacher"], literal.flat(oracle.averages).numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(state["statistics"], running(oracle.student), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(state["teacher_statistics"], running(oracle.teacher), rtol=1e-3, atol=1e-4)
    assert adapter.metrics["rounds"] == size * steps // 64
    assert size == 1 or all(oracle.memory.fates.values()), oracle.memory.fates


@SIZES
@pytest.mark.parametrize("correlated", [False, True])
def test_note(case: Any, size: int, steps: int, correlated: bool) -> None:
    model, path = case
    adapter = trimtab.adapters.load(path, "note", lr=0.01, k=1.0, momentum=0.2, threads=1)
    oracle = streams.Note(model, CLASSES, 0.01, 1.0, 0.2)
    follow(adapter, oracle, stream(model, size, steps, correlated))
    state = adapter.state()
    np.testing.assert_allclose(state["statistics"], running(oracle.model), rtol=1e-3, atol=1e-4)
    assert state["kept.seen"].tolist() == oracle.memory.seen_of
    assert all(oracle.memory.fates.values()), oracle.memory.fates


@pytest.mark.parametrize("method", ["rotta", "note"])
def test_the_stream_goes_on_from_a_state_bit_for_bit(case: Any, method: str) -> None:
    model, path = case
    adapter = trimtab.adapters.load(path, method, lr=0.01, threads=1)
    xs = stream(model, 40, 8, correlated=True)
    for x in xs[:3]:
        adapter.step(x)
    kept = adapter.state()
    first = [adapter.step(x) for x in xs[3:]]
    last = adapter.state()
    other = trimtab.adapters.load(path, method, lr=0.01, threads=1)
    other.restore(kept)
    assert all(np.array_equal(y, other.step(x)) for y, x in zip(first, xs[3:], strict=True))
    assert all(np.array_equal(value, last[name]) for name, value in other.state().items())


def test_how_a_stream_is_cut_does_not_matter_to_note(case: Any) -> None:
    """Where rounds of learning end with batches: it predicts sample by sample."""
    model, path = case
    [x] = stream(model, 256, 1, correlated=True)
    whole, pieces = (trimtab.adapters.load(path, "note", lr=0.01, threads=1) for _ in range(2))
    y = np.concatenate([whole.step(part) for part in np.split(x, 4)])
    np.testing.assert_allclose(np.concatenate([pieces.step(part) for part in np.split(x, 32)]), y, atol=1e-4)
