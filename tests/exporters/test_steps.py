"""Step graphs in ONNX Runtime against a second, literal writing of the papers in float64."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import trimtab.adapters
from tests.exporters.oracles import literal
from trimtab.adapters.steps import StepAdapter, read
from trimtab.exporters import MethodChoice, export
from trimtab.exporters.inputs import describe_inputs
from trimtab.exporters.marked import Marked
from trimtab.exporters.methods.sar import SAR
from trimtab.exporters.methods.tent import TENT
from trimtab.exporters.parity import patched
from trimtab.exporters.steps import chance
from trimtab.exporters.steps.compiler import compile_step, hyperparameters
from trimtab.exporters.steps.export import prove
from trimtab.exporters.steps.losses import cross_entropy
from trimtab.exporters.steps.model import build, choose
from trimtab.exporters.steps.optimisers import OPTIMISERS
from trimtab.exporters.steps.teacher import followed
from trimtab.exporters.trace import prepare, trace
from trimtab.runtime.bundle import load_bundle
from trimtab.runtime.errors import ExportError

torch.set_num_threads(1)


class Residual(nn.Module):
    """Strided, depthwise and pointwise convolutions, a max pooling, in-place activations and a residual."""

    shape = (3, 9, 9)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.six = nn.ReLU6(inplace=True)
        self.point = nn.Conv2d(8, 8, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        y = self.six(self.bn2(self.depthwise(x)))
        x = self.act(self.bn3(self.point(y)) + x)
        return self.fc(self.pool(x).mean((2, 3)))


class Attention(nn.Module):
    """A transformer encoder's layer, a mean over time, and a linear head."""

    shape = (4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, activation="gelu", batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.embed(x.transpose(1, 2)))
        return self.head(self.norm(x).mean(1))


class Signals(nn.Module):
    """1-D convolutions with dilation, batch and group norm, average pooling."""

    shape = (3, 20)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, 8, 5, 2), nn.BatchNorm1d(8), nn.SiLU(), nn.Conv1d(8, 8, 3, dilation=2, padding=2)
        )
        self.norm = nn.GroupNorm(2, 8)
        self.pool = nn.AvgPool1d(2)
        self.head = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(torch.tanh(self.norm(self.body(x)))).flatten(1))


MODELS: dict[str, tuple[type[nn.Module], list[Any]]] = {
    "residual": (Residual, ["eata", "sar", "cafa", "prior_correction"]),
    "attention": (Attention, ["eata", "cafa", "lame"]),
    "signals": (Signals, ["sar", "t3a", MethodChoice("cotta", optimiser="sgd")]),
}
"""Each with the methods that are tried on it, beside Tent: an export takes seconds."""


def having(method: str) -> pytest.MarkDecorator:
    models = [m for m, (_, names) in MODELS.items() if method in [getattr(n, "method", n) for n in names]]
    return pytest.mark.parametrize("case", models, indirect=True)


MEAN, STD = 2.0, 3.0


