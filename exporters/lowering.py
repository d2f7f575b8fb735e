"""Lowering: one marked model becomes the four graphs of a bundle.

- serve, observe: parameters are initializers named as in the layout. A batch norm is a `BatchNormalization` beside
  its convolution, so that ONNX Runtime folds it away.
- banked, probe: each sample takes its parameters from its row of the bank. A batch norm is `x * scale + shift`, its
  scales and shifts computed for all layers together.
- observe, probe: also give features, and the moments of each norm's input (see `taps`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from trimtab.adapters.parameters import ParameterLayout
from trimtab.exporters.drafting import PREFIX, Draft, reads, renamed
from trimtab.exporters.marked import DOMAIN, FEATURES, NORM, Layer, Marked
from trimtab.exporters.taps import Taps
from trimtab.runtime.bundle import Input

EPSILON = 2.0**-16
"""For a batch norm of unit variance: cuDNN takes none below 1e-5, and 1 - EPSILON is exact in float32."""

RESERVED = ("y", "features", "moments", "slot", "bank")


def lower(marked: Marked, which: str) -> onnx.ModelProto:
    """The graph `which` of a marked model, without the stack traces that PyTorch leaves in it."""
    model = _Lowering(marked, which).run()
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return model


class _Lowering:
    """Walks through the marked graph once, copies what is not a marker, and puts nodes in place of what is."""

    def __init__(self, marked: Marked, which: str) -> None:
        self.marked = marked
        self.banked = which in ("banked", "probe")
        self.draft = Draft()
        self.taps = Taps(self.draft) if which in ("observe", "probe") else None
        self.layout: ParameterLayout = marked.layout()
        self.layers = {layer.name: layer for layer in marked.layers}
        self.parts: dict[str, str] = {}
        """Parameter -> the value that holds it: `[size]`, or `[N, size]` where banked."""
        self.affines: dict[str, tuple[str, str]] = {}
        """Batch norm, where banked -> its scale and shift, each `[N, C]`."""
        self.rename: dict[str, str] = {}

    def run(self) -> onnx.ModelProto:
        graph = self.marked.model.graph
        output = graph.output[0].name
        taken = {*RESERVED, *(p.name for p in self.layout)}
        values = _values(graph)
        for value in sorted(values - {i.name for i in self.marked.inputs}):
            if value in taken or value.startswith(PREFIX):
                name = f"model/{value}"
                while name in values:
                    name = f"model/{name}"
                self.rename[value] = name
        for tensor in graph.initializer:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = self.rename.get(tensor.name, tensor.name)
            self.draft.initializers[copy.name] = copy
        self._parameters()
        for entry in self.marked.inputs:
            self.rename[entry.name] = self._standardise(entry)
        for node in graph.node:
            if node.domain == DOMAIN and node.op_type == NORM:
                self._norm(node)
            elif node.domain == DOMAIN and node.op_type == FEATURES:
                self._feature(node)
            else:
                self.draft.nodes.append(self._copied(node))
        shift = self._place("output.shift", 2, 1)
        self.draft.node("Add", self.rename.get(output, output), shift, out="y")
        if self.taps and self.marked.layers:
            self.taps.join(self.marked.layers, *self._centres())
        return self._model()

    def _copied(self, node: onnx.NodeProto) -> onnx.NodeProto:
        copy = renamed(node, self.rename)
        if copy.name.startswith(PREFIX):
            copy.name = f"model/{copy.name}"
        return copy

    # -- parameters ----------------------------------------------------------------------------------------------

    def _parameters(self) -> None:
        theta = self.marked.theta()
        if not self.banked:
            for p in self.layout:
                self.parts[p.name] = self.draft.named(p.name, np.ascontiguousarray(theta[p.slice]))
            return
        rows = self.draft.node("Gather", "bank", "slot", axis=0)
        cut = self.draft.split(rows, [p.size for p in self.layout])
        self.parts = {p.name: value for p, value in zip(self.layout, cut, strict=True)}
        batch = [layer for layer in self.marked.layers if layer.kind == "batch"]
        for affine in sorted({(("weight" in b.values), ("bias" in b.values)) for b in batch}):
            self._scales([b for b in batch if (("weight" in b.values), ("bias" in b.values)) == affine], *affine)

    def _scales(self, layers: list[Layer], weighted: bool, biased: bool) -> None:
        """Scale and shift of batch norms, all in one: a layer alone is too little work for a node."""
        draft = self.draft
        mean, var = (draft.concat([self.parts[b.parameter(p)] for b in layers]) for p in ("mean", "var"))
        eps = np.concatenate([np.full(b.channels, b.eps, np.float32) for b in layers])[None]
        scale = draft.node("Sqrt", draft.node("Add", var, draft.constant(eps)))
        if weighted:
            weight = draft.concat([self.parts[b.parameter("weight")] for b in layers])
            scale = draft.node("Div", weight, scale)
        else:
            scale = draft.node("Reciprocal", scale)
        if self.taps:  # the first half has taken the source's statistics off already
            centre = np.concatenate([b.values["mean"] for b in layers])[None]
            mean = draft.node("Sub", mean, draft.constant(centre))
        shift = draft.node("Neg", draft.node("Mul", mean, scale))
        if biased:
            shift = draft.node("Add", draft.concat([self.parts[b.parameter("bias")] for b in layers]), shift)
        if self.taps:
            spread = np.concatenate([np.sqrt(b.values["var"] + np.float32(b.eps)) for b in layers])[None]
            scale = draft.node("Mul", scale, draft.constant(spread))
        sizes = [b.channels for b in layers]
        for layer, a, b in zip(layers, draft.split(scale, sizes), draft.split(shift, sizes), strict=True):
            self.affines[layer.name] = (a, b)

    def _place(self, parameter: str, rank: int, axis: int) -> str:
        """A parameter along one axis, shaped to be broadcast over a value of that rank."""
        return self._shaped(self.parts[parameter], rank, 0, [axis], [self.layout[parameter].size])

    def _shaped(self, value: str, rank: int, samples: int, axes: Sequence[int], sizes: Sequence[int]) -> str:
        shape = [1] * rank
        if self.banked:
            shape[samples] = -1
        for axis, size in zip(axes, sizes, strict=True):
            shape[axis] = size
        return self.draft.reshape(value, shape)

    # -- inputs --------------------------------------------------------------------------------------------------

    def _standardise(self, entry: Input) -> str:
        """((gain * x[order] + offset) - mean) / std per channel, in an order that keeps float32's digits: where the
        mean is large (pressure in pascal), x - mean is exact but x / std is not."""
        draft, value, rank = self.draft, entry.name, len(entry.shape) + 1
        if entry.name in self.marked.integers:
            return draft.node("Cast", value, to=TensorProto.INT64)
        column = [1, entry.shape[0]] + [1] * (rank - 2)
        mean = np.asarray(entry.mean, np.float32).reshape(column) if entry.mean else None
        if entry.calibration is not None:
            name = f"input.{entry.name}"
            if entry.calibration.orders:
                order = draft.node("Cast", self.parts[f"{name}.order"], to=TensorProto.INT64)
                if self.banked:
                    order = draft.node("Unsqueeze", order, draft.constant(np.asarray([2], np.int64)))
                    value = draft.node("GatherND", value, order, batch_dims=1)
                else:
                    value = draft.node("Gather", value, order, axis=1)
            value = draft.node("Mul", value, self._place(f"{name}.gain", rank, 1))
            offset = self._place(f"{name}.offset", rank, 1)
            if mean is not None:
                offset = draft.node("Sub", offset, draft.constant(mean))
            value = draft.node("Add", value, offset)
        elif mean is not None:
            value = draft.node("Sub", value, draft.constant(mean))
        if entry.std:
            std = np.asarray(entry.std, np.float64).reshape(column)
            value = draft.node("Mul", value, draft.constant((1.0 / std).astype(np.float32)))
        return value

    # -- norms ---------------------------------------------------------------------------------------------------

    def _norm(self, node: onnx.NodeProto) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        layer = self.layers[attributes["layer"].decode()]
        shape = list(attributes["shape"])
        x = self.rename.get(node.input[0], node.input[0])
        if layer.kind == "batch":
            value = self._batch(layer, x, shape)
        elif layer.kind == "bias":
            value = self._bias(layer, x, shape)
        else:
            if self.taps:
                self.taps.twice(layer, x, shape)
            value = self._other(layer, x, shape)
        self.rename[node.output[0]] = value

    def _batch(self, layer: Layer, x: str, shape: list[int]) -> str:
        draft = self.draft
        ones = draft.constant(np.ones(layer.channels, np.float32))
        zeros = draft.constant(np.zeros(layer.channels, np.float32))
        if self.taps:
            x = draft.node("BatchNormalization", x, ones, zeros, *self._taken_off(layer), epsilon=layer.eps)
            self.taps.once(layer, x, shape)
        if self.banked:
            return self._scaled(layer, x, shape, self.affines[layer.name])
        weight = self.parts[layer.parameter("weight")] if "weight" in layer.values else ones
        bias = self.parts[layer.parameter("bias")] if "bias" in layer.values else zeros
        if self.taps:
            if (weight, bias) == (ones, zeros):
                return x
            rest = draft.constant(np.full(layer.channels, 1.0 - EPSILON, np.float32))
            return draft.node("BatchNormalization", x, weight, bias, zeros, rest, epsilon=EPSILON)
        mean, var = (self.parts[layer.parameter(p)] for p in ("mean", "var"))
        return draft.node("BatchNormalization", x, weight, bias, mean, var, epsilon=layer.eps)

    def _bias(self, layer: Layer, x: str, shape: list[int]) -> str:
        """x + bias. Its moments are taken after a bias has been added, which folds into the layer before."""
        draft, bias = self.draft, self.parts[layer.parameter("bias")]
        if self.taps and self.banked:
            source = layer.values["bias"].reshape([layer.channels] + [1] * (len(shape) - 1 - layer.axes(len(shape))[0]))
            x = draft.node("Add", x, draft.constant(source))
            bias = draft.node("Sub", bias, draft.constant(layer.values["bias"]))
            self.taps.once(layer, x, shape)
        x = self._scaled(layer, x, shape, (None, bias))
        if self.taps and not self.banked:
            self.taps.once(layer, x, shape)
        return x

    def _scaled(self, layer: Layer, x: str, shape: list[int], affine: tuple[str | None, str | None]) -> str:
        """x * scale + shift, per sample `[N, C]` where banked, else `[C]`."""
        draft, fold = self.draft, self.banked and layer.fold > 1
        rank = len(shape) + fold
        axes = [a + fold for a in layer.axes(len(shape))]
        sizes = list(layer.dims) or [layer.channels]
        if fold:
            x = draft.reshape(x, [-1, layer.fold, *shape[1:]])
        for op, value in zip(("Mul", "Add"), affine, strict=True):
            if value is not None:
                x = draft.node(op, x, self._shaped(value, rank, layer.samples_axis, axes, sizes))
        return draft.reshape(x, shape) if fold else x

    def _other(self, layer: Layer, x: str, shape: list[int]) -> str:
        draft = self.draft
        weight = self.parts[layer.parameter("weight")] if "weight" in layer.values else None
        bias = self.parts[layer.parameter("bias")] if "bias" in layer.values else None
        if layer.kind == "layer":
            first = len(shape) - len(layer.dims)
            if self.banked or len(layer.dims) > 1:
                ones = draft.constant(np.ones(layer.dims, np.float32))
                x = draft.node("LayerNormalization", x, ones, axis=first, epsilon=layer.eps)
                return self._scaled(layer, x, shape, (weight, bias))
            scale = weight or draft.constant(np.ones(layer.dims, np.float32))
            return draft.node("LayerNormalization", x, scale, *([bias] if bias else []), axis=first, epsilon=layer.eps)
        if layer.kind == "instance" and not self.banked and weight and bias:
            return draft.node("InstanceNormalization", x, weight, bias, epsilon=layer.eps)
        groups = layer.groups if layer.kind == "group" else layer.channels
        ones, zeros = draft.constant(np.ones(groups, np.float32)), draft.constant(np.zeros(groups, np.float32))
        if layer.kind == "group":
            x = draft.reshape(x, [0, groups, -1])
        x = draft.node("InstanceNormalization", x, ones, zeros, epsilon=layer.eps)
        if layer.kind == "group":
            x = draft.reshape(x, shape)
        return self._scaled(layer, x, shape, (weight, bias))

    # -- taps ----------------------------------------------------------------------------------------------------

    def _centres(self) -> tuple[str, str]:
        """What z = (x - centre) / spread took off, over all channels `[M]`; 0 and 1 but of batch norms."""
        draft = self.draft
        centres, spreads = [], []
        for layer in self.marked.layers:
            spread = draft.constant(np.ones(layer.channels, np.float32))
            if layer.kind == "batch":
                eps = draft.constant(np.asarray([layer.eps], np.float32))
                centre, var = self._taken_off(layer)
                spread = draft.node("Sqrt", draft.node("Add", var, eps))
            elif layer.kind == "bias" and not self.banked:
                centre = draft.node("Neg", self.parts[layer.parameter("bias")])
            elif layer.kind == "bias":
                centre = draft.constant(-layer.values["bias"])
            else:
                centre = draft.constant(np.zeros(layer.channels, np.float32))
            centres.append(centre)
            spreads.append(spread)
        return draft.concat(centres, axis=0), draft.concat(spreads, axis=0)

    def _taken_off(self, layer: Layer) -> tuple[str, str]:
        """Mean and variance in the first half of a batch norm: theta's; the source's where each sample has its own."""
        if self.banked:
            return self.draft.constant(layer.values["mean"]), self.draft.constant(layer.values["var"])
        return self.parts[layer.parameter("mean")], self.parts[layer.parameter("var")]

    # -- features and the whole ----------------------------------------------------------------------------------

    def _feature(self, node: onnx.NodeProto) -> None:
        shape = list(next(a for a in node.attribute if a.name == "shape").ints)
        x = self.rename.get(node.input[0], node.input[0])
        axis = self.marked.features_axis % len(shape)
        if self.taps:
            rest = [a for a in range(1, len(shape)) if a != axis]
            if rest:
                self.draft.node(
                    "ReduceMean", x, self.draft.constant(np.asarray(rest, np.int64)), out="features", keepdims=0
                )
            else:
                self.draft.node("Identity", x, out="features")
        shift = self._place("feature.shift", len(shape), axis)
        self.rename[node.output[0]] = self.draft.node("Add", x, shift)

    def _model(self) -> onnx.ModelProto:
        def value(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, list(shape))

        inputs = [value(i.name, ["N", *i.shape]) for i in self.marked.inputs]
        if self.banked:
            inputs += [value("slot", ["N"], TensorProto.INT64), value("bank", ["S", self.layout.size])]
        outputs = [value("y", ["N", self.marked.outputs])]
        if self.taps and self.marked.features:
            outputs.append(value("features", ["N", self.marked.features]))
        if self.taps and self.marked.layers:
            outputs.append(value("moments", ["N", 2, sum(b.channels for b in self.marked.layers)]))
        used = {name for node in self.draft.nodes for name in reads(node)}
        named = {p.name for p in self.layout}
        tensors = [t for name, t in self.draft.initializers.items() if name in used or name in named]
        graph = helper.make_graph(self.draft.nodes, "trimtab", inputs, outputs, tensors)
        model = helper.make_model(
            graph,
            opset_imports=[o for o in self.marked.model.opset_import if o.domain != DOMAIN],
            functions=list(self.marked.model.functions),
            ir_version=self.marked.model.ir_version,
            producer_name="trimtab",
        )
        onnx.checker.check_model(model)
        return model


def _values(graph: onnx.GraphProto) -> set[str]:
    """All names of values in a graph, its inputs aside."""
    names = {t.name for t in graph.initializer}
    for node in graph.node:
        names.update(node.output)
    return names
