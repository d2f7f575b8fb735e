"""Existing ONNX files: with norms, with norms folded away, old and odd ones; without PyTorch."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trimtab.exporters import import_onnx
from trimtab.exporters.parity import patched
from trimtab.runtime.bundle import load_bundle
from trimtab.runtime.cli import cli
from trimtab.runtime.errors import ExportError

MEAN, STD = [0.5, 1.0, -1.0], [1.0, 2.0, 0.5]


def values() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    draw = {
        "w": rng.standard_normal((4, 3, 3, 3)) * 0.3,
        "bn.scale": rng.uniform(0.5, 1.5, 4),
        "bn.bias": rng.standard_normal(4) * 0.2,
        "bn.mean": rng.standard_normal(4),
        "bn.var": rng.uniform(0.5, 2.0, 4),
        "fc": rng.standard_normal((4, 3)),
        "fc.bias": rng.standard_normal((1, 3)),
        "conv.bias": rng.standard_normal((1, 4, 1, 1)),
    }
    return {k: v.astype(np.float32) for k, v in draw.items()}


def write(
    path: Path,
    *,
    opset: int = 11,
    folded: bool = False,
    batch: int | str = "?",
    wrapped: bool = True,
    last: str = "Softmax",
) -> Path:
    """Conv, BatchNormalization, Relu, mean, MatMul, Add, Softmax, as Paddle's converter writes them: constants as
    Constant nodes and behind Identities, everything in an old opset, the image's size left open."""
    arrays = values()
    nodes = []
    names = {}
    for key, value in arrays.items():
        names[key] = key
        if wrapped:
            nodes.append(helper.make_node("Constant", [], [key], value=numpy_helper.from_array(value)))
            nodes.append(helper.make_node("Identity", [key], [f"{key}/copy"]))
            names[key] = f"{key}/copy" if key.startswith("bn") else key
    norm = ["c", *(names[f"bn.{k}"] for k in ("scale", "bias", "mean", "var"))]
    nodes += [
        helper.make_node("Conv", ["x", names["w"]], ["c"], name="first"),
        helper.make_node("Add", ["c", names["conv.bias"]], ["n"])
        if folded
        else helper.make_node("BatchNormalization", norm, ["n"], epsilon=1e-3),
        helper.make_node("Relu", ["n"], ["y"]),  # a name that the bundle's graphs use themselves
        helper.make_node("GlobalAveragePool", ["y"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", names["fc"]], ["m"]),
        helper.make_node("Add", ["m", names["fc.bias"]], ["l"]),
        helper.make_node(last, ["l"], ["s"]),
        helper.make_node("Identity", ["s"], ["out"]),
    ]
    tensors = [] if wrapped else [numpy_helper.from_array(v, k) for k, v in arrays.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, "h", "w"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 3])
    graph = helper.make_graph(nodes, "g", [x], [out], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7), path)
    return path


def expected(x: NDArray[np.float32], changed: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """The network of `write` by NumPy: logits."""
    v = {k: a.astype(np.float64) for k, a in (values() | changed).items()}
    x = (x - np.reshape(MEAN, (1, 3, 1, 1))) / np.reshape(STD, (1, 3, 1, 1))
    c = np.einsum("nchwij,ocij->nohw", np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3)), v["w"])
    mean, var, scale, bias = (v[f"bn.{k}"].reshape(1, 4, 1, 1) for k in ("mean", "var", "scale", "bias"))
    n = (c - mean) / np.sqrt(var + 1e-3) * scale + bias
    return np.maximum(n, 0).mean((2, 3)) @ v["fc"] + v["fc.bias"]


