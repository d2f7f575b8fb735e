"""Drafting of ONNX nodes and initializers, one call a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

PREFIX = "trimtab/"
"""Begins the names of all drafted values and nodes."""


class Draft:
    """The nodes and initializers of a graph that is being written, in order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def fresh(self, hint: str) -> str:
        """A name that no other value has."""
        self._count += 1
        return f"{PREFIX}{hint}_{self._count}"

    def node(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Append a node of one output and return the output's name."""
        name = out or self.fresh(op)
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{PREFIX}{op}_{name}", **attributes))
        return name

    def split(self, value: str, sizes: Sequence[int], axis: int = 1) -> list[str]:
        """Cut `value` along `axis` into parts of those sizes."""
        if len(sizes) == 1:
            return [value]
        names = [self.fresh("part") for _ in sizes]
        cut = self.constant(np.asarray(sizes, np.int64))
        self.nodes.append(helper.make_node("Split", [value, cut], names, name=f"{PREFIX}Split_{names[0]}", axis=axis))
        return names

    def concat(self, values: Sequence[str], axis: int = 1) -> str:
        return values[0] if len(values) == 1 else self.node("Concat", *values, axis=axis)

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        return self.node("Reshape", value, self.constant(np.asarray(shape, np.int64)))

    def average(self, value: str, axes: Sequence[int], keep: bool = False) -> str:
        """ReduceMean, whose axes are an input since opset 18."""
        return self.node("ReduceMean", value, self.constant(np.asarray(axes, np.int64)), keepdims=int(keep))

    def constant(self, array: NDArray[Any]) -> str:
        """An unnamed initializer; equal ones are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.fresh("constant")
            self._constants[key] = name
            self.initializers[name] = numpy_helper.from_array(array, name)
        return self._constants[key]

    def named(self, name: str, array: NDArray[Any]) -> str:
        """An initializer of that very name."""
        self.initializers[name] = numpy_helper.from_array(array, name)
        return name


def reads(node: onnx.NodeProto) -> set[str]:
    """The values that a node reads, also from within its subgraphs."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= reads(inner)
            names.update(o.name for o in graph.output)
    return names


def ending(draft: Draft, outputs: dict[str, str]) -> list[onnx.NodeProto]:
    """The nodes that those outputs (name -> value) need, with the values renamed to what they are put out as; by an
    Identity only where no node makes the value, or it is put out twice."""
    made = {name for node in draft.nodes for name in node.output}
    names: dict[str, str] = {}
    for name, value in outputs.items():
        if value in made and value not in names:
            names[value] = name
        else:
            draft.node("Identity", value, out=name)
    wanted, kept = set(outputs), []
    for node in reversed(draft.nodes):
        node = renamed(node, names)
        if wanted & set(node.output):
            wanted |= reads(node)
            kept.append(node)
    return kept[::-1]


def renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    """A copy of `node` that reads and writes other names, also within its subgraphs."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    _rename(copy, names)
    return copy


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    for field in (node.input, node.output):
        for i, name in enumerate(field):
            field[i] = names.get(name, name)
    for attribute in node.attribute:
        if attribute.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            continue
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                _rename(inner, names)
            for output in graph.output:
                output.name = names.get(output.name, output.name)