def batches(shape: tuple[int, ...], count: int, size: int = 16, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    drift = rng.uniform(-1, 1, (1, shape[0]) + (1,) * (len(shape) - 1))
    return [(MEAN + STD * (rng.standard_normal((size, *shape)) * 1.4 + drift)).astype(np.float32) for _ in range(count)]


def standard(x: np.ndarray) -> Tensor:
    return (torch.from_numpy(x).double() - MEAN) / STD


def drawn(kind: type[nn.Module]) -> Any:
    """A model whose norms have values as if trained."""
    torch.manual_seed(1)
    model = kind()
    for name, value in model.named_parameters():
        if value.dim() == 1:
            nn.init.uniform_(value, 0.5, 1.5) if "weight" in name else nn.init.uniform_(value, -0.3, 0.3)
        if name.startswith(("fc", "head")) and value.dim() == 2:
            value.data -= value.data.mean(1, keepdim=True)  # no class is the default
            value.data *= 6  # sure of itself, so that filters let some samples pass
    return model.eval()


@pytest.fixture(scope="session", params=MODELS)
def case(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, tuple[int, ...]]:
    kind, methods = MODELS[request.param]
    model = drawn(kind)
    shape = model.shape
    path = tmp_path_factory.mktemp("steps")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(
            model,
            torch.zeros(2, *shape),
            [(x, None) for x in batches(shape, 4, seed=5)],
            path,
            name="case",
            classes=list("abcde"),
            mean=[MEAN] * shape[0],
            std=[STD] * shape[0],
            methods=["tent", MethodChoice("tent", "everything", "all", "sgd"), *methods],
        )
    return model, path, shape


def compare(adapter: StepAdapter, oracle: Any, xs: list[np.ndarray]) -> list[dict[str, float]]:
    metrics = []
    for x in xs:
        y, wanted = adapter.step(x), oracle.step(standard(x)).numpy()
        np.testing.assert_allclose(y, wanted, rtol=1e-3, atol=2e-4)
        metrics.append(adapter.metrics)
    theta = literal.flat(oracle.parameters).numpy()
    assert np.linalg.norm(adapter.theta - theta) < 1e-4 * np.linalg.norm(theta)
    return metrics


def moved(adapter: StepAdapter) -> bool:
    theta = adapter.theta
    adapter.reset()
    return bool(np.abs(adapter.theta - theta).max() > 1e-3)


def test_tent(case: Any) -> None:
    model, path, shape = case
    adapter = trimtab.adapters.load(path, "tent", lr=0.01, threads=1)
    compare(adapter, literal.Tent(model, 0.01), batches(shape, 8))
    assert moved(adapter)


@having("eata")
def test_eata(case: Any) -> None:
    model, path, shape = case
    seen = [standard(x) for x in batches(shape, 4, seed=5)]
    given = {"lr": 0.02, "margin": 0.6, "redundancy": 0.8, "alpha": 3.0}
    adapter = trimtab.adapters.load(path, "eata", threads=1, **given)
    oracle = literal.Eata(model, [torch.cat(seen)], 0.02, 0.6, 0.8, 3.0)
    metrics = compare(adapter, oracle, batches(shape, 8))
    assert any(0 < m["kept"] < 1 for m in metrics), metrics
    assert moved(adapter)


@having("sar")
def test_sar_with_resets(case: Any) -> None:
    model, path, shape = case
    adapter = trimtab.adapters.load(path, "sar", lr=0.05, margin=0.6, reset=0.4, threads=1)
    last = ("norm",) if isinstance(model, Signals) else ()
    oracle = literal.Sar(model, last, 0.05, 0.6, 0.05, 0.4)
    metrics = compare(adapter, oracle, batches(shape, 8))
    assert any(0 < m["kept"] < 1 for m in metrics), metrics
    assert sum(m["reset"] for m in metrics) == oracle.resets


def head_of(model: nn.Module) -> str:
    return "fc" if hasattr(model, "fc") else "head"


@having("cafa")
def test_cafa(case: Any) -> None:
    model, path, shape = case
    source = load_bundle(path).source
    tied = np.einsum("k,kij->ij", source.class_prior, source.class_feature_cov)
    tied = 0.9 * tied + 0.1 * np.trace(tied) / len(tied) * np.eye(len(tied))
    means = {k: torch.from_numpy(source.class_feature_mean[k]) for k in np.flatnonzero(source.class_prior).tolist()}
    oracle = literal.Cafa(model, head_of(model), means, torch.from_numpy(tied), 0.01)
    adapter = trimtab.adapters.load(path, "cafa", lr=0.01, threads=1)
    compare(adapter, oracle, batches(shape, 5))
    assert moved(adapter)


@having("cotta")
@pytest.mark.parametrize(("confidence", "symmetry"), [(0.0, 0.0), (1.0, 0.0), (0.0, 0.5)])
def test_cotta(case: Any, confidence: float, symmetry: float) -> None:
    model, path, shape = case
    given: Any = {"lr": 0.01, "confidence": confidence, "augmentations": 4, "smoothing": 0.9, "restore": 0.1}
    given["symmetry"] = symmetry
    adapter = trimtab.adapters.load(path, "cotta", threads=1, **given)
    compare(adapter, literal.Cotta(model, **given), batches(shape, 5))
    # A student that is its teacher's equal learns nothing from what it sees as well.
    assert moved(adapter) == (confidence == 1.0 or symmetry > 0.0)


def test_an_equal_of_its_teacher_has_no_gradient_left_by_rounding() -> None:
    y = (torch.randn(64, 10, generator=torch.Generator().manual_seed(0)) * 3.0).requires_grad_()
    [found] = torch.autograd.grad(cross_entropy(y, y.detach()).mean(), y)
    assert not found.any()
    assert torch.equal(followed(y, y, torch.tensor(0.999)), y)


def test_chance_is_even_and_independent() -> None:
    many = torch.stack([chance.uniform(2000, torch.tensor(c), p) for c in range(5) for p in range(5)])
    assert many.min() >= 0.0
    assert many.max() < 1.0
    counts = torch.histc(many, 20, 0, 1)
    expected = many.numel() / 20
    assert float(((counts - expected) ** 2 / expected).sum()) < 50  # chi square of 19 degrees: 1 in 10,000
    apart = torch.corrcoef(many) - torch.eye(25)
    assert float(apart.abs().max()) < 0.12
    lagged = [float(torch.corrcoef(torch.stack([row[:-1], row[1:]]))[0, 1]) for row in many]
    assert max(map(abs, lagged)) < 0.1
    drawn = chance.normal(20000, torch.tensor(3))
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.03)
    np.testing.assert_array_equal(many[7].numpy(), literal.draws(2000, 1, 2).astype(np.float32))


