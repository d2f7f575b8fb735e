"""An existing ONNX file: read, cleaned, and its norms found and marked. No PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from trimtab.exporters.drafting import renamed
from trimtab.exporters.marked import DOMAIN, FEATURES, NORM, Layer, Shape
from trimtab.exporters.survey import RUNTIME_ERRORS, session
from trimtab.runtime.bundle import Input
from trimtab.runtime.errors import ExportError

OPSET = 18
"""Older files are converted up to this: reductions take their axes as inputs since then."""

SUFFIXES = (".weight", ".scale", ".gamma", ".w_0", ".bias", ".b_0", "_scale", "_gamma", "_weight", "_bias", "_offset")
PASSED = ("Identity", "Squeeze", "Reshape", "Flatten", "GlobalAveragePool", "ReduceMean", "Add")
ACTIVATIONS = ("Softmax", "LogSoftmax", "Sigmoid", "Tanh")
"""What may stand between the last layer and the output."""


@dataclass(frozen=True)
class Place:
    """Where a norm (or a bias) stands in the file's graph."""

    layer: Layer
    node: str
    """Name of the output of its node."""
    source: str
    """The value that goes into the norm: what its moments are taken of."""
    inputs: dict[str, int]
    """Part -> which input of the node holds it."""
    shapes: dict[str, tuple[int, ...]]
    """Part -> its shape in the file."""


def read(path: str | Path, shapes: Mapping[str, list[int]]) -> onnx.ModelProto:
    """The model in `path`, its inputs' first axis free, the others as in the file or in `shapes` ("": the first input).

    Raises ExportError where it cannot be read, or leaves an axis open that `shapes` does not fix.
    """
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise ExportError(f"{path}: not found") from None
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise ExportError(f"{path}: is not a valid ONNX file ({str(error).splitlines()[0]})") from error
    graph = model.graph
    if any(node.domain == "com.microsoft.nchwc" for node in graph.node):
        raise ExportError(
            f"{path}: was optimised by ONNX Runtime for one kind of processor; import the file from before that"
        )
    model.ir_version = max(model.ir_version, 4)  # initializers need not be inputs since then
    tensors = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in tensors]
    if inputs and "" in shapes:
        shapes = {inputs[0].name: shapes[""]}
    unknown = set(shapes) - {i.name for i in inputs}
    if unknown:
        raise ExportError(
            f"shape: {path} has no input {min(unknown)!r}; its inputs are {', '.join(i.name for i in inputs)}"
        )
    if len(graph.output) != 1:
        names = ", ".join(o.name for o in graph.output)
        raise ExportError(f"{path}: has the outputs {names}; a bundle needs one, [N, K]: cut the others off")
    for entry in inputs:
        kind = entry.type.tensor_type.elem_type
        if kind not in (TensorProto.FLOAT, TensorProto.INT64):
            raise ExportError(
                f"{path}: input {entry.name} is {TensorProto.DataType.Name(kind).lower()}; bundles take float (or "
                "int64, as whole numbers): convert the file to float32"
            )
        dims = entry.type.tensor_type.shape.dim
        fixed = shapes.get(entry.name)
        found = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else 0 for d in dims][1:]
        if fixed is not None and (
            len(fixed) != len(found) or any(f not in (0, s) for f, s in zip(found, fixed, strict=True))
        ):
            raise ExportError(
                f"shape: {entry.name} is [N, {', '.join(str(f or '?') for f in found)}] in {path}, not {fixed}"
            )
        whole = fixed or found
        if not whole or 0 in whole:
            raise ExportError(
                f"{path}: leaves input {entry.name} open ([N, {', '.join(str(f or '?') for f in found)}]); "
                "give it without the batch axis, as in --shape 3,48,192"
            )
        del dims[:]
        for size in ("N", *whole):
            dims.add(**({"dim_param": size} if isinstance(size, str) else {"dim_value": size}))
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.value_info[:]
    for dim in graph.output[0].type.tensor_type.shape.dim:
        dim.Clear()
    return model


def logits(model: onnx.ModelProto) -> str:
    """What goes into a Softmax at the end of the file as it was read, else the file's output.

    Looked up before conversion, which takes an old Softmax to pieces.
    """
    makers = {o: n for n in model.graph.node for o in n.output}
    output: str = model.graph.output[0].name
    node = makers.get(output)
    while node is not None and node.op_type == "Identity":
        node = makers.get(node.input[0])
    return str(node.input[0]) if node is not None and node.op_type == "Softmax" else output


