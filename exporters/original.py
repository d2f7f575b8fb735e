"""What the graphs of an imported bundle must agree with: the file itself, run in ONNX Runtime with given parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trimtab.exporters.marked import Array, Marked
from trimtab.exporters.onnx_file import Graph, Place
from trimtab.exporters.survey import session

OWN = "trimtab.parameter."
"""Begins the names of the initializers that are put into the file, which may have any names itself."""
SHIFTED = "trimtab.shifted"


class Original:
    """Runs the file as it is but for parameters, which are set on its nodes; gives y and the taps.

    Shares no code with lowering: moments are taken in float64 from the values that go into the norms.
    """

    def __init__(
        self, model: onnx.ModelProto, marked: Marked, graph: Graph, places: list[Place], features: str
    ) -> None:
        self.marked = marked
        self.layout = marked.layout()
        self.places = places
        self.logits = graph.logits
        self.features = features
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.model.ir_version = max(model.ir_version, 7)  # initializers need not be inputs since 4
        self.untouched = session(self.model.SerializeToString())
        self._prepare(graph)

    def file(self, inputs: dict[str, Array]) -> NDArray[Any]:
        """The file's own output on inputs in sensor units, as trained."""
        result: NDArray[Any] = self.untouched.run(None, self._feed(inputs, self.marked.theta()))[0]
        return result

    def __call__(self, inputs: dict[str, Array], theta: Array) -> dict[str, NDArray[Any]]:
        """`y [N, K]` (logits, where the file ends in a Softmax), and as there are `features` and `moments`."""
        for tensor in self.model.graph.initializer:
            if tensor.name.startswith(OWN):
                value = self.layout.view(theta, tensor.name.removeprefix(OWN)).reshape(tuple(tensor.dims))
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
        run = session(self.model.SerializeToString())
        names = [o.name for o in run.get_outputs()]
        values = dict(zip(names, run.run(names, self._feed(inputs, theta)), strict=True))
        out = {"y": values[self.logits] + self.layout.view(theta, "output.shift")}
        if self.features:
            value = np.moveaxis(values[self.features], self.marked.features_axis, 1)
            out["features"] = value.reshape(len(value), self.marked.features, -1).mean(2)
        if self.places:
            out["moments"] = np.concatenate([self._moments(p, values[p.source], theta) for p in self.places], axis=2)
        return out

    def _prepare(self, graph: Graph) -> None:
        """Give every norm initializers of its own, shift the features, and put out all that is looked at."""
        proto = self.model.graph
        by_node = {p.node: p for p in self.places}
        head = graph.head()
        nodes: list[onnx.NodeProto] = []
        for node in proto.node:
            place = by_node.get(node.output[0])
            if place is not None:
                for part, at in place.inputs.items():
                    name = OWN + place.layer.parameter(part)
                    value = place.layer.values[part].reshape(place.shapes[part])
                    proto.initializer.append(numpy_helper.from_array(value, name))
                    node.input[at] = name
            if self.features and head is not None and node.output[0] == head.output[0]:
                spatial = len(graph.constants[head.input[1]].dims) - 2 if head.op_type == "Conv" else 0
                shift = np.zeros([self.marked.features] + [1] * spatial, np.float32)
                proto.initializer.append(numpy_helper.from_array(shift, f"{OWN}feature.shift"))
                nodes.append(helper.make_node("Add", [self.features, f"{OWN}feature.shift"], [SHIFTED]))
                node.input[0] = SHIFTED
            nodes.append(node)
        del proto.node[:]
        proto.node.extend(nodes)
        del proto.output[:]
        wanted = [self.logits, *([self.features] if self.features else []), *(p.source for p in self.places)]
        proto.output.extend(onnx.ValueInfoProto(name=v) for v in dict.fromkeys(wanted))

    def _feed(self, inputs: dict[str, Array], theta: Array) -> dict[str, NDArray[Any]]:
        feed: dict[str, NDArray[Any]] = {}
        for entry in self.marked.inputs:
            x = inputs[entry.name]
            if entry.name in self.marked.integers:
                feed[entry.name] = x.astype(np.int64)
                continue
            column = (1, -1) + (1,) * (x.ndim - 2)
            if entry.calibration is not None:
                prefix = f"input.{entry.name}"
                if entry.calibration.orders:
                    x = x[:, self.layout.view(theta, f"{prefix}.order").astype(np.int64)]
                gain, offset = (self.layout.view(theta, f"{prefix}.{part}") for part in ("gain", "offset"))
                x = gain.reshape(column) * x + offset.reshape(column)
            if entry.mean:
                x = x - np.asarray(entry.mean, np.float32).reshape(column)
            if entry.std:
                x = x / np.asarray(entry.std, np.float32).reshape(column)
            feed[entry.name] = x
        return feed

    def _moments(self, place: Place, value: NDArray[Any], theta: Array) -> NDArray[np.float64]:
        layer = place.layer
        wide = value.astype(np.float64)
        if place.source == place.node:  # the bias is an input of the node: take it off again
            bias = self.layout.view(theta, layer.parameter("bias"))
            wide = wide - bias.reshape([-1 if a == layer.axes(wide.ndim)[0] else 1 for a in range(wide.ndim)])
        if layer.kind == "layer":
            wide = np.moveaxis(wide, layer.samples_axis, 0)
        else:
            wide = np.moveaxis(wide, layer.axes(wide.ndim)[0], -1)
        wide = wide.reshape(len(wide), -1, layer.channels)
        return np.stack([wide.mean(1), wide.var(1)], axis=1)