@having("lame")
@pytest.mark.parametrize("size", [16, 4])
@pytest.mark.parametrize("affinity", [0.0, 1.0])
def test_lame(case: Any, size: int, affinity: float) -> None:
    model, path, shape = case
    adapter = trimtab.adapters.load(path, "lame", threads=1, affinity=affinity)
    for x in batches(shape, 2, size):
        wanted = literal.lame(*literal.plain(model, head_of(model), standard(x)), affinity == 1.0)
        np.testing.assert_allclose(np.exp(adapter.step(x)), wanted, atol=1e-4)
    assert adapter.theta.shape == (0,)
    assert adapter.state() == {}


@having("t3a")
@pytest.mark.parametrize("kept", [1, 20])
def test_t3a(case: Any, kept: int) -> None:
    model, path, shape = case
    layer = model.get_submodule(head_of(model))
    oracle = literal.T3a(*(v.detach().double().numpy() for v in (layer.weight, layer.bias)), kept)
    adapter = trimtab.adapters.load(path, "t3a", threads=1, kept=float(kept))
    for x in batches(shape, 6):
        p, features = literal.plain(model, head_of(model), standard(x))
        np.testing.assert_allclose(adapter.step(x), oracle.step(p, features), rtol=1e-3, atol=1e-3)
    assert adapter.metrics["supports"] == sum(len(s) for s in oracle.sets)


@having("prior_correction")
def test_prior_correction(case: Any) -> None:
    model, path, shape = case
    source = np.maximum(load_bundle(path).source.class_prior, 1e-4)
    source /= source.sum()
    shares = source
    adapter = trimtab.adapters.load(path, "prior_correction", rate=0.3, threads=1)
    for x in batches(shape, 5):
        p, _ = literal.plain(model, head_of(model), standard(x))
        wanted, shares = literal.saerens(p, source, shares, 0.3)
        np.testing.assert_allclose(np.exp(adapter.step(x)), wanted, atol=1e-4)
    np.testing.assert_allclose(adapter.state()["shares"], shares, atol=1e-4)