def convert(model: onnx.ModelProto, path: str | Path) -> onnx.ModelProto:
    """The model in opset 18 or later, without Constant nodes and Identities of constants."""
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except (RuntimeError, ValueError, version_converter.ConvertError) as error:
            raise ExportError(
                f"{path}: cannot be converted from opset {version} to {OPSET} ({str(error).splitlines()[0]}); export "
                f"it again with opset {OPSET}"
            ) from error
    clean = onnx.ModelProto()
    clean.CopyFrom(model)
    clean.ir_version = max(clean.ir_version, 8)
    graph = clean.graph
    constants = {t.name: t for t in graph.initializer}
    aliases: dict[str, str] = {}
    kept = []
    outputs = {o.name for o in graph.output}
    for node in graph.node:
        if node.op_type == "Identity" and node.output[0] not in outputs:
            source = aliases.get(node.input[0], node.input[0])
            if source in constants:
                aliases[node.output[0]] = source
                continue
        tensor = _constant(node, constants)
        if tensor is None or node.output[0] in outputs:
            kept.append(renamed(node, aliases))
        else:
            constants[tensor.name] = tensor
            graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)
    del graph.value_info[:]
    return clean


def _constant(node: onnx.NodeProto, known: Mapping[str, TensorProto]) -> TensorProto | None:
    """The tensor of a Constant node, or of a Cast of a constant: weights are kept in half precision that way."""
    if node.op_type == "Cast" and node.input[0] in known and node.attribute[0].i == TensorProto.FLOAT:
        return numpy_helper.from_array(numpy_helper.to_array(known[node.input[0]]).astype(np.float32), node.output[0])
    if node.op_type != "Constant" or node.attribute[0].name not in ("value", "value_float", "value_int"):
        return None
    value = helper.get_attribute_value(node.attribute[0])
    if not isinstance(value, TensorProto):
        kind = np.float32 if node.attribute[0].name == "value_float" else np.int64
        value = numpy_helper.from_array(np.asarray(value, kind))
    tensor = TensorProto()
    tensor.CopyFrom(value)
    tensor.name = node.output[0]
    return tensor


class Graph:
    """Looks into a cleaned model; `logits` is the value to be taken as its output."""

    def __init__(self, model: onnx.ModelProto, logits: str) -> None:
        self.model = model
        self.logits = logits
        self.constants = {t.name: t for t in model.graph.initializer}
        self.makers = {o: n for n in model.graph.node for o in n.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.output = model.graph.output[0].name

    def array(self, name: str) -> NDArray[np.float32] | None:
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return None
        return np.asarray(numpy_helper.to_array(tensor), np.float32)

    def head(self) -> onnx.NodeProto | None:
        """The last layer: the first matrix product or convolution on the way back from the output."""
        node = self.makers.get(self.logits)
        while node is not None:
            if node.op_type in ("Gemm", "MatMul", "Conv"):
                return node if self.array(node.input[1]) is not None else None
            if node.op_type not in (*PASSED, *ACTIVATIONS):
                return None
            data = [i for i in node.input if i and i not in self.constants]
            node = self.makers.get(data[0]) if len(data) == 1 else None
        return None

    def norms(self) -> Iterator[Place]:
        """BatchNormalization, LayerNormalization and InstanceNormalization nodes whose values are constants."""
        for node in self.model.graph.node:
            if node.op_type not in ("BatchNormalization", "LayerNormalization", "InstanceNormalization"):
                continue
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            parts = ("weight", "bias", "mean", "var") if node.op_type == "BatchNormalization" else ("weight", "bias")
            inputs = {part: i + 1 for i, part in enumerate(parts) if len(node.input) > i + 1 and node.input[i + 1]}
            values = {part: self.array(node.input[i]) for part, i in inputs.items()}
            if any(v is None for v in values.values()) or attributes.get("training_mode", 0):
                continue
            arrays = {part: v.reshape(-1) for part, v in values.items() if v is not None}
            weight = values["weight"]
            if weight is None:
                continue
            layer = Layer(
                name=self._name(node, "norm"),
                kind={"B": "batch", "L": "layer", "I": "instance"}[node.op_type[0]],  # type: ignore[arg-type]
                values=arrays,
                channels=weight.size,
                eps=float(attributes.get("epsilon", 1e-5)),
                dims=weight.shape if node.op_type == "LayerNormalization" else (),
            )
            shapes = {part: v.shape for part, v in values.items() if v is not None}
            yield Place(layer, node.output[0], node.input[0], inputs, shapes)

    def biases(self) -> Iterator[Place]:
        """Constant biases per channel of convolutions and matrix products; the last layer has output.shift instead."""
        head = self.head()
        for node in self.model.graph.node:
            if node is head or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
                continue
            axis = 1 if node.op_type.startswith("Conv") else -1
            place = node
            at = 2
            if node.op_type == "MatMul" or len(node.input) < 3 or not node.input[2]:
                readers = self.readers.get(node.output[0], [])
                if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] == self.output:
                    continue
                place = readers[0]
                at = 1 - list(place.input).index(node.output[0])
            bias = self.array(place.input[at])
            weight = self.array(node.input[1])
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if bias is None or weight is None or attributes.get("beta", 1.0) != 1.0:
                continue
            spread = (1,) * (weight.ndim - 2) if place is not node and axis == 1 else ()
            leading = bias.shape[: max(bias.ndim - 1 - len(spread), 0)]
            if bias.shape != (*leading, _channels(node.op_type, weight, attributes), *spread) or set(leading) - {1}:
                continue
            name = self._name(node, "bias")
            layer = Layer(name, "bias", {"bias": bias.reshape(-1)}, bias.size, channel_axis=axis)
            yield Place(layer, place.output[0], node.output[0], {"bias": at}, {"bias": bias.shape})

    def _name(self, node: onnx.NodeProto, kind: str) -> str:
        """Of a norm: as its module was called, where the names of its values show that; else the node's name."""
        for name in node.input[1:]:
            stem = next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), "")
            if stem:
                return stem
        return str(node.name or f"{kind}_{node.output[0]}")


