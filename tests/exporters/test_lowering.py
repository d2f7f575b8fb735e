"""The four graphs of one model, against the module itself with changed norms, and what ONNX Runtime makes of them."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trimtab.exporters.lowering import lower
from trimtab.exporters.marked import DOMAIN, NORM, Layer, Marked
from trimtab.exporters.parity import patched
from trimtab.runtime.bundle import Input


def run(
    graph: bytes, feed: dict[str, NDArray[Any]], options: ort.SessionOptions | None = None
) -> dict[str, NDArray[Any]]:
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def eager(case: Any, x: NDArray[np.float32], theta: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """The module with its norms set by hand: y, features and moments, as the bundle's definition has them."""
    layout = case.exported.bundle.layout
    model = copy.deepcopy(case.model)
    taken: dict[str, NDArray[Any]] = {}
    for name in ("bn", "bn_depthwise", "bn_point"):
        norm = getattr(model, name)
        for part, attribute in (
            ("mean", "running_mean"),
            ("var", "running_var"),
            ("weight", "weight"),
            ("bias", "bias"),
        ):
            getattr(norm, attribute).data = torch.from_numpy(layout.view(theta, f"norm.{name}.{part}").copy())
        norm.register_forward_pre_hook(lambda m, a, n=name: taken.__setitem__(n, a[0].detach().double().numpy()))
    order = layout.view(theta, "input.x.order").astype(int)
    gain, offset = (layout.view(theta, f"input.x.{p}").reshape(1, 3, 1, 1) for p in ("gain", "offset"))
    features: list[torch.Tensor] = []
    shift = torch.from_numpy(layout.view(theta, "feature.shift").copy())
    model.fc.register_forward_pre_hook(lambda m, a: (features.append(a[0]), (a[0] + shift,))[1])
    with torch.no_grad():
        y = model(case.standard(gain * x[:, order] + offset)).numpy() + layout.view(theta, "output.shift")
    moments = np.concatenate([np.stack([v.mean((2, 3)), v.var((2, 3))], 1) for v in taken.values()], axis=2)
    return {"y": y, "features": features[0].numpy(), "moments": moments}


def close(found: dict[str, NDArray[Any]], wanted: dict[str, NDArray[Any]]) -> None:
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("which", ["serve", "observe"])
def test_patched_initializers_give_the_module_with_those_norms(case: Any, row: Any, which: str) -> None:
    bundle = case.exported.bundle
    x = case.x[:9]
    for theta in (bundle.source.theta, row):
        found = run(patched(bundle.graph(which), bundle.layout, theta), {"x": x})
        assert set(found) == ({"y"} if which == "serve" else {"y", "features", "moments"})
        close(found, eager(case, x, theta))


@pytest.mark.parametrize("which", ["banked", "probe"])
def test_each_sample_takes_its_own_row(case: Any, row: Any, which: str) -> None:
    bundle = case.exported.bundle
    bank = np.stack([row, bundle.source.theta, np.full_like(row, np.nan)])  # a row that nobody uses may hold anything
    slot = np.array([0, 1, 1, 0, 1])
    found = run(bundle.graph(which), {"x": case.x[:5], "slot": slot, "bank": bank})
    wanted = [eager(case, case.x[i : i + 1], bank[s]) for i, s in enumerate(slot)]
    close(found, {name: np.concatenate([w[name] for w in wanted]) for name in wanted[0]})


def test_initializers_are_named_as_in_the_layout(case: Any) -> None:
    bundle = case.exported.bundle
    for which in ("serve", "observe"):
        tensors = {t.name: t for t in onnx.load_from_string(bundle.graph(which)).graph.initializer}
        for p in bundle.layout:
            assert list(tensors[p.name].dims) == [p.size]
            np.testing.assert_array_equal(
                numpy_helper.to_array(tensors[p.name]), bundle.layout.view(bundle.source.theta, p.name)
            )


