"""The light methods' step graphs in ONNX Runtime against a second, literal writing of the papers in float64."""

from __future__ import annotations

import warnings
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import trimtab.adapters
from tests.exporters.oracles import light, literal
from tests.exporters.test_steps import batches, standard
from trimtab.exporters import MethodChoice, export
from trimtab.exporters.marked import Marked
from trimtab.exporters.steps import label_shift
from trimtab.exporters.steps.model import build
from trimtab.exporters.steps.optimisers import OPTIMISERS
from trimtab.runtime.bundle import load_bundle
from trimtab.runtime.config import parse_config
from trimtab.runtime.errors import ConfigError, ExportError
from trimtab.runtime.tries import configured_methods

torch.set_num_threads(1)


class Mixture(nn.Module):
    """Tokens, each of which a router sends to three experts in some measure."""

    shape = (4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.router = nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(3))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.transpose(1, 2))
        shares = torch.softmax(self.router(x), -1)
        answers = torch.stack([expert(x) for expert in self.experts], -1)
        x = x + (answers * shares[..., None, :]).sum(-1)
        return self.head(self.norm(x).mean(1))


class Decoder(nn.Module):
    """Convolutions down and, by interpolation, up again; two values out."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(6, 6, 3, padding=1), nn.SiLU())
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.down(x)).mean((2, 3)))


def settled(model: nn.Module) -> nn.Module:
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.dim() == 1:
            positive = "weight" in name or "var" in name
            nn.init.uniform_(value, 0.5, 1.5) if positive else nn.init.uniform_(value, -0.3, 0.3)
        elif name.startswith("router"):
            value.data *= 4
    return model.eval()


def exported(model: Any, path: Path, methods: list[Any], labels: list[np.ndarray | None], **names: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(
            model,
            torch.zeros(2, *model.shape),
            list(zip(seen(model), labels, strict=True)),
            path,
            name="case",
            mean=[2.0] * model.shape[0],
            std=[3.0] * model.shape[0],
            methods=methods,
            **names,
        )


def seen(model: Any) -> list[np.ndarray]:
    return batches(model.shape, 4, 64, seed=5)


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(1)
    model: Any = settled(Mixture())
    path = tmp_path_factory.mktemp("mixture")
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 4, 64) for _ in range(4)]  # the fifth class has no sample
    with torch.no_grad():
        for x, given in zip(seen(model), labels, strict=True):
            given[::2] = np.minimum(model(standard(x).float()).argmax(1).numpy(), 3)[::2]
    routed = MethodChoice("bias_vectors", "routed", changes=["router", "embed"])
    weights = MethodChoice("tent", "weights", changes="all", optimiser="muon")
    methods = ["feature_shift", "bias_vectors", routed, "bbse", weights, "label_shift", "tent+label_shift"]
    exported(model, path, methods, labels, classes=list("abcde"))
    np.save(path / "labels.npy", np.concatenate(labels))
    return model, path


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(2)
    model: Any = settled(Decoder())
    path = tmp_path_factory.mktemp("decoder")
    blocks = MethodChoice("bias_vectors", changes=["down", "up"])
    exported(model, path, ["feature_shift", blocks], [None] * 4, targets=["a", "b"])
    return model, path


@pytest.fixture(params=["mixture", "decoder"])
def case(request: Any) -> tuple[Any, Path]:
    found: tuple[Any, Path] = request.getfixturevalue(request.param)
    return found


def source(model: Any) -> Tensor:
    return torch.cat([standard(x) for x in seen(model)])


def test_feature_shift(case: Any) -> None:
    model, path = case
    given = {"smoothing": 0.7, "strength": 0.8}
    adapter = trimtab.adapters.load(path, "feature_shift", threads=1, **given)
    oracle = light.FeatureShift(model, "head", source(model), 0.8, 0.7)
    for x in batches(model.shape, 5):
        wanted = oracle.step(standard(x)).numpy()
        np.testing.assert_allclose(adapter.step(x), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(adapter.part("feature.shift"), oracle.shift().numpy(), rtol=1e-3, atol=1e-5)
    assert adapter.metrics["shift"] > 0.02


@pytest.mark.parametrize(("entropy", "alignment"), [(1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])
def test_bias_vectors_at_a_router(mixture: Any, entropy: float, alignment: float) -> None:
    model, path = mixture
    given = {"lr": 0.05, "entropy": entropy, "alignment": alignment, "rank": 4}
    adapter = trimtab.adapters.load(path, "routed", threads=1, **given)
    oracle = light.BiasVectors(model, "head", {"router": 2, "embed": 2}, source(model), 4, 0.05, entropy, alignment)
    for x in batches(model.shape, 8):
        np.testing.assert_allclose(adapter.step(x), oracle.step(standard(x)).numpy(), rtol=1e-3, atol=1e-4)
    wanted = oracle.vectors().detach().numpy()
    assert np.linalg.norm(adapter.theta - wanted) < 1e-3 * np.linalg.norm(wanted)
    assert [(p.name, p.shape) for p in adapter.parts] == [("bias.router", (3,)), ("bias.embed", (8,))]
    assert np.abs(adapter.part("bias.router")).max() > 0.01


def test_bias_vectors_of_a_regression(decoder: Any) -> None:
    model, path = decoder
    adapter = trimtab.adapters.load(path, "bias_vectors", lr=0.02, threads=1)
    oracle = light.BiasVectors(model, "head", {"down": 1, "up": 1}, source(model), 12, 0.02, 0.0, 1.0)
    for x in batches(model.shape, 5):
        np.testing.assert_allclose(adapter.step(x), oracle.step(standard(x)).numpy(), rtol=1e-3, atol=1e-4)
    wanted = oracle.vectors().detach().numpy()
    assert np.linalg.norm(adapter.theta - wanted) < 1e-3 * np.linalg.norm(wanted)
    assert set(adapter.metrics) == {"misfit"}


def test_a_regression_on_the_box(decoder: Any) -> None:
    """A feature shift is a part of the parameter vector, and can be tried; what goes by classes is refused."""
    bundle = load_bundle(decoder[1])
    settings = {"policy": "on_drift", "methods": ["feature_shift"]}

    def configured(**changed: Any) -> Any:
        config = parse_config({"bundle": "b", "adaptation": {**settings, **changed}}, "test")
        return configured_methods(config.adaptation, bundle)

    assert [m.name for m in configured().tried] == ["feature_shift"]
    with pytest.raises(ConfigError, match="bias_vectors cannot be tried"):
        configured(methods=["bias_vectors"])
    with pytest.raises(ConfigError, match="`always` guards a step graph by the classes that it predicts"):
        configured(policy="always")


def test_alignment_brings_features_back(case: Any) -> None:
    """On one batch again and again, what differs from the source becomes less."""
    model, path = case
    adapter = trimtab.adapters.load(path, "bias_vectors", lr=0.05, alignment=10.0, threads=1)
    [x] = batches(model.shape, 1, 64)
    adapter.step(x)
    first = adapter.metrics["misfit"]
    for _ in range(60):
        adapter.step(x)
    assert adapter.metrics["misfit"] < 0.8 * first


def test_vectors_of_other_methods_are_not_added(mixture: Any) -> None:
    """All methods of an export share one model; only those that add vectors do."""
    model, path = mixture
    adapter = trimtab.adapters.load(path, "bbse", threads=1)
    [x] = batches(model.shape, 1)
    adapter.step(x)
    y = light.Source(model, "head")(standard(x))[0]
    assert adapter.metrics["entropy"] == pytest.approx(float(literal.entropies(y).mean()), rel=1e-4)


def test_bbse(mixture: Any) -> None:
    model, path = mixture
    p, _ = literal.plain(model, "head", source(model))
    oracle = light.Bbse(p, np.load(path / "labels.npy"), 0.3, 0.02)
    adapter = trimtab.adapters.load(path, "bbse", rate=0.3, ridge=0.02, threads=1)
    for x in batches(model.shape, 5):
        own, _ = literal.plain(model, "head", standard(x))
        np.testing.assert_allclose(np.exp(adapter.step(x)), oracle.step(own), atol=1e-4)
    np.testing.assert_allclose(adapter.state()["predicted"], oracle.predicted, atol=1e-5)


@pytest.mark.parametrize(("name", "lr"), [("label_shift", 0.0), ("tent+label_shift", 0.01)])
def test_label_shift_alone_and_with_another_method(mixture: Any, name: str, lr: float) -> None:
    model, path = mixture
    kept = {i.name: numpy_helper.to_array(i) for i in onnx.load(path / f"step.{name}.onnx").graph.initializer}
    network = [kept[f"source.label_shift.{part}"] for part in ("first", "second")]
    prior = load_bundle(path).source.class_prior
    oracle = light.LabelShift(model, "head", prior, network, 0.3, lr)
    given = {"label_rate": 0.3, **({"lr": lr} if lr else {})}
    adapter = trimtab.adapters.load(path, name, threads=1, **given)
    first = light.Source(model, "head")(standard(batches(model.shape, 1)[0]))[0]
    for x in batches(model.shape, 5):
        wanted = oracle.step(standard(x))
        np.testing.assert_allclose(adapter.step(x), wanted, rtol=1e-3, atol=1e-3)
        if first is not None:  # at the source's shares nothing is changed
            torch.testing.assert_close(wanted, first)
            first = None
    np.testing.assert_allclose(adapter.state()["shares.label_shift"], oracle.shares, atol=1e-4)


def test_the_label_shift_network_learns_what_other_shares_ask_for() -> None:
    """Of Gaussian classes, whose best decision for any shares is known."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 6))
    layer = nn.Linear(6, 4)
    layer.weight.data = torch.from_numpy(centres).float()
    layer.bias.data = torch.from_numpy(np.log(SKEWED) - 0.5 * (centres**2).sum(1)).float()  # Bayes' rule
    marked = Marked(onnx.ModelProto(), [], [], 6, 4)
    model = build(nn.Sequential(layer), marked, "0", False)

    def drawn(count: int, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.choice(4, count, p=shares)
        return (centres[labels] + rng.standard_normal((count, 6))).astype(np.float32), labels

    features, labels = drawn(4000, SKEWED)
    y = layer(torch.from_numpy(features)).detach().numpy()
    survey = {"features": features, "labels": labels, "y": y, "class_prior": np.bincount(labels) / len(labels)}
    network = label_shift.trained(model, survey)
    prior = torch.from_numpy(survey["class_prior"]).float()
    learnt = {f"source.label_shift.{n}": v for n, v in network.items()}
    ready = model.bound({**model.constants, "source.prior": prior, **learnt})
    for shares in (np.array([0.05, 0.05, 0.2, 0.7]), np.array([0.9, 0.04, 0.03, 0.03])):
        x, labels = drawn(4000, shares)
        changed = label_shift.shifted(ready, torch.from_numpy(shares).float()).constants
        scaled = torch.from_numpy(x) * changed["feature.scale"]
        more = nn.functional.linear(scaled, changed["classifier.weight"], changed["classifier.bias"])
        ours = (layer(scaled) + more).argmax(1).numpy()
        best = (x @ centres.T + np.log(shares) - 0.5 * (centres**2).sum(1)).argmax(1)
        right, before, bound = (
            (p == labels).mean() for p in (ours, layer(torch.from_numpy(x)).argmax(1).numpy(), best)
        )
        assert right > before + 0.6 * (bound - before), (right, before, bound)
    with pytest.raises(ExportError, match="not those of its last layer"):
        label_shift.trained(model, {**survey, "y": y + 1.0})


SKEWED = np.array([0.6, 0.25, 0.1, 0.05])
SHAPES = [(6, 4), (4,), (3, 5), (8, 2, 3), (2, 9)]


def test_muon_is_torchs() -> None:
    """`torch.optim.Muon`, which makes matrices orthogonal in bfloat16, for matrices; its Adam for vectors."""
    torch.manual_seed(0)
    sizes = [prod(s) for s in SHAPES]
    start = torch.randn(sum(sizes))
    ours = OPTIMISERS["muon"].of(SHAPES)
    state = {"theta": start, **ours.start(start)}
    hyper = {"lr": torch.tensor(0.02), "momentum": torch.tensor(0.95), "vector_lr": torch.tensor(1e-2)}
    pieces = zip(torch.split(start.clone(), sizes), SHAPES, strict=True)
    theirs = [nn.Parameter(p.reshape(s[0], -1) if len(s) > 1 else p) for p, s in pieces]
    matrices = torch.optim.Muon([p for p in theirs if p.dim() > 1], lr=0.02, weight_decay=0.0)
    vectors = torch.optim.Adam([p for p in theirs if p.dim() == 1], lr=1e-2, betas=(0.9, 0.95))
    for _ in range(20):
        g = torch.randn(sum(sizes))
        state = ours.update(state, g, hyper)
        for p, piece in zip(theirs, torch.split(g, sizes), strict=True):
            p.grad = piece.reshape(p.shape)
        matrices.step()
        vectors.step()
    wanted = torch.cat([p.detach().reshape(-1) for p in theirs])
    assert float((state["theta"] - wanted).norm()) < 0.02 * float((wanted - start).norm())
    stopped = ours.update(state, g, hyper, torch.tensor(False))
    assert all(torch.equal(stopped[name], state[name]) for name in state)


def test_muon_in_a_step_graph(mixture: Any) -> None:
    """Against Jordan 2024 written out in float64 NumPy, with the gradients of autograd."""
    model, path = mixture
    adapter = trimtab.adapters.load(path, "weights", lr=0.02, threads=1)
    tent = literal.Tent(model, 0.0)
    parameters = list(tent.model.requires_grad_(True).parameters())
    velocity = [np.zeros(p.shape) for p in parameters]
    vectors = torch.optim.Adam([p for p in parameters if p.dim() == 1], lr=3e-4, betas=(0.9, 0.95))
    for x in batches(model.shape, 5):
        y = tent.model(standard(x))
        np.testing.assert_allclose(adapter.step(x), y.detach().numpy(), rtol=1e-3, atol=1e-3)
        vectors.zero_grad()
        literal.entropies(y).mean().backward()
        vectors.step()
        for place, p in enumerate(parameters):
            if p.dim() == 1:
                continue
            g = p.grad.numpy()
            velocity[place] = 0.95 * velocity[place] + 0.05 * g
            u = 0.05 * g + 0.95 * velocity[place]
            p.grad = None
            u = u / np.linalg.norm(u)
            for _ in range(5):
                u = 3.4445 * u + (-4.7750 * (u @ u.T) + 2.0315 * (u @ u.T) @ (u @ u.T)) @ u
            with torch.no_grad():
                p -= 0.02 * max(1.0, p.shape[0] / p.shape[1]) ** 0.5 * torch.from_numpy(u)
    wanted = literal.flat(parameters).numpy()
    assert np.linalg.norm(adapter.theta - wanted) < 1e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("tent", "tent learns from predicted classes; a regression has none, and can have bias_vectors, feature_shift"),
        (MethodChoice("bias_vectors", changes=["nope"]), "no module named 'nope'"),
        (MethodChoice("bias_vectors", changes="all"), "changes: 'all' is no list of modules"),
        (MethodChoice("bias_vectors", optimiser="muon"), "muon is for matrices, and none may change"),
        ("tent+nope", r"no method 'tent\+nope'; there are tent, .* and each of the others with \+label_shift"),
        (MethodChoice("feature_shift", changes="all"), "feature_shift learns no parameter; leave changes='all' out"),
    ],
)
def test_what_does_not_fit_is_said(method: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=words):
        exported(settled(Decoder()), tmp_path, [method], [None] * 4, targets=["a", "b"])


def test_what_needs_labels_says_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="method bbse: needs the classes of the source samples; give labels"):
        exported(settled(Mixture()), tmp_path, ["bbse"], [None] * 4, classes=list("abcde"))