def _channels(op: str, weight: NDArray[np.float32], attributes: Mapping[str, int]) -> int:
    if op == "ConvTranspose":
        return int(weight.shape[1] * attributes.get("group", 1))
    if op == "Conv" or (op == "Gemm" and attributes.get("transB", 0)):
        return int(weight.shape[0])
    return int(weight.shape[-1])


def unique(places: list[Place]) -> list[Place]:
    """The same places, their layers' names made unique."""
    seen: dict[str, int] = {}
    out = []
    for place in places:
        name = place.layer.name
        seen[name] = seen.get(name, 0) + 1
        out.append(replace(place, layer=replace(place.layer, name=f"{name}#{seen[name]}")) if seen[name] > 1 else place)
    return out


def rehearse(
    model: onnx.ModelProto, values: Sequence[str], inputs: Sequence[Input], integers: frozenset[str], path: str | Path
) -> dict[str, tuple[Shape, Shape]]:
    """Shapes of `values` with 2 and with 3 samples. Raises ExportError where the model does not run with them."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = list(dict.fromkeys(values))
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=v) for v in names)
    runs: list[list[Shape]] = []
    try:
        run = session(probe.SerializeToString())
    except RUNTIME_ERRORS as error:
        raise ExportError(f"{path}: ONNX Runtime does not load it ({str(error).splitlines()[0]})") from error
    try:
        for samples in (2, 3):
            feed = {
                i.name: np.ones((samples, *i.shape), np.int64 if i.name in integers else np.float32) for i in inputs
            }
            runs.append([tuple(v.shape) for v in run.run(names, feed)])
    except RUNTIME_ERRORS as error:
        raise ExportError(
            f"{path}: does not run with a free number of samples ({str(error).splitlines()[0]}); export it again with "
            "a dynamic batch axis"
        ) from error
    return dict(zip(names, zip(*runs, strict=True), strict=True))


def mark(graph: Graph, places: list[Place], shapes: Mapping[str, list[int]], features: str) -> onnx.ModelProto:
    """The model with markers in place of norms and before its last layer, and its logits as output."""
    marked = onnx.ModelProto()
    marked.CopyFrom(graph.model)
    by_node = {p.node: p for p in places}
    head = graph.head()
    nodes: list[onnx.NodeProto] = []
    for node in marked.graph.node:
        place = by_node.get(node.output[0])
        if features and head is not None and node.output[0] == head.output[0]:
            name = "trimtab.features"
            nodes.append(helper.make_node(FEATURES, [features], [name], domain=DOMAIN, shape=shapes[features]))
            node.input[0] = name
        if place is None:
            nodes.append(node)
            continue
        source, out = place.source, node.output[0]
        if source == out:  # the bias is an input of the node itself
            source = f"{out}/unbiased"
            del node.input[place.inputs["bias"] :]
            node.output[0] = source
            nodes.append(node)
        nodes.append(
            helper.make_node(NORM, [source], [out], domain=DOMAIN, layer=place.layer.name, shape=shapes[place.source])
        )
    del marked.graph.node[:]
    marked.graph.node.extend(nodes)
    marked.graph.output[0].name = graph.logits
    marked.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return marked
