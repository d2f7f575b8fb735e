"""From recorded ATen operators to ONNX nodes.

What depends on nothing but the model's own fixed values is computed here and now (flipped weights, masks of attention),
but for the bundle's parameters, which stay initializers of their names so that others can be patched in. Equal nodes
are written once. The operators themselves are in `operators`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor, fx

from trimtab.exporters.drafting import PREFIX, Draft
from trimtab.exporters.steps.tracing import Recorded
from trimtab.runtime.errors import ExportError

TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.bool: TensorProto.BOOL,
}


@dataclass(frozen=True)
class Value:
    """An ONNX value."""

    name: str


@dataclass(frozen=True)
class Size:
    """A size that depends on the number of samples: an ONNX value, int64 `[1]`."""

    name: str


@dataclass(frozen=True)
class Spread:
    """A value that stands for a wider one, as in the gradient of a mean. It is written out only where an operator does
    not broadcast by itself: `Expand` is slow in ONNX Runtime (6 % of a whole Tent step of a small 1-D CNN)."""

    narrow: str
    shape: str


Node = Any
"""An `fx.Node` whose arguments, of no one type, are taken as the operator's signature has them."""
Operator = Callable[["Translation", Node], Any]
OPERATORS: dict[str, Operator] = {}
"""By the operator's name, as `aten.add.Tensor`."""


def lowers(*names: str) -> Callable[[Operator], Operator]:
    """Register a function that writes those operators: it gives the value's name, or one for each output."""

    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def constants(values: Mapping[str, Tensor], patchable: set[str], draft: Draft) -> tuple[dict[str, Any], dict[int, str]]:
    """What a model's values are in a graph: those that can be patched, initializers; the others, fixed tensors, of
    which the second result says (by `id`) what an initializer of them is called."""
    given: dict[str, Any] = {}
    names: dict[int, str] = {}
    for name, value in values.items():
        if name in patchable:
            given[name] = Value(draft.named(name, value.contiguous().numpy()))
        else:
            given[name] = value.contiguous()
            names[id(given[name])] = name
    return given, names


