"""Many streams in one call against an adapter for each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import trimtab.adapters
from trimtab.adapters.streams import StreamsAdapter
from trimtab.exporters import MethodChoice, export
from trimtab.exporters.methods import METHODS
from trimtab.runtime.errors import ExportError

torch.set_num_threads(1)
S, SHAPE = 5, (3, 16)


class Signals(nn.Module):
    """Poolings of both kinds, batch and group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, 8, 3, padding=1),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(8, 8, 3, 2, 1),
            nn.GroupNorm(2, 8),
            nn.AvgPool1d(2),
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(2))


class Tokens(nn.Module):
    """Attention and layer norms, a batch norm of features."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(self.embed(x.transpose(1, 2))).mean(1)))


class Plain(nn.Module):
    """Linear layers: all their weights may be a stream's own. (Features without zeros: no two are equally far.)"""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


MODELS: dict[str, tuple[type[nn.Module], list[str | MethodChoice]]] = {
    "signals": (Signals, ["tent", "eata", "bias_vectors"]),
    "tokens": (Tokens, [MethodChoice("tent", optimiser="sgd")]),
    "plain": (
        Plain,
        [
            MethodChoice("tent", changes="all", optimiser="sgd"),
            *("sar", "cafa", "lame", "t3a", "feature_shift", "bbse", "eata+label_shift"),
        ],
    ),
}
CASES = [(m, getattr(c, "method", c)) for m, (_, choices) in MODELS.items() for c in choices]
SURE = {"margin": 1.0, "redundancy": 1.0, "lr": 0.01}
"""So that filters let samples through."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def bundle(which: str) -> Path:
        if which not in made:
            kind, choices = MODELS[which]
            torch.manual_seed(0)
            rng = np.random.default_rng(0)
            source = [(rng.standard_normal((64, *SHAPE)).astype(np.float32), rng.integers(0, 4, 64)) for _ in range(2)]
            every = [replace(MethodChoice(c) if isinstance(c, str) else c, streams=True) for c in choices]
            made[which] = tmp_path_factory.mktemp(which)
            export(
                kind().eval(),
                torch.zeros(2, *SHAPE),
                source,
                made[which],
                name=which,
                classes=list("abcd"),
                methods=every,
            )
        return made[which]

    return bundle


def batches(count: int, size: int = 8) -> list[np.ndarray]:
    """`[S, size, ...]`, each stream with a drift of its own."""
    rng = np.random.default_rng(1)
    scale, shift = rng.uniform(0.5, 2.0, (S, 1, 1, 1)), rng.uniform(-1, 1, (S, 1, 3, 1))
    return [(scale * rng.standard_normal((S, size, *SHAPE)) + shift).astype(np.float32) for _ in range(count)]


def opened(path: Path, method: str) -> tuple[StreamsAdapter, list[Any]]:
    known = trimtab.adapters.load(path, method).hyper
    hyper = {name: value for name, value in SURE.items() if name in known}
    many = trimtab.adapters.load_streams(path, method, S, threads=1, **hyper)
    return many, [trimtab.adapters.load(path, method, threads=1, **hyper) for _ in range(S)]


def near(many: StreamsAdapter, alone: list[Any]) -> None:
    for stream, adapter in enumerate(alone):
        for name, value in many.state(stream).items():
            np.testing.assert_allclose(value, adapter.state()[name], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("which", "method"), CASES)
def test_many_streams_are_as_many_adapters(bundles: Any, which: str, method: str) -> None:
    """Some sit out, samples are not finite, and batches differ in size."""
    many, alone = opened(bundles(which), method)
    for turn, x in enumerate(batches(4)):
        x = x[:, : 8 - turn]
        x[2, turn, 0, 0] = np.nan
        active = np.arange(S) != turn
        y = many.step(x, active)
        for stream, adapter in enumerate(alone):
            wanted = adapter.step(x[stream]) if active[stream] else np.full_like(y[stream], np.nan)
            np.testing.assert_allclose(y[stream], wanted, rtol=1e-3, atol=2e-4)
            for name, values in many.metrics.items():
                own = adapter.metrics[name] if active[stream] else np.nan
                np.testing.assert_allclose(values[stream], own, rtol=1e-3, atol=2e-4)
    near(many, alone)
    assert not many.refused.any()


def test_a_state_moves_between_one_stream_and_many(bundles: Any) -> None:
    many, alone = opened(bundles("signals"), "eata")
    first, second = batches(2)
    alone[3].step(first[3])
    start = many.state()
    many.restore(alone[3].state(), 3)
    many.step(second, np.arange(S) == 3)
    alone[3].step(second[3])
    near(many, alone)
    assert np.array_equal(many.theta[0], start["theta"][0])
    kept = many.state()
    many.step(first)
    many.restore(kept)
    near(many, alone)
    many.reset(3)
    assert np.array_equal(many.theta, start["theta"])


def test_a_stream_whose_state_is_not_finite_keeps_its_own(bundles: Any) -> None:
    many, alone = opened(bundles("signals"), "tent")
    [x] = batches(1)
    x[1] = np.where(x[1] > 0, 3e38, -3e38)  # sums of it overflow
    many.step(x)
    assert many.refused.tolist() == [0, 1, 0, 0, 0]
    for stream in (0, 2, 3, 4):
        alone[stream].step(x[stream])
    near(many, alone)


def test_what_cannot_be_used_is_said(bundles: Any, tmp_path: Path) -> None:
    path = bundles("signals")
    many = trimtab.adapters.load_streams(path, "tent", S)
    with pytest.raises(ValueError, match=r"x has the shape \[4, 8, 3, 16\] where \[5, N, 3, 16\] is needed"):
        many.step(batches(1)[0][:4])
    with pytest.raises(ValueError, match=r"active has the shape \[3\]; give \[5\]"):
        many.step(batches(1)[0], np.ones(3, bool))
    with pytest.raises(ValueError, match=r"state theta is float32\[32\] and must be float32\[5, 32\]"):
        many.restore(many.state(0))
    with pytest.raises(ValueError, match="active is of int64; give True or False for each stream"):
        many.step(batches(1)[0], np.arange(S))  # type: ignore[arg-type]
    for wrong in (-1, S):
        for use in (many.state, many.reset, lambda stream: many.restore(many.state(0), stream)):
            with pytest.raises(ValueError, match=f"there is no stream {wrong}; give one from 0 to 4"):
                use(wrong)
    for count in (0, 2.5):
        with pytest.raises(ValueError, match=f"{count} streams; give a whole number, at least 1"):
            trimtab.adapters.load_streams(path, "tent", count)  # type: ignore[arg-type]


def refused(method: MethodChoice, out: Path, match: str) -> None:
    source = [(np.zeros((8, *SHAPE), np.float32), np.arange(8) % 4)]
    with pytest.raises(ExportError, match=match):
        export(Signals(), torch.zeros(2, *SHAPE), source, out, name="m", classes=list("abcd"), methods=[method])


def test_methods_whose_streams_step_alone_are_refused(tmp_path: Path) -> None:
    for name in ("cotta", "petal", "rotta", "note"):
        assert METHODS[name].alone
        refused(MethodChoice(name, streams=True), tmp_path, f"{name}: its streams cannot step in one call, since how")
    choice = MethodChoice("tent", changes="all", streams=True)
    refused(choice, tmp_path, r"body.0 \(Conv1d\): .*its weights would be each stream's own")