def test_all_weights_move(case: Any) -> None:
    model, path, shape = case
    adapter = trimtab.adapters.load(path, "everything", lr=0.01, threads=1)
    oracle = literal.Tent(model, 0.01)
    for parameter in oracle.model.parameters():
        parameter.requires_grad_(True)
    oracle.parameters = list(oracle.model.parameters())
    oracle.optimiser = torch.optim.SGD(oracle.parameters, lr=0.01, momentum=0.9)
    for x in batches(shape, 5):
        np.testing.assert_allclose(adapter.step(x), oracle.step(standard(x)).numpy(), rtol=1e-3, atol=1e-3)
    by_size = {p.name: adapter.part(p.name) for p in adapter.parts}
    assert len(by_size) == len(oracle.parameters)
    assert np.linalg.norm(adapter.theta) == pytest.approx(float(literal.flat(oracle.parameters).norm()), rel=1e-4)


def test_any_number_of_samples(case: Any) -> None:
    model, path, shape = case
    adapter, oracle = trimtab.adapters.load(path, "tent", threads=1), literal.Tent(model, 1e-3)
    for size in (2, 33, 7):
        [x] = batches(shape, 1, size)
        np.testing.assert_allclose(adapter.step(x), oracle.step(standard(x)).numpy(), rtol=1e-3, atol=1e-3)


@having("eata")
def test_calibration_can_be_patched_in_by_name(case: Any) -> None:
    _, path, shape = case
    layout, graph = load_bundle(path).layout, read(path, "tent")
    theta = load_bundle(path).source.theta.copy()
    layout.view(theta, "input.x.gain")[:] = 2.0
    layout.view(theta, "input.x.offset")[:] = 0.5
    [x] = batches(shape, 1)
    patched_in = StepAdapter(replace(graph, graph=patched(graph.graph, layout, theta)), {}, threads=1)
    other = StepAdapter(graph, {}, threads=1)
    np.testing.assert_allclose(patched_in.step((x - 0.5) / 2.0), other.step(x), rtol=1e-3, atol=1e-4)


@having("eata")
def test_state_restores_bit_for_bit(case: Any) -> None:
    _, path, shape = case
    adapter = trimtab.adapters.load(path, "eata", lr=0.02, margin=0.7, redundancy=0.6, threads=1)
    xs = batches(shape, 4)
    adapter.step(xs[0])
    kept = adapter.state()
    first = [adapter.step(x) for x in xs[1:]]
    adapter.reset()
    assert np.array_equal(adapter.theta, trimtab.adapters.load(path, "eata").theta)
    adapter.restore(kept)
    assert all(np.array_equal(a, adapter.step(x)) for a, x in zip(first, xs[1:], strict=True))


@having("eata")
def test_nan_samples_are_left_out(case: Any) -> None:
    _, path, shape = case
    [x] = batches(shape, 1)
    holed = x.copy()
    holed[3].flat[0], holed[8].flat[1] = np.nan, np.inf
    whole = np.ones(len(x), bool)
    whole[[3, 8]] = False
    one, other = (trimtab.adapters.load(path, "tent", threads=1) for _ in range(2))
    y, wanted = one.step(holed), other.step(x[whole])
    assert np.array_equal(y[whole], wanted)
    assert np.isnan(y[~whole]).all()
    assert np.array_equal(one.theta, other.theta)
    assert np.isnan(one.step(np.full_like(x, np.nan))).all()
    assert np.array_equal(one.theta, other.theta)