def test_batch_norms_of_an_old_file(tmp_path: Path) -> None:
    exported = import_onnx(
        write(tmp_path / "old.onnx"), tmp_path / "out", shapes=[3, 8, 8], mean=MEAN, std=STD, classes=["a", "b", "c"]
    )
    bundle = exported.bundle
    assert [(n.name, n.kind, n.channels, round(n.eps, 6)) for n in bundle.manifest.norms] == [("bn", "batch", 4, 0.001)]
    assert (bundle.manifest.name, bundle.manifest.features, bundle.manifest.inputs[0].shape) == ("old", 4, [3, 8, 8])
    assert bundle.manifest.provenance["opset"] == 18
    assert "Softmax" in exported.notes[0]
    x = np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype(np.float32)
    changed = {"bn.mean": np.ones(4, np.float32), "bn.scale": np.arange(4, dtype=np.float32)}
    theta = bundle.source.theta.copy()
    bundle.layout.view(theta, "norm.bn.mean")[:] = changed["bn.mean"]
    bundle.layout.view(theta, "norm.bn.weight")[:] = changed["bn.scale"]
    for row, wanted in ((bundle.source.theta, expected(x, {})), (theta, expected(x, changed))):
        run = ort.InferenceSession(
            patched(bundle.graph("serve"), bundle.layout, row), providers=["CPUExecutionProvider"]
        )
        np.testing.assert_allclose(run.run(["y"], {"x": x})[0], wanted, rtol=1e-4, atol=1e-5)


def test_without_data_the_source_is_what_the_norms_remember(tmp_path: Path) -> None:
    exported = import_onnx(write(tmp_path / "old.onnx"), tmp_path / "out", shapes=[3, 8, 8])
    source = exported.bundle.source
    np.testing.assert_array_equal(source.moments_mean, values()["bn.mean"])
    np.testing.assert_array_equal(source.moments_var, values()["bn.var"])
    assert source.reference == {}
    np.testing.assert_allclose(source.class_prior, 1 / 3)
    assert exported.bundle.manifest.classes == ["0", "1", "2"]
    assert exported.bundle.manifest.provenance["source"] == "running statistics and noise"
    assert any("without source data" in note for note in exported.notes)


