from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.methods import BATCH, NORMS, STATIC, accuracies, differences, in_order, steppers, streamed
from benchmarks.models import random_model
from benchmarks.networks import MotionNet
from benchmarks.targets import Stream, exported
from trimtab.adapters import load
from trimtab.exporters import ExportSpec
from trimtab.runtime.bundle import Bundle

RNG = np.random.default_rng(0)


def drawn(count: int, shape: tuple[int, ...] = MotionNet.shape) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return RNG.standard_normal((count, *shape), np.float32), RNG.integers(0, 7, count)


def spec(model: torch.nn.Module, shape: tuple[int, ...] = MotionNet.shape) -> ExportSpec:
    batches = iter([drawn(BATCH, shape) for _ in range(4)])
    return ExportSpec(model, torch.randn(2, *shape), batches, "m", classes=[str(k) for k in range(7)])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(spec(random_model(MotionNet)), ["tent", "prior_correction"], tmp_path_factory.mktemp("b"))[0]


def test_a_method_that_a_model_cannot_have_is_left_out_with_the_reason(tmp_path: Path) -> None:
    bare = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 7))
    made, refused = exported(spec(bare, (4,)), ["tent", "prior_correction"], tmp_path)
    assert [m.name for m in made.manifest.methods] == ["prior_correction"]
    assert list(refused) == ["tent"]
    assert "norm" in refused["tent"]


def test_the_baselines_are_the_model_as_exported_and_tent_before_it_learns(bundle: Bundle) -> None:
    x = drawn(BATCH)[0] * 2 + 1
    steps = steppers(bundle, ["tent"])
    np.testing.assert_allclose(steps[NORMS].step(x), load(bundle.path, "tent").step(x), rtol=1e-4, atol=1e-5)
    assert np.abs(steps[NORMS].step(x) - steps[STATIC].step(x)).max() > 1e-2


def test_each_stream_begins_anew_in_whole_batches(bundle: Bundle) -> None:
    x, y = drawn(2 * BATCH + 5)
    stream = Stream("data", "part", x, y, RNG.permutation(len(y)))
    assert in_order(stream, "runs").tolist() == list(range(2 * BATCH))
    assert in_order(stream, "shuffled").tolist() == stream.shuffled[: 2 * BATCH].tolist()
    steps = steppers(bundle, ["tent", "prior_correction"])
    assert streamed(steps, stream) == streamed(steps, stream)


def test_tables_average_over_parts_first_and_compare_seed_by_seed() -> None:
    def run(seed: int, part: str, method: str, accuracy: float) -> dict[str, object]:
        return {"seed": seed, "data": "d", "part": part, "order": "runs", "method": method, "accuracy": accuracy}

    static = [
        run(0, "a", STATIC, 50.0),
        run(0, "b", STATIC, 70.0),
        run(1, "a", STATIC, 40.0),
        run(1, "b", STATIC, 40.0),
    ]
    tent = [run(0, "a", "tent", 70.0), run(0, "b", "tent", 70.0), run(1, "a", "tent", 30.0), run(1, "b", "tent", 40.0)]
    assert accuracies(static + tent, [STATIC, "sar"]) == [
        {"method": STATIC, "d, runs": "50.0 ± 10.0"},
        {"method": "sar", "d, runs": "-"},
    ]
    assert differences(static + tent, ["tent"]) == [{"method": "tent", "d, runs": "+2.5 (-5.0)"}]