@having("eata")
def test_what_cannot_be_used_is_said(case: Any, tmp_path: Path) -> None:
    _, path, _ = case
    with pytest.raises(ValueError, match="no hyperparameter 'rate'; it has lr, beta1, beta2"):
        trimtab.adapters.load(path, "tent", rate=1.0)
    with pytest.raises(ValueError, match="lr is 100; give one from 0 to 10"):
        trimtab.adapters.load(path, "tent", lr=100.0)
    with pytest.raises(ValueError, match="no step graph of 'nope'"):
        trimtab.adapters.load(path, "nope")
    with pytest.raises(ValueError, match="give the folder of a bundle"):
        trimtab.adapters.load(tmp_path, "tent")
    adapter = trimtab.adapters.load(path, "tent")
    with pytest.raises(ValueError, match="is needed"):
        adapter.step(np.zeros((4, 1, 1), np.float32))
    with pytest.raises(ValueError, match="it needs"):
        adapter.restore({"theta": adapter.theta})
    bad = adapter.state()
    bad["theta"][0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        adapter.restore(bad)


@having("eata")
def test_a_step_that_gives_no_number_is_refused(case: Any) -> None:
    _, path, shape = case
    adapter = trimtab.adapters.load(path, "everything", lr=10.0, threads=1)
    for x in batches(shape, 30):
        adapter.step(x * 1e6)
    assert np.isfinite(adapter.theta).all()


def test_what_may_change_is_checked(case: Any) -> None:
    model, _, _ = case
    base = build(model, Marked(onnx.ModelProto(), [], [], 0, 5), "", False)
    with pytest.raises(ExportError, match="changes: 'weights' is unknown"):
        choose(base, "weights")
    with pytest.raises(ExportError, match="no norm with weight and bias; say what may change instead"):
        choose(base, "affine")
    one = choose(base, [head_of(model)])
    assert [p.name for p in one.parts] == [f"model.{head_of(model)}.{part}" for part in ("weight", "bias")]
    assert one.theta.shape == (sum(p.size for p in one.parts),)


@pytest.mark.parametrize(
    ("names", "learning"),
    [
        (("layer1", "layer4", "last"), ("layer1", "last")),
        (("first", "middle", "last"), ("first", "middle", "last")),
        (("norm",), ("norm",)),
    ],
)
def test_sar_leaves_the_last_block_by_its_name(names: tuple[str, ...], learning: tuple[str, ...]) -> None:
    copied, notes = prepare(nn.Sequential(OrderedDict((name, nn.LayerNorm(4)) for name in names)))
    inputs = describe_inputs({"x": [4]}, set(), channels=(), mean=(), std=(), calibration=None)
    marked, head = trace(copied, [torch.zeros(2, 4)], inputs, by_name=False, head=None, frozen=(), notes=notes)
    model = choose(build(copied, marked, head, False), "affine", SAR.frozen)
    assert [p.name for p in model.parts] == [f"norm.{n}.{part}" for n in learning for part in ("weight", "bias")]


class Last(nn.LayerNorm):
    """A norm with a forward of its own, as ConvNeXt's: over the channels, which do not lie last."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(
            x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps
        ).movedim(-1, 1)


def test_sar_goes_by_what_the_model_calls_a_norm_with_a_forward_of_its_own() -> None:
    block = nn.Sequential(OrderedDict(norm=Last(4)))
    body = nn.Sequential(OrderedDict((("block", block), ("norm", Last(4)), ("flat", nn.Flatten()))))
    copied, notes = prepare(body)
    inputs = describe_inputs({"x": [4, 3]}, set(), channels=(), mean=(), std=(), calibration=None)
    marked, head = trace(copied, [torch.zeros(2, 4, 3)], inputs, by_name=False, head=None, frozen=(), notes=notes)
    model = choose(build(copied, marked, head, False), "affine", "^norm$")
    assert [p.name for p in model.parts] == ["norm.block.norm.norm.weight", "norm.block.norm.norm.bias"]


def test_the_proof_can_fail() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    copied, notes = prepare(net)
    inputs = describe_inputs({"x": [4]}, set(), channels=(), mean=(), std=(), calibration=None)
    marked, head = trace(copied, [torch.zeros(2, 4)], inputs, by_name=False, head=None, frozen=(), notes=notes)
    model = replace(choose(build(copied, marked, head, False), "affine"), optimiser=OPTIMISERS["adam"])
    hyper = hyperparameters(TENT, "adam")
    compiled = compile_step(TENT, model, marked, {"x": torch.zeros(2, 4)}, hyper)
    samples = {"x": batches((4,), 1)[0]}
    right = prove("tent", TENT, compiled, model, marked, hyper, samples)
    assert max(c.difference for c in right) < 1e-5
    other = model.bound({n: v * 1.01 if n == "model.2.weight" else v for n, v in model.constants.items()})
    with pytest.raises(ExportError, match=r"y of step.tent is wrong by .* after a step .* more than in PyTorch"):
        prove("tent", TENT, compiled, other, marked, hyper, samples)