def test_with_data_the_source_is_the_data(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((70, 3, 8, 8)).astype(np.float32)
    exported = import_onnx(
        write(tmp_path / "new.onnx", opset=18, wrapped=False, batch="N", last="Identity"),
        tmp_path / "out",
        source_batches=[(x, None)],
        shapes={"x": [3, 8, 8]},
        mean=MEAN,
        std=STD,
        targets=["u", "v", "w"],
    )
    source = exported.bundle.source
    assert exported.notes == []
    assert set(source.reference) == {"divergence", "departure", "distance", "raw"}
    assert set(source.usual) == {"raw"}
    np.testing.assert_allclose(source.class_prior, expected(x, {}).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(source.input_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_biases_where_norms_were_folded_away(tmp_path: Path) -> None:
    exported = import_onnx(
        write(tmp_path / "folded.onnx", folded=True, last="Identity"), tmp_path / "out", shapes=[3, 8, 8]
    )
    bundle = exported.bundle
    assert [(n.name, n.kind, n.channels) for n in bundle.manifest.norms] == [("first", "bias", 4)]
    assert [(p.name, p.kind) for p in bundle.layout][2] == ("bias.first", "channel.bias")
    assert "no norms left" in exported.notes[0]
    np.testing.assert_array_equal(
        bundle.layout.view(bundle.source.theta, "bias.first"), values()["conv.bias"].reshape(-1)
    )


def test_what_a_bundle_serves_can_be_imported_again(tmp_path: Path) -> None:
    first = import_onnx(write(tmp_path / "old.onnx"), tmp_path / "a", shapes=[3, 8, 8]).bundle
    second = import_onnx(first.path / "serve.onnx", tmp_path / "b", calibration=None).bundle
    assert [n.name for n in second.manifest.norms] == ["norm.bn"]


def initializers_as_inputs(model: onnx.ModelProto) -> None:
    """As files of IR version 3 have it."""
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def half_precision(model: onnx.ModelProto) -> None:
    """Weights in half precision, cast where they are used."""
    casts = []
    for tensor in model.graph.initializer:
        name, value = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(value, f"{name}/half"))
        casts.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize(
    ("opset", "last", "change"), [(9, "LogSoftmax", initializers_as_inputs), (17, "Sigmoid", half_precision)]
)
def test_parameters_are_found_however_they_are_kept(tmp_path: Path, opset: int, last: str, change: Any) -> None:
    path = write(tmp_path / "file.onnx", opset=opset, wrapped=False, last=last)
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    manifest = import_onnx(path, tmp_path / "out", shapes=[3, 8, 8]).bundle.manifest
    assert [(n.name, n.kind) for n in manifest.norms] == [("bn", "batch")]
    assert manifest.features == 4


def test_files_that_onnx_runtime_has_optimised(tmp_path: Path) -> None:
    path = write(tmp_path / "file.onnx", opset=17, wrapped=False, last="Identity")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.CopyFrom(
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8]).type.tensor_type.shape
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert "1 layers' biases cannot be reached" in " ".join(
        import_onnx(tmp_path / "fused.onnx", tmp_path / "out", shapes=[3, 8, 8]).notes
    )
    model.graph.node[0].domain = "com.microsoft.nchwc"  # as for a processor with AVX
    model.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    onnx.save(model, path)
    with pytest.raises(ExportError, match="optimised by ONNX Runtime for one kind of processor"):
        import_onnx(path, tmp_path / "other")


def test_probabilities_that_are_not_cut_off_are_noticed(tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path / "file.onnx"))
    model.graph.node[-1].op_type = "Flatten"  # after the Softmax
    onnx.save(model, tmp_path / "file.onnx")
    notes = import_onnx(tmp_path / "file.onnx", tmp_path / "out", shapes=[3, 8, 8]).notes
    assert any("look like probabilities" in note for note in notes)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an open shape": ({}, {}, "leaves input x open ([N, 3, ?, ?]); give it without the batch axis"),
    "another shape": ({}, {"shapes": [4, 8, 8]}, "x is [N, 3, ?, ?]"),
    "no such input": ({}, {"shapes": {"z": [3]}}, "no input 'z'"),
    "both": ({}, {"shapes": [3, 8, 8], "classes": ["a"], "targets": ["b"]}, "not both"),
    "names": ({}, {"shapes": [3, 8, 8], "targets": ["b"]}, "targets: 1 names for the model's 3 outputs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    file, options, message = REFUSED[case]
    with pytest.raises(ExportError) as caught:
        import_onnx(write(tmp_path / "a.onnx", **file), tmp_path / "out", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name, message in (("text", "not a valid ONNX file"), ("empty", "not a valid ONNX file"), ("nope", "not found")):
        with pytest.raises(ExportError, match=message):
            import_onnx(tmp_path / f"{name}.onnx", tmp_path / "out")


def test_a_batch_that_is_written_into_the_graph(tmp_path: Path) -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Reshape", ["x", "shape"], ["out"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 1])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3])],
            [numpy_helper.from_array(np.array([1, 3]), "shape")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ExportError, match=r"does not run with a free number of samples .* dynamic batch axis"):
        import_onnx(tmp_path / "a.onnx", tmp_path / "out")


def test_a_real_file_without_pytorch(tmp_path: Path) -> None:
    """PP-OCR's direction classifier, as the package rapidocr ships it: 35 batch norms, some after depthwise
    convolutions, opset 11. PyTorch is barred from the process."""
    spec = find_spec("rapidocr")
    assert spec is not None
    assert spec.origin is not None
    model = Path(spec.origin).parent / "models" / "ch_ppocr_mobile_v2.0_cls_mobile.onnx"
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # any import of it now fails
        "from trimtab.runtime.cli import cli\n"
        f"given = ['--out', {str(tmp_path / 'out')!r}, '--shape', '3,16,32', '--classes', '0,180']\n"
        f"cli(['import', {str(model)!r}, *given])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "35 norms, 8752 parameters, 200 features, 2 outputs" in done.stdout
    assert "ends in a Softmax" in done.stdout
    assert done.stderr == ""


def test_sizes_left_open_are_those_of_the_data(tmp_path: Path) -> None:
    model = write(tmp_path / "old.onnx")
    x = np.random.default_rng(4).standard_normal((70, 3, 9, 7)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x)
    given = ["import", str(model), "--data", str(tmp_path / "a.npz"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, given, catch_exceptions=False)
    assert done.exit_code == 0
    assert load_bundle(tmp_path / "out").manifest.inputs[0].shape == [3, 9, 7]