class Translation:
    """Goes through the recorded nodes once and drafts ONNX nodes."""

    def __init__(self, recorded: Recorded, draft: Draft, given: Mapping[str, Any], names: Mapping[int, str]) -> None:
        """`given`: what the inputs are, but for those that are values of their own names. `names`: see `constants`."""
        self.recorded = recorded
        self.draft = draft
        self.given = given
        self.names = names
        self.values: dict[fx.Node, Any] = {}
        self.written: dict[Any, list[str]] = {}
        self.node: fx.Node

    def run(self) -> list[str]:
        """Draft everything; returns the names of the outputs' values, in order."""
        names = iter(self.recorded.inputs)
        outputs: list[str] = []
        for node in self.recorded.graph.graph.nodes:
            self.node = node
            if node.op == "placeholder":
                name = next(names)
                self.values[node] = self.given.get(name, Value(name))
            elif node.op == "get_attr":
                self.values[node] = getattr(self.recorded.graph, node.target)
            elif node.op == "output":
                outputs = [self.name(v) for v in node.args[0]]
            else:
                self.values[node] = self._computed(node)
        return outputs

    def _computed(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        if self._fixed(node):
            return self._run(node)
        name = str(node.target) if not callable(node.target) or hasattr(node.target, "overloadpacket") else ""
        name = name or getattr(node.target, "__name__", str(node.target))
        function = OPERATORS.get(name)
        if function is None:
            raise self.refusal(f"has the operator {name}, which step graphs do not know")
        found = function(self, node)
        if isinstance(found, str):
            return Value(found)
        return [Value(f) if isinstance(f, str) else f for f in found] if isinstance(found, list) else found

    def refusal(self, why: str) -> ExportError:
        """An error that names the module in which the present operator is used."""
        place = self.recorded.modules.get(self.node) or "the method's own step"
        return ExportError(f"{place}: {why}; leave the module out of what the method runs, or choose another method")

    def _fixed(self, node: fx.Node) -> bool:
        """Whether the node depends on fixed values alone."""
        inputs = node.all_input_nodes
        return all(self._known(self.values[n]) for n in inputs) and "rand" not in str(node.target)

    def fixed(self, arg: Any) -> bool:
        """Whether an argument is a fixed tensor."""
        return isinstance(self.values[arg] if isinstance(arg, fx.Node) else arg, Tensor)

    @staticmethod
    def _known(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return all(isinstance(v, Tensor) for v in value)
        return isinstance(value, (Tensor, int, float))

    def _run(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.values[n])
        with torch.no_grad():
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        return list(result) if isinstance(result, tuple) else result

    # -- what operators are written with ------------------------------------------------------------------------

    def emit(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node's output name, or a list of them; the one of an equal node where there is one."""
        key = (op, inputs, outputs, repr(sorted(attributes.items())))
        if key not in self.written:
            names = [self.draft.fresh(op) for _ in range(outputs)]
            node: NodeProto = helper.make_node(op, list(inputs), names, name=f"{PREFIX}{names[0]}", **attributes)
            self.draft.nodes.append(node)
            self.written[key] = names
        found = self.written[key]
        return found if outputs > 1 else found[0]

    def constant(self, value: Any, dtype: torch.dtype = torch.int64) -> str:
        return self.draft.constant(torch.tensor(value, dtype=dtype).numpy())

    def name(self, arg: Any, dtype: torch.dtype | None = None) -> str:
        """The ONNX value of an argument: a node, a fixed tensor or a number; cast to `dtype` where that is given."""
        have: torch.dtype | None
        if isinstance(arg, fx.Node):
            value, have = self.values[arg], dtype_of(arg)
        else:
            value, have = arg, arg.dtype if isinstance(arg, Tensor) else None
        if isinstance(value, Size):
            wanted = dtype or torch.int64
            scalar = self.emit("Reshape", value.name, self.draft.constant(np.zeros(0, np.int64)))
            return self.cast(scalar, torch.int64, wanted)
        if isinstance(value, Tensor):
            return self._initializer(value if dtype is None else value.to(dtype), value)
        if isinstance(value, (bool, int, float)):
            plain = torch.float32 if isinstance(value, float) else torch.int64
            return self.constant(value, dtype or (torch.bool if isinstance(value, bool) else plain))
        if isinstance(value, Spread):
            value = Value(self.emit("Expand", value.narrow, value.shape))
        if not isinstance(value, Value):
            raise self.refusal("has an operator of an argument that step graphs do not know")
        return self.cast(value.name, have, dtype)

    def _initializer(self, value: Tensor, origin: Tensor) -> str:
        name = self.names.get(id(origin))
        if name is None or value is not origin:
            return self.draft.constant(value.detach().contiguous().numpy())
        return self.draft.named(name, value.detach().numpy())

    def cast(self, name: str, have: torch.dtype | None, wanted: torch.dtype | None) -> str:
        if wanted is None or have == wanted:
            return name
        if wanted not in TYPES:
            raise self.refusal(f"computes in {str(wanted).removeprefix('torch.')}, which step graphs do not know")
        found: str = self.emit("Cast", name, to=TYPES[wanted])
        return found

    def shape(self, sizes: Sequence[Any]) -> str:
        """An int64 vector of sizes: numbers, and nodes that hold a size."""
        known = [self.values[s] if isinstance(s, fx.Node) else s for s in sizes]
        if all(isinstance(s, int) for s in known):
            return self.constant([int(s) for s in known])
        pieces = [s.name if isinstance(s, Size) else self.constant([int(s)]) for s in known]
        found: str = self.emit("Concat", *pieces, axis=0)
        return found

    def reshape(self, name: str, sizes: Sequence[Any]) -> str:
        """With one size that depends on the number of samples, it is what is left: -1."""
        known = [self.values[s] if isinstance(s, fx.Node) else s for s in sizes]
        free = [i for i, s in enumerate(known) if isinstance(s, (Size, torch.SymInt))]
        if len(free) == 1 and -1 not in known:
            known[free[0]] = -1
        found: str = self.emit("Reshape", name, self.shape(known))
        return found


def dtype_of(node: fx.Node) -> torch.dtype:
    value = node.meta["val"]
    if isinstance(value, (torch.SymFloat, float)):
        return torch.float32
    return value.dtype if isinstance(value, Tensor) else torch.int64


def shape_of(node: fx.Node) -> list[Any]:
    """Sizes of a node's value: numbers, or SymInt where they depend on the number of samples."""
    return list(node.meta["val"].shape)


def rank_of(node: fx.Node) -> int:
    rank: int = node.meta["val"].dim()
    return rank


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """One that may be given by place or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def axes_of(node: Node, axes: Any) -> list[int]:
    """Axes of a node's first argument, counted from the front; None and none: all."""
    rank = rank_of(node.args[0])
    if axes is None or axes == []:
        return list(range(rank))
    return [a % rank for a in ([axes] if isinstance(axes, int) else axes)] if rank else []
