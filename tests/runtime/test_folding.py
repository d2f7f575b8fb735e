"""Folding: the patched graph is the model with those parameters, which the library's own override is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from trimtab.adapters.parameters import ParameterLayout
from trimtab.runtime.errors import BundleError
from trimtab.runtime.folding import Template
from trimtab.runtime.providers import session_options

CPU = ["CPUExecutionProvider"]


def run(graph: bytes, x: Any, options: Any = None) -> Any:
    session = onnxruntime.InferenceSession(graph, options or session_options(1), providers=CPU)
    return session.run(["y"], {"x": x})[0]


def test_a_patched_graph_is_the_model_with_those_parameters(tiny: Any) -> None:
    template = Template(tiny.bundle.graph("serve"), tiny.bundle.layout, "serve.onnx")
    x = tiny.x(5)
    for seed in (1, 2, 1):
        theta = tiny.theta(seed)
        graph = template.patched(theta)
        expected = tiny.reference(theta, x)[0]
        np.testing.assert_allclose(run(graph, x), expected, rtol=1e-4, atol=1e-4)
        # ONNX's reference implementation optimises nothing away.
        np.testing.assert_allclose(ReferenceEvaluator(graph).run(["y"], {"x": x})[0], expected, rtol=1e-4, atol=1e-4)
    assert template.patched(tiny.theta(1)) == template.patched(tiny.theta(1))


def test_a_patched_graph_agrees_with_the_banked_one(tiny: Any) -> None:
    rows = np.stack([tiny.theta(n) for n in range(4)])
    x = tiny.x(8)
    banked = onnxruntime.InferenceSession(tiny.bundle.graph("banked"), providers=CPU)
    template = Template(tiny.bundle.graph("serve"), tiny.bundle.layout, "serve.onnx")
    for n, theta in enumerate(rows):
        expected = banked.run(["y"], {"x": x, "slot": np.full(8, n), "bank": rows})[0]
        np.testing.assert_allclose(run(template.patched(theta), x), expected, rtol=1e-4, atol=1e-4)


def test_the_provider_folds_the_norm_of_a_patched_graph_away(tiny: Any, tmp_path: Path) -> None:
    template = Template(tiny.bundle.graph("serve"), tiny.bundle.layout, "serve.onnx")
    options = session_options(1)
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(template.patched(tiny.theta(1)), options, providers=CPU)
    left = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "BatchNormalization" not in left
    assert any("Conv" in op for op in left)


def test_why_the_values_are_not_handed_over_with_add_initializer(tiny: Any) -> None:
    """ONNX Runtime fuses Conv and BatchNormalization from the values in the file and leaves the override out. Should
    this begin to fail, the library has learnt better, and folding could do without serialising the graph."""
    layout, theta, x = tiny.bundle.layout, tiny.theta(1), tiny.x(5)
    options = session_options(1)
    values = {
        p.name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(layout.view(theta, p.name)))
        for p in layout
    }
    for name, value in values.items():
        options.add_initializer(name, value)
    overridden = run(tiny.bundle.graph("serve"), x, options)
    expected = tiny.reference(theta, x)[0]
    assert np.abs(overridden - expected).max() > 0.1
    template = Template(tiny.bundle.graph("serve"), layout, "serve.onnx")
    assert np.abs(run(template.patched(theta), x) - expected).max() < 1e-4


def test_values_kept_in_the_other_field_are_replaced_too(tiny: Any) -> None:
    model = onnx.load_model_from_string(tiny.bundle.graph("serve"))
    for tensor in model.graph.initializer:
        if tensor.name == "norm.bn.mean":
            values = onnx.numpy_helper.to_array(tensor).tolist()
            tensor.ClearField("raw_data")
            tensor.float_data.extend(values)
    template = Template(model.SerializeToString(), tiny.bundle.layout, "serve.onnx")
    theta, x = tiny.theta(3), tiny.x(2)
    np.testing.assert_allclose(run(template.patched(theta), x), tiny.reference(theta, x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([("norm.other.mean", 4)], "serve.onnx: there is no initializer norm.other.mean; export the bundle again"),
        ([("norm.bn.mean", 5)], "serve.onnx: initializer norm.bn.mean is not float32 of size 5; export"),
    ],
)
def test_a_graph_that_does_not_fit_the_layout_is_refused(tiny: Any, parts: Any, message: str) -> None:
    layout = ParameterLayout.of((name, "norm.mean", "bn", size) for name, size in parts)
    with pytest.raises(BundleError, match=re.escape(message)):
        Template(tiny.bundle.graph("serve"), layout, "serve.onnx")


def test_bytes_that_are_no_model_and_a_vector_of_another_size_are_refused(tiny: Any) -> None:
    with pytest.raises(BundleError, match=r"serve.onnx: is not an ONNX model"):
        Template(b"\xff" * 10, tiny.bundle.layout, "serve.onnx")
    template = Template(tiny.bundle.graph("serve"), tiny.bundle.layout, "serve.onnx")
    with pytest.raises(ValueError, match="shape"):
        template.patched(tiny.source[:-1])