def optimised(graph: bytes, folder: Path) -> Counter[str]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # the last that is portable
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_batch_norms_fold_into_convolutions(case: Any, tmp_path: Path) -> None:
    """Nothing may stand between Conv and BatchNormalization: with the exporter's optimize=False, Cast and Expand do."""
    bundle = case.exported.bundle
    found = optimised(bundle.graph("serve"), tmp_path)
    assert found["BatchNormalization"] == 0
    assert found["Conv"] + found["FusedConv"] == 3
    assert not {"Cast", "Expand", "Reshape", "Sqrt"} & set(found)
    # Only the second half of each batch norm is left in the observe graph, only scale and shift in the banked ones.
    assert optimised(bundle.graph("observe"), tmp_path)["BatchNormalization"] == 3
    assert optimised(bundle.graph("probe"), tmp_path)["BatchNormalization"] == 0


def test_overriding_initializers_would_be_wrong(case: Any, row: Any) -> None:
    """Why `patched` writes into the file: with add_initializer, folding silently takes those in the file."""
    bundle = case.exported.bundle
    names = [p for p in bundle.layout if p.name.startswith("norm.bn.")]
    theta = bundle.source.theta.copy()
    options = ort.SessionOptions()
    values = []  # ONNX Runtime does not keep them alive
    for p in names:
        theta[p.slice] = row[p.slice]
        values.append(ort.OrtValue.ortvalue_from_numpy(theta[p.slice].copy()))
        options.add_initializer(p.name, values[-1])
    x = {"x": case.x[:4]}
    wanted = eager(case, case.x[:4], theta)["y"]
    right = run(patched(bundle.graph("serve"), bundle.layout, theta), x)["y"]
    wrong = run(bundle.graph("serve"), x, options)["y"]
    np.testing.assert_allclose(right, wanted, rtol=1e-4, atol=1e-5)
    assert np.max(abs(wrong - wanted)) > 0.01


@pytest.mark.parametrize("which", ["observe", "probe"])
def test_moments_keep_their_digits_where_the_mean_is_large(which: str) -> None:
    """Mean of squares minus squared mean of the norm's input would leave nothing of the variance in float32."""
    far, channels = 1e4, 2
    layer = Layer(
        "bn",
        "batch",
        {"mean": np.full(channels, far, np.float32), "var": np.ones(channels, np.float32)},
        channels,
        1e-5,
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node(NORM, ["c"], ["n"], domain=DOMAIN, layer="bn", shape=[-1, channels, 50]),
        helper.make_node("ReduceMean", ["n", "axes"], ["out"], keepdims=0),
    ]
    tensors = {"w": np.eye(channels, dtype=np.float32)[:, :, None], "axes": np.array([2])}
    values = [helper.make_tensor_value_info(n, 1, None) for n in ("x", "out")]
    graph = helper.make_graph(
        nodes, "g", values[:1], values[1:], [numpy_helper.from_array(v, k) for k, v in tensors.items()]
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)], ir_version=8
    )
    marked = Marked(model, [Input(name="x", shape=[channels, 50])], [layer], features=0, outputs=channels)
    x = (far + np.random.default_rng(0).standard_normal((6, channels, 50))).astype(np.float32)
    feed = {"x": x, "slot": np.zeros(6, np.int64), "bank": marked.theta()[None] * np.float32(0.5)}
    found = run(lower(marked, which).SerializeToString(), feed if which == "probe" else {"x": x})
    wide = x.astype(np.float64)
    np.testing.assert_allclose(found["moments"], np.stack([wide.mean(2), wide.var(2)], 1), rtol=1e-4)
    naive = (x * x).mean(2, dtype=np.float32) - x.mean(2, dtype=np.float32) ** 2
    assert np.max(abs(naive - wide.var(2))) > 0.5


def test_damaged_samples_leave_their_neighbours_alone(case: Any, row: Any) -> None:
    bundle = case.exported.bundle
    x = case.x[:4].copy()
    x[1] = np.nan
    x[2] = np.inf
    feed = {"x": x, "slot": np.array([0, 1, 0, 1]), "bank": np.stack([row, bundle.source.theta])}
    for which in ("observe", "probe"):
        damaged = run(bundle.graph(which), feed if which == "probe" else {"x": x})
        whole = run(bundle.graph(which), (feed if which == "probe" else {}) | {"x": case.x[:4]})
        for name, value in damaged.items():
            np.testing.assert_allclose(value[[0, 3]], whole[name][[0, 3]], rtol=1e-4, atol=1e-5)
            assert np.isfinite(value[[0, 3]]).all()
            assert not np.isfinite(value[[1, 2]]).all(axis=tuple(range(1, value.ndim))).any()
