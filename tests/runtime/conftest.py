"""A tiny bundle made by hand, node by node, and the same model in numpy: no exporter and no PyTorch involved."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trimtab.adapters.parameters import ParameterLayout
from trimtab.drift import input_signals
from trimtab.runtime import providers
from trimtab.runtime.bundle import Bundle, write_bundle

CHANNELS, ROWS, MAPS, CLASSES, EPS = 3, 16, 4, 2, 1e-5
PARTS = [
    ("input.x.gain", "input.gain", "x", CHANNELS),
    ("input.x.offset", "input.offset", "x", CHANNELS),
    ("norm.bn.mean", "norm.mean", "bn", MAPS),
    ("norm.bn.var", "norm.var", "bn", MAPS),
    ("norm.bn.weight", "norm.weight", "bn", MAPS),
    ("norm.bn.bias", "norm.bias", "bn", MAPS),
    ("feature.shift", "feature.shift", "feature", MAPS),
    ("output.shift", "output.shift", "output", CLASSES),
]


@dataclass(frozen=True)
class Tiny:
    """Conv(3 -> 4, 3 wide), batch norm, ReLU, mean over rows (the features), a linear layer; input `x [N, 3, 16]`."""

    bundle: Bundle
    kernel: NDArray[np.float32]
    head: NDArray[np.float32]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @property
    def source(self) -> NDArray[np.float32]:
        return self.bundle.source.theta

    def theta(self, seed: int) -> NDArray[np.float32]:
        """A vector well away from the source's, the same for the same seed."""
        rng = np.random.default_rng(seed)
        layout, theta = self.bundle.layout, self.source.copy()
        theta += rng.normal(0, 0.3, theta.shape).astype(np.float32)
        layout.view(theta, "norm.bn.var")[:] = rng.uniform(0.3, 3, MAPS)
        return theta

    def x(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        return np.random.default_rng(seed).normal(0, 2, (count, CHANNELS, ROWS)).astype(np.float32)

    def reference(
        self, theta: NDArray[np.float32], x: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """y [N, 2], features [N, 4] and moments [N, 2, 4], computed by numpy in float64."""
        part = {p.name: self.bundle.layout.view(theta, p.name).astype(np.float64) for p in self.bundle.layout}
        sensor = part["input.x.gain"][:, None] * x + part["input.x.offset"][:, None]
        z = (sensor - self.mean[:, None]) / self.std[:, None]
        z = np.einsum("nctk,ock->not", sliding_window_view(z, 3, axis=2), self.kernel.astype(np.float64))
        moments = np.stack([z.mean(axis=2), z.var(axis=2)], axis=1)
        z = (z - part["norm.bn.mean"][:, None]) / np.sqrt(part["norm.bn.var"][:, None] + EPS)
        z = np.maximum(z * part["norm.bn.weight"][:, None] + part["norm.bn.bias"][:, None], 0)
        features = z.mean(axis=2)
        y = (features + part["feature.shift"]) @ self.head + part["output.shift"]
        return y, features, moments


def _model(nodes: Iterable[Any], inputs: list[Any], outputs: list[str], constants: dict[str, NDArray[Any]]) -> bytes:
    shapes = {"y": ["n", CLASSES], "features": ["n", MAPS], "moments": ["n", 2, MAPS]}
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def _graph(layout: ParameterLayout, constants: dict[str, NDArray[Any]], *, banked: bool, observed: bool) -> bytes:
    node = helper.make_node
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", CHANNELS, ROWS])
    inputs, nodes, constants = [x], [], dict(constants)
    if banked:
        inputs += [
            helper.make_tensor_value_info("slot", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("bank", TensorProto.FLOAT, ["s", layout.size]),
        ]
        nodes.append(node("Gather", ["bank", "slot"], ["row"], axis=0))
        constants["sizes"] = np.array([p.size for p in layout])
        nodes.append(node("Split", ["row", "sizes"], [p.name for p in layout], axis=1))
        constants["last"] = np.array([2])
    else:
        constants |= {p.name: constants["theta"][p.slice] for p in layout}
        constants["last"] = np.array([1])
    del constants["theta"]

    def column(name: str) -> str:
        nodes.append(node("Unsqueeze", [name, "last"], [f"{name}.column"]))
        return f"{name}.column"

    nodes += [
        node("Mul", ["x", column("input.x.gain")], ["gained"]),
        node("Add", ["gained", column("input.x.offset")], ["calibrated"]),
        node("Sub", ["calibrated", "mean"], ["centred"]),
        node("Div", ["centred", "std"], ["scaled"]),
        node("Conv", ["scaled", "kernel"], ["conv"], kernel_shape=[3]),
    ]
    norm = [f"norm.bn.{part}" for part in ("weight", "bias", "mean", "var")]
    if banked:
        weight, bias, mean, var = map(column, norm)
        nodes += [
            node("Sub", ["conv", mean], ["norm.centred"]),
            node("Add", [var, "eps"], ["norm.safe"]),
            node("Sqrt", ["norm.safe"], ["norm.deviation"]),
            node("Div", ["norm.centred", "norm.deviation"], ["norm.scaled"]),
            node("Mul", ["norm.scaled", weight], ["norm.weighted"]),
            node("Add", ["norm.weighted", bias], ["normed"]),
        ]
    else:
        nodes.append(node("BatchNormalization", ["conv", *norm], ["normed"], epsilon=EPS))
    nodes += [
        node("Relu", ["normed"], ["active"]),
        node("ReduceMean", ["active", "rows"], ["features"], keepdims=0),
        node("Add", ["features", "feature.shift"], ["shifted"]),
        node("MatMul", ["shifted", "head"], ["logits"]),
        node("Add", ["logits", "output.shift"], ["y"]),
    ]
    if observed:
        nodes += [
            node("ReduceMean", ["conv", "rows"], ["conv.mean"], keepdims=1),
            node("Sub", ["conv", "conv.mean"], ["conv.centred"]),
            node("Mul", ["conv.centred", "conv.centred"], ["conv.squared"]),
            node("ReduceMean", ["conv.squared", "rows"], ["conv.var"], keepdims=1),
            node("Concat", ["conv.mean", "conv.var"], ["conv.moments"], axis=2),
            node("Transpose", ["conv.moments"], ["moments"], perm=[0, 2, 1]),
        ]
    return _model(nodes, inputs, ["y", "features", "moments"] if observed else ["y"], constants)


def make_tiny(path: Path, graphs: Iterable[str] = ("serve", "observe", "banked", "probe")) -> Tiny:
    """Write the tiny bundle, with the graphs named, into the folder `path`."""
    rng = np.random.default_rng(7)
    kernel = rng.normal(0, 0.5, (MAPS, CHANNELS, 3)).astype(np.float32)
    head = rng.normal(0, 1, (MAPS, CLASSES)).astype(np.float32)
    mean = np.array([0.2, -0.1, 0.5], np.float32)
    std = np.array([1.5, 2.0, 0.7], np.float32)
    layout = ParameterLayout.of(PARTS)  # type: ignore[arg-type]
    theta = layout.flatten(
        {
            "input.x.gain": np.ones(CHANNELS),
            "input.x.offset": np.zeros(CHANNELS),
            "norm.bn.mean": rng.normal(0, 0.3, MAPS),
            "norm.bn.var": rng.uniform(0.5, 2, MAPS),
            "norm.bn.weight": rng.uniform(0.5, 1.5, MAPS),
            "norm.bn.bias": rng.normal(0, 0.3, MAPS),
            "feature.shift": np.zeros(MAPS),
            "output.shift": np.zeros(CLASSES),
        }
    )
    constants: dict[str, NDArray[Any]] = {
        "theta": theta,
        "kernel": kernel,
        "head": head,
        "mean": mean[:, None],
        "std": std[:, None],
        "eps": np.array(EPS, np.float32),
        "rows": np.array([2]),
    }
    manifest = {
        "name": "tiny",
        "task": "classification",
        "inputs": [
            {
                "name": "x",
                "shape": [CHANNELS, ROWS],
                "channels": ["a", "b", "c"],
                "mean": mean.tolist(),
                "std": std.tolist(),
                "calibration": {"signs": [0, 1, 2], "gain": True},
            }
        ],
        "window": {"rows": ROWS, "hop": 8, "rate": 16.0},
        "classes": ["no", "yes"],
        "norms": [{"name": "bn", "kind": "batch", "channels": MAPS, "eps": EPS}],
        "features": MAPS,
        "parameters": [{"name": n, "kind": k, "owner": o, "size": s} for n, k, o, s in PARTS],
    }
    found = {
        which: _graph(layout, constants, banked=which in ("banked", "probe"), observed=which in ("observe", "probe"))
        for which in graphs
    }
    windows = rng.normal(0, 2, (2, 500, CHANNELS, ROWS)).astype(np.float32)
    source: dict[str, NDArray[Any]] = {
        "theta": theta,
        "moments_mean": layout.view(theta, "norm.bn.mean").astype(np.float64),
        "moments_var": layout.view(theta, "norm.bn.var").astype(np.float64),
        "feature_mean": np.full(MAPS, 0.5),
        "feature_cov": np.eye(MAPS),
        "class_prior": np.full(CLASSES, 1 / CLASSES),
        "class_feature_mean": np.zeros((CLASSES, MAPS)),
        "class_feature_cov": np.tile(np.eye(MAPS), (CLASSES, 1, 1)),
        "input_mean": mean.astype(np.float64),
        "input_var": std.astype(np.float64) ** 2,
        **{f"reference.{name}": np.random.default_rng(1).gamma(2, 1, 500) for name in SIGNALS},
    }
    for name in input_signals.SIGNALS:
        usual = input_signals.usual(
            input_signals.figures(name, [windows[0]]), input_signals.layout(name, [(CHANNELS, ROWS)])
        )
        source |= {f"usual.{name}.{part}": array for part, array in usual._asdict().items()}
        source[f"reference.{name}"] = input_signals.unusual(input_signals.figures(name, [windows[1]]), usual)
    return Tiny(write_bundle(path, manifest, found, source), kernel, head, mean, std)


SIGNALS = ("divergence", "distance", "entropy")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny model and its bundle with all four graphs."""
    return make_tiny(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="session")
def tiny_bundle(tiny: Tiny) -> Bundle:
    return tiny.bundle


@pytest.fixture(scope="session")
def tiny_folded(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny model without banked and probe graphs."""
    return make_tiny(tmp_path_factory.mktemp("folded") / "bundle", ("serve", "observe"))


@pytest.fixture(scope="session")
def tiny_served(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny model without the graphs that observe."""
    return make_tiny(tmp_path_factory.mktemp("served") / "bundle", ("serve", "banked"))


@pytest.fixture
def config(broker: Any, tiny_bundle: Bundle, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a daemon over the tiny bundle is configured with: a node and topics of the test's own."""
    node = re.sub(r"\W", "-", request.node.name)
    return {
        "bundle": str(tiny_bundle.path),
        "node": node,
        "mqtt": {"host": "127.0.0.1", "port": broker.port, "reconnect_max": 0.2},
        "streams": [{"topic": f"{node}/+"}],
    }


@pytest.fixture
def without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine on which neither onnxruntime nor onnxruntime-gpu is installed."""
    real = providers.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'")
        return real(name, package)

    monkeypatch.setattr(providers, "import_module", missing)
