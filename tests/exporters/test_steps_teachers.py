"""The step graphs of RMT, PETAL and PSMT against a second writing of them in float64, and what they promise."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import trimtab.adapters
from tests.exporters.oracles import literal, teachers
from tests.exporters.test_steps import MEAN, STD, Residual, batches, compare, drawn, standard
from trimtab.adapters.steps import StepAdapter
from trimtab.exporters import MethodChoice, export
from trimtab.exporters.inputs import describe_inputs
from trimtab.exporters.steps.contrast import nearest, projection, shapes
from trimtab.exporters.steps.model import build
from trimtab.exporters.steps.optimisers import OPTIMISERS
from trimtab.exporters.steps.restore import quantile
from trimtab.exporters.steps.source import Sample
from trimtab.exporters.steps.source import labelled as labelled_batches
from trimtab.exporters.trace import prepare, trace
from trimtab.runtime.errors import ExportError

torch.set_num_threads(1)

METHODS = [
    MethodChoice("rmt", optimiser="sgd"),
    MethodChoice("rmt_source_free", optimiser="sgd"),
    MethodChoice("petal", optimiser="sgd"),
    MethodChoice("psmt", optimiser="nesterov"),
]
CLASSES = 5
SOURCE = batches(Residual.shape, 5, 64, seed=5)
LABELS = [np.arange(64) % (CLASSES - 1) for _ in SOURCE]
"""The last class has no sample."""


def exported(model: nn.Module, source: list[tuple[Any, Any]], path: Path, methods: list[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(
            model,
            torch.zeros(2, *Residual.shape),
            source,
            path,
            name="case",
            classes=list("abcde"),
            mean=[MEAN] * 3,
            std=[STD] * 3,
            methods=methods,
        )


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    model, path = drawn(Residual), tmp_path_factory.mktemp("teachers")
    exported(model, list(zip(SOURCE, LABELS, strict=True)), path, METHODS)
    return model, path


def labelled() -> teachers.Batches:
    return [(standard(x), torch.from_numpy(labels)) for x, labels in zip(SOURCE, LABELS, strict=True)]


def loaded(case: tuple[nn.Module, Path], name: str, **hyper: float) -> StepAdapter:
    return trimtab.adapters.load(case[1], name, threads=1, **hyper)


def near(value: np.ndarray, wanted: torch.Tensor) -> bool:
    return bool(np.linalg.norm(value - wanted.numpy()) < 1e-4 * np.linalg.norm(wanted))


def flat(model: nn.Module) -> torch.Tensor:
    return literal.flat(list(model.parameters()))


@pytest.mark.parametrize(("name", "replay"), [("rmt", 0.5), ("rmt_source_free", 0.0)])
def test_rmt(case: Any, name: str, replay: float) -> None:
    adapter = loaded(case, name, lr=0.02, **({"replay": replay} if replay else {}))
    projection = adapter.state()["projection.theta"]
    oracle = teachers.Rmt(case[0], "fc", labelled(), projection, 0.02, 0.01, replay)
    assert near(adapter.theta, flat(oracle.model))  # warmed up alike
    assert near(adapter.state()["velocity"], torch.cat([s["momentum_buffer"].reshape(-1) for s in moments(oracle)]))
    compare(adapter, oracle, batches(Residual.shape, 6))
    assert near(adapter.state()["teacher"], flat(oracle.teacher))
    assert near(adapter.state()["projection.theta"], flat(oracle.projector))
    assert np.abs(adapter.state()["projection.theta"] - projection).max() > 1e-3


def moments(oracle: teachers.Rmt) -> list[Any]:
    return [oracle.optimiser.state[p] for p in oracle.parameters]


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_petal(case: Any, confidence: float) -> None:
    given: Any = {"lr": 0.02, "confidence": confidence, "augmentations": 5, "prior": 1e-7, "smoothing": 0.9}
    given |= {"restore": 0.1, "symmetry": 0.25 * confidence}
    adapter, oracle = loaded(case, "petal", **given), teachers.Petal(case[0], labelled(), **given)
    assert near(adapter.theta, flat(oracle.model))
    metrics = compare(adapter, oracle, batches(Residual.shape, 6))
    assert near(adapter.state()["teacher"], flat(oracle.teacher))
    # A student that is its teacher's equal learns nothing from what it sees as well.
    assert (metrics[-1]["prior"] > 1.0) == (confidence == 1.0)


def test_psmt(case: Any) -> None:
    given = {"lr": 0.05, "anchor": 5.0, "smoothing": 0.9, "restore": 0.1}
    adapter, oracle = loaded(case, "psmt", **given), teachers.Psmt(case[0], labelled(), **given)
    source = adapter.theta
    compare(adapter, oracle, batches(Residual.shape, 8))
    assert near(adapter.state()["teacher"], flat(oracle.teacher))
    assert np.abs(adapter.theta - source).max() > 1e-3


@pytest.mark.parametrize("name", ["petal", "psmt"])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5])
def test_the_share_that_is_restored(case: Any, name: str, share: float) -> None:
    adapter = loaded(case, name, lr=0.01, restore=share, **({"confidence": 1.0} if name == "petal" else {}))
    start = adapter.theta
    for x in batches(Residual.shape, 3):
        adapter.step(x)
        assert adapter.metrics["restored"] == pytest.approx(share, abs=1.5 / len(start))
    same = adapter.theta == start
    assert np.mean(same) >= share - 1.5 / len(start)
    if name == "psmt":
        assert (adapter.state()["teacher"][same] == start[same]).mean() >= share


@pytest.mark.parametrize("name", ["rmt", "rmt_source_free", "petal", "psmt"])
def test_state_restores_bit_for_bit_and_batches_may_differ(case: Any, name: str) -> None:
    adapter = loaded(case, name, lr=0.01)
    xs = [x for size in (16, 5, 33) for x in batches(Residual.shape, 1, size)]
    adapter.step(xs[0])
    kept = adapter.state()
    first = [adapter.step(x) for x in xs[1:]]
    assert all(np.isfinite(y).all() for y in first)
    adapter.reset()
    assert np.array_equal(adapter.theta, loaded(case, name).theta)
    adapter.restore(kept)
    assert all(np.array_equal(a, adapter.step(x)) for a, x in zip(first, xs[1:], strict=True))


def test_replay_goes_round(case: Any) -> None:
    adapter = loaded(case, "rmt")
    for x in batches(Residual.shape, 3, 150):
        adapter.step(x)
    assert int(adapter.state()["replayed"]) == 450 % (5 * 64)


def test_without_labels_the_model_labels_itself() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    copied, notes = prepare(net)
    inputs = describe_inputs({"x": [4]}, set(), channels=(), mean=(), std=(), calibration=None)
    marked, head = trace(copied, [torch.zeros(2, 4)], inputs, by_name=False, head=None, frozen=(), notes=notes)
    x = torch.from_numpy(batches((4,), 1, 100)[0])
    found = {}
    for name, labels in (("own", net(x).argmax(1).numpy()), ("none", None)):
        sample = Sample(marked)
        assert list(sample.passing([(x, labels)])) == [(x, labels)]
        found[name] = labelled_batches(build(copied, marked, head, False), marked, sample)
    assert [len(labels) for _, labels in found["none"]] == [64, 36]
    for (_, ours), (_, theirs) in zip(found["none"], found["own"], strict=True):
        assert torch.equal(ours, theirs)


def test_what_the_source_lacks_is_said(tmp_path: Path) -> None:
    model = drawn(Residual)
    with pytest.raises(ExportError, match="method rmt: the source holds less than two samples"):
        exported(model, [(SOURCE[0][:1], None)], tmp_path, ["rmt"])


def test_the_projection_is_learnt_by_its_own_shapes() -> None:
    """Muon takes matrices apart from vectors; the model's are others than the projection's."""
    values, optimiser = projection(4), OPTIMISERS["muon"].of([(3, 2), (7,)]).of(shapes(4))
    state = {"theta": values, **optimiser.start(values)}
    rates = {"lr": torch.tensor(0.1), "momentum": torch.tensor(0.9), "vector_lr": torch.tensor(0.1)}
    moved = optimiser.update(state, torch.ones_like(values), rates)
    assert moved["theta"].shape == values.shape
    assert {name: v.shape for name, v in moved.items()} == {name: v.shape for name, v in state.items()}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=40), st.floats(0, 1))
def test_the_quantile_is_that_of_torch(values: list[float], share: float) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    ours, theirs = quantile(tensor, torch.tensor(share, dtype=torch.float64)), torch.quantile(tensor, share)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-9)


def test_a_class_that_was_not_seen_is_nobodys_prototype() -> None:
    mean, seen = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.tensor([1.0, 1.0, 0.0])
    features = torch.tensor([[-1.0, -2.0], [0.1, 5.0]])
    assert torch.equal(nearest(features, mean, seen), mean[[0, 1]])
