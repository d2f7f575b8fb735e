"""The ATen operators that step graphs know, each as ONNX nodes (opset 18)."""

from __future__ import annotations

import operator
import sys
from math import prod
from typing import Any

import numpy as np
import torch
from onnx import helper
from torch import fx

from trimtab.exporters.steps.translation import (
    TYPES,
    Node,
    Operator,
    Size,
    Spread,
    Translation,
    Value,
    dtype_of,
    lowers,
    rank_of,
    shape_of,
)

EPSILON = 2.0**-16
"""For a batch norm of unit variance: cuDNN takes none below 1e-5, and 1 - EPSILON is exact in float32."""


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


# -- one value in, one out ---------------------------------------------------------------------------------------


def _unary(op: str) -> Operator:
    def write(t: Translation, node: Node) -> Any:
        value, dtype = t.values[node.args[0]], dtype_of(node)
        if isinstance(value, Spread) and dtype_of(node.args[0]) == dtype:
            return Spread(t.emit(op, value.narrow), value.shape)
        return t.emit(op, t.name(node.args[0], dtype))

    return write


for _name, _op in {
    "abs": "Abs",
    "acos": "Acos",
    "asin": "Asin",
    "atan": "Atan",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "logical_not": "Not",
    "bitwise_not": "Not",
    "neg": "Neg",
    "reciprocal": "Reciprocal",
    "relu": "Relu",
    "round": "Round",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}.items():
    lowers(f"aten.{_name}.default")(_unary(_op))


@lowers("aten.rsqrt.default")
def _rsqrt(t: Translation, node: Node) -> Any:
    return t.emit("Reciprocal", t.emit("Sqrt", t.name(node.args[0])))


@lowers("aten.expm1.default")
def _expm1(t: Translation, node: Node) -> Any:
    return t.emit("Sub", t.emit("Exp", t.name(node.args[0])), t.name(1.0))


@lowers("aten.log1p.default")
def _log1p(t: Translation, node: Node) -> Any:
    return t.emit("Log", t.emit("Add", t.name(node.args[0]), t.name(1.0)))


@lowers("aten.isnan.default")
def _isnan(t: Translation, node: Node) -> Any:
    return t.emit("IsNaN", t.name(node.args[0]))


@lowers("aten.isinf.default")
def _isinf(t: Translation, node: Node) -> Any:
    return t.emit("IsInf", t.name(node.args[0]))


@lowers(
    "aten.alias.default",
    "aten.clone.default",
    "aten.detach.default",
    "aten.lift_fresh_copy.default",
    "aten.contiguous.default",
)
def _same(t: Translation, node: Node) -> Any:
    return t.values[node.args[0]]


@lowers("aten._to_copy.default")
def _to_copy(t: Translation, node: Node) -> Any:
    return t.name(node.args[0], dtype_of(node))


@lowers("aten.copy.default")
def _copy(t: Translation, node: Node) -> Any:
    return _expanded(t, t.name(node.args[1], dtype_of(node)), node.args[0])


@lowers("aten.gelu.default")
def _gelu(t: Translation, node: Node) -> Any:
    x = t.name(node.args[0])
    half, one = t.name(0.5), t.name(1.0)
    if node.kwargs.get("approximate", "none") == "tanh":
        cube = t.emit("Mul", t.emit("Mul", x, x), x)
        inner = t.emit("Mul", t.emit("Add", x, t.emit("Mul", cube, t.name(0.044715))), t.name((2 / torch.pi) ** 0.5))
        factor = t.emit("Tanh", inner)
    else:
        factor = t.emit("Erf", t.emit("Mul", x, t.name(0.5**0.5)))
    return t.emit("Mul", t.emit("Mul", x, half), t.emit("Add", factor, one))


@lowers("aten.hardtanh.default", "aten.clamp.default")
def _clamp(t: Translation, node: Node) -> Any:
    hard = "hardtanh" in str(node.target)
    dtype = dtype_of(node)
    low, high = argument(node, 1, "min", -1.0 if hard else None), argument(node, 2, "max", 1.0 if hard else None)
    bounds = ["" if b is None else t.name(b, dtype) for b in (low, high)]
    return t.emit("Clip", t.name(node.args[0], dtype), *(bounds if bounds[1] else bounds[:1]))


@lowers("aten.clamp.Tensor", "aten.clamp_min.Tensor", "aten.clamp_max.Tensor")
def _clamp_tensor(t: Translation, node: Node) -> Any:
    value = t.name(node.args[0], dtype_of(node))
    upper = "clamp_max" in str(node.target)
    low, high = (None, node.args[1]) if upper else (argument(node, 1, "min"), argument(node, 2, "max"))
    for op, bound in (("Max", low), ("Min", high)):
        value = value if bound is None else t.emit(op, value, t.name(bound, dtype_of(node)))
    return value


@lowers("aten.leaky_relu.default")
def _leaky(t: Translation, node: Node) -> Any:
    return t.emit("LeakyRelu", t.name(node.args[0]), alpha=float(argument(node, 1, "negative_slope", 0.01)))


@lowers("aten.elu.default")
def _elu(t: Translation, node: Node) -> Any:
    alpha, scale, inner = (
        float(argument(node, i, n, 1.0)) for i, n in ((1, "alpha"), (2, "scale"), (3, "input_scale"))
    )
    if inner != 1.0:
        raise t.refusal("has an ELU that scales its input")
    y = t.emit("Elu", t.name(node.args[0]), alpha=alpha)
    return y if scale == 1.0 else t.emit("Mul", y, t.name(scale))


# -- two values in, one out --------------------------------------------------------------------------------------


def _common(node: Node) -> torch.dtype:
    """The type in which two arguments are compared."""
    given = [a.meta["val"] if isinstance(a, fx.Node) else a for a in node.args[:2]]
    if any(isinstance(g, (torch.SymInt, torch.SymFloat)) for g in given):
        tensors = [g.dtype for g in given if isinstance(g, torch.Tensor)]
        return tensors[0] if tensors else torch.int64
    return torch.result_type(*given)


def _binary(op: str, common: bool = False) -> Operator:
    def write(t: Translation, node: Node) -> Any:
        dtype = _common(node) if common else dtype_of(node)
        one, other = node.args[:2]
        (a, wide), (b, as_wide) = _side(t, node, one, other, dtype), _side(t, node, other, one, dtype)
        alpha = node.kwargs.get("alpha", 1)
        if alpha != 1:
            b = t.emit("Mul", b, t.name(alpha, dtype))
        found = t.emit(op, a, b)
        return Spread(found, wide or as_wide) if wide or as_wide else found

    return write


def _side(t: Translation, node: Node, arg: Any, other: Any, dtype: torch.dtype) -> tuple[str, str]:
    """One argument of two; and, where the result stands for a wider value as the argument does, that one's shape."""
    value = t.values[arg] if isinstance(arg, fx.Node) else arg
    if isinstance(arg, (int, float)) and isinstance(other, fx.Node) and isinstance(t.values[other], Spread):
        # Of the value's rank: with one of no axes ONNX Runtime goes over a last axis of size 1 value by value.
        return t.constant(np.full([1] * rank_of(node), arg).tolist(), dtype), ""
    if isinstance(value, Spread) and dtype_of(arg) == dtype:
        scalar = not isinstance(other, fx.Node) or not isinstance(other.meta["val"], torch.Tensor) or not rank_of(other)
        if scalar:
            return value.narrow, value.shape
        if not isinstance(t.values[other], Spread) and shape_of(other) == shape_of(node):
            return value.narrow, ""
    return t.name(arg, dtype), ""


for _name, _op in {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "maximum": "Max",
    "minimum": "Min",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_xor": "Xor",
    "remainder": "Mod",
}.items():
    lowers(f"aten.{_name}.default", f"aten.{_name}.Tensor", f"aten.{_name}.Scalar")(_binary(_op))
for _name, _op in {
    "eq": "Equal",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "lt": "Less",
    "le": "LessOrEqual",
}.items():
    lowers(f"aten.{_name}.Tensor", f"aten.{_name}.Scalar")(_binary(_op, common=True))
lowers("aten.div.Tensor", "aten.div.Scalar")(_binary("Div"))


@lowers("aten.rsub.Scalar", "aten.rsub.Tensor")
def _rsub(t: Translation, node: Node) -> Any:
    return t.emit("Sub", t.name(node.args[1], dtype_of(node)), t.name(node.args[0]))


@lowers("aten.ne.Tensor", "aten.ne.Scalar")
def _ne(t: Translation, node: Node) -> Any:
    return t.emit("Not", _binary("Equal", common=True)(t, node))


@lowers("aten.bitwise_and.Tensor", "aten.bitwise_and.Scalar")
def _and(t: Translation, node: Node) -> Any:
    return _binary("And" if dtype_of(node) is torch.bool else "BitwiseAnd")(t, node)


@lowers("aten.bitwise_or.Tensor", "aten.bitwise_or.Scalar")
def _or(t: Translation, node: Node) -> Any:
    return _binary("Or" if dtype_of(node) is torch.bool else "BitwiseOr")(t, node)


@lowers("aten.bitwise_xor.Tensor", "aten.bitwise_xor.Scalar")
def _xor(t: Translation, node: Node) -> Any:
    return _binary("Xor" if dtype_of(node) is torch.bool else "BitwiseXor")(t, node)


@lowers("aten.div.Tensor_mode", "aten.div.Scalar_mode", "aten.floor_divide.default")
def _divide_whole(t: Translation, node: Node) -> Any:
    dtype = dtype_of(node)
    a, b = (t.name(x, dtype) for x in node.args[:2])
    if dtype.is_floating_point:
        return t.emit("Floor" if node.kwargs.get("rounding_mode", "floor") == "floor" else "Trunc", t.emit("Div", a, b))
    if node.kwargs.get("rounding_mode", "floor") == "floor":
        a = t.emit("Sub", a, t.emit("Mod", a, b))
    return t.emit("Div", a, b)


@lowers("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def _pow(t: Translation, node: Node) -> Any:
    dtype = dtype_of(node)
    base = t.name(node.args[0], dtype)
    if node.args[1] == 1:
        return base
    if node.args[1] == 2:
        return t.emit("Mul", base, base)
    return t.emit("Pow", base, t.name(node.args[1], dtype))


@lowers("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def _where(t: Translation, node: Node) -> Any:
    dtype = dtype_of(node)
    which, a, b = t.name(node.args[0]), t.name(node.args[1], dtype), t.name(node.args[2], dtype)
    if dtype is torch.bool:  # ONNX Runtime's Where has none
        return t.emit("Or", t.emit("And", which, a), t.emit("And", t.emit("Not", which), b))
    return t.emit("Where", which, a, b)


@lowers("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _masked_fill(t: Translation, node: Node) -> Any:
    dtype = dtype_of(node)
    return t.emit("Where", t.name(node.args[1]), t.name(node.args[2], dtype), t.name(node.args[0], dtype))


# -- sizes -------------------------------------------------------------------------------------------------------


@lowers("aten.sym_size.int")
def _size(t: Translation, node: Node) -> Size:
    axis = int(node.args[1])
    return Size(t.emit("Shape", t.name(node.args[0]), start=axis, end=axis + 1))


@lowers("aten.sym_numel.default")
def _numel(t: Translation, node: Node) -> Size:
    return Size(t.emit("Reshape", t.emit("Size", t.name(node.args[0])), t.constant([1])))


def _arithmetic(op: str) -> Operator:
    def write(t: Translation, node: Node) -> Size:
        sides = [t.values[a] if isinstance(a, fx.Node) else a for a in node.args]
        return Size(t.emit(op, *(s.name if isinstance(s, Size) else t.constant([s]) for s in sides)))

    return write


for _name, _op in {"mul": "Mul", "add": "Add", "sub": "Sub", "floordiv": "Div"}.items():
    lowers(_name)(_arithmetic(_op))


@lowers("truediv")
def _ratio(t: Translation, node: Node) -> Any:
    """Of sizes: a number."""
    return t.emit("Div", *(t.name(a, torch.float32) for a in node.args))


# -- reductions --------------------------------------------------------------------------------------------------


def _axes(node: Node, axes: Any) -> list[int]:
    rank = rank_of(node.args[0])
    if axes is None or axes == []:
        return list(range(rank))
    return [a % rank for a in ([axes] if isinstance(axes, int) else axes)] if rank else []


def _reduction(op: str, place: int = 1) -> Operator:
    """`place`: of the axes among the arguments."""

    def write(t: Translation, node: Node) -> Any:
        keep = bool(argument(node, place + 1, "keepdim", False))
        x = t.name(node.args[0], dtype_of(node))
        axes = _axes(node, argument(node, place, "dim"))
        if not rank_of(node.args[0]):
            return x
        if op in ("ReduceSum", "ReduceMean") and len(axes) > 1 and axes == [0, *range(2, rank_of(node.args[0]))]:
            # All axes but the channel's: ONNX Runtime takes two thirds of the time for one after the other.
            x, axes = t.emit(op, x, t.constant(axes[1:]), keepdims=int(keep)), [0]
        return t.emit(op, x, t.constant(axes), keepdims=int(keep))

    return write


lowers("aten.sum.dim_IntList", "aten.sum.default")(_reduction("ReduceSum"))
lowers("aten.mean.dim", "aten.mean.default")(_reduction("ReduceMean"))
lowers("aten.amax.default", "aten.max.default")(_reduction("ReduceMax"))
lowers("aten.amin.default", "aten.min.default")(_reduction("ReduceMin"))
lowers("aten.prod.dim_int")(_reduction("ReduceProd"))
lowers("aten.linalg_vector_norm.default")(_reduction("ReduceL2", 2))


@lowers("aten.any.default", "aten.any.dim", "aten.any.dims", "aten.all.default", "aten.all.dim", "aten.all.dims")
def _any(t: Translation, node: Node) -> Any:
    op = "ReduceMax" if ".any." in str(node.target) else "ReduceMin"
    x = t.cast(t.name(node.args[0], torch.bool), torch.bool, torch.int32)
    keep = int(bool(argument(node, 2, "keepdim", False)))
    found = t.emit(op, x, t.constant(_axes(node, argument(node, 1, "dim"))), keepdims=keep)
    return t.emit("Cast", found, to=TYPES[torch.bool])


@lowers("aten.argmax.default", "aten.argmin.default")
def _argmax(t: Translation, node: Node) -> Any:
    op = "ArgMax" if "argmax" in str(node.target) else "ArgMin"
    axis = argument(node, 1, "dim")
    x = t.name(node.args[0])
    if axis is None:
        x, axis = t.emit("Reshape", x, t.constant([-1])), 0
    return t.emit(op, x, axis=int(axis), keepdims=int(bool(argument(node, 2, "keepdim", False))))


@lowers("aten.max.dim", "aten.min.dim")
def _max_dim(t: Translation, node: Node) -> Any:
    largest = ".max." in str(node.target)
    axis, keep = int(node.args[1]), int(bool(argument(node, 2, "keepdim", False)))
    x = t.name(node.args[0])
    values = t.emit("ReduceMax" if largest else "ReduceMin", x, t.constant([axis]), keepdims=keep)
    return [values, t.emit("ArgMax" if largest else "ArgMin", x, axis=axis, keepdims=keep)]


@lowers("aten.topk.default")
def _topk(t: Translation, node: Node) -> Any:
    count = t.shape([node.args[1]])
    largest = int(bool(argument(node, 3, "largest", True)))
    return t.emit(
        "TopK", t.name(node.args[0]), count, outputs=2, axis=int(argument(node, 2, "dim", -1)), largest=largest
    )


@lowers("aten.sort.default")
def _sort(t: Translation, node: Node) -> Any:
    axis = int(argument(node, 1, "dim", -1))
    x = t.name(node.args[0])
    count = t.emit("Shape", x, start=axis, **({"end": axis + 1} if axis != -1 else {}))
    return t.emit("TopK", x, count, outputs=2, axis=axis, largest=int(bool(argument(node, 2, "descending", False))))


@lowers("aten.cumsum.default")
def _cumsum(t: Translation, node: Node) -> Any:
    return t.emit("CumSum", t.name(node.args[0], dtype_of(node)), t.name(node.args[1]))


# -- shapes ------------------------------------------------------------------------------------------------------


@lowers("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default")
def _view(t: Translation, node: Node) -> Any:
    if shape_of(node.args[0]) == shape_of(node):
        return t.values[node.args[0]]
    return t.reshape(t.name(node.args[0]), node.args[1])


@lowers("aten.permute.default")
def _permute(t: Translation, node: Node) -> Any:
    order = [int(a) % rank_of(node) for a in node.args[1]]
    return t.emit("Transpose", t.name(node.args[0]), perm=order)


@lowers("aten.transpose.int", "aten.t.default")
def _transpose(t: Translation, node: Node) -> Any:
    order = list(range(rank_of(node)))
    a, b = (int(argument(node, i, "", i - 1)) for i in (1, 2))
    order[a], order[b] = order[b], order[a]
    return t.emit("Transpose", t.name(node.args[0]), perm=order)


@lowers("aten.unsqueeze.default")
def _unsqueeze(t: Translation, node: Node) -> Any:
    axis = int(node.args[1]) % rank_of(node)
    return t.emit("Unsqueeze", t.name(node.args[0]), t.constant([axis]))


@lowers("aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default")
def _squeeze(t: Translation, node: Node) -> Any:
    sizes = shape_of(node.args[0])
    axes = [a for a in _axes(node, argument(node, 1, "dim")) if isinstance(sizes[a], int) and sizes[a] == 1]
    return t.emit("Squeeze", t.name(node.args[0]), t.constant(axes)) if axes else t.values[node.args[0]]


@lowers("aten.expand.default")
def _expand(t: Translation, node: Node) -> Any:
    wanted = [1 if s == -1 else s for s in node.args[1]]
    return Spread(t.name(node.args[0]), t.shape(wanted))


def _expanded(t: Translation, name: str, like: Any) -> Any:
    return t.emit("Expand", name, t.emit("Shape", t.name(like)))


@lowers("aten.repeat.default")
def _repeat(t: Translation, node: Node) -> Any:
    times: Any = node.args[1]
    more = len(times) - rank_of(node.args[0])
    x = t.name(node.args[0])
    if more:
        x = t.emit("Unsqueeze", x, t.constant(list(range(more))))
    return t.emit("Tile", x, t.shape(times))


@lowers("aten.cat.default")
def _cat(t: Translation, node: Node) -> Any:
    pieces: Any = node.args[0]
    return t.emit("Concat", *(t.name(p, dtype_of(node)) for p in pieces), axis=int(argument(node, 1, "dim", 0)))


@lowers("aten.split_with_sizes.default")
def _split(t: Translation, node: Node) -> Any:
    sizes: Any = node.args[1]
    x = t.name(node.args[0])
    if len(sizes) == 1:
        return [x]
    return t.emit("Split", x, t.shape(sizes), outputs=len(sizes), axis=int(argument(node, 2, "dim", 0)))


@lowers("aten.slice.Tensor")
def _slice(t: Translation, node: Node) -> Any:
    axis = int(argument(node, 1, "dim", 0))
    start, end = argument(node, 2, "start") or 0, argument(node, 3, "end")
    end = sys.maxsize if end is None else end
    pieces = [t.shape([start]), t.shape([end]), t.constant([axis]), t.shape([argument(node, 4, "step", 1)])]
    return t.emit("Slice", t.name(node.args[0]), *pieces)


@lowers("aten.select.int")
def _select(t: Translation, node: Node) -> Any:
    return t.emit("Gather", t.name(node.args[0]), t.name(node.args[2]), axis=int(node.args[1]))


@lowers("aten.flip.default")
def _flip(t: Translation, node: Node) -> Any:
    axes = _axes(node, node.args[1])
    ends = [t.constant([v] * len(axes)) for v in (-1, -sys.maxsize)]
    return t.emit("Slice", t.name(node.args[0]), *ends, t.constant(axes), t.constant([-1] * len(axes)))


@lowers("aten.constant_pad_nd.default")
def _pad(t: Translation, node: Node) -> Any:
    pads: Any = node.args[1]
    axes = [rank_of(node) - 1 - i for i in range(len(pads) // 2)]
    edges = t.constant([*pads[0::2], *pads[1::2]])
    return t.emit(
        "Pad", t.name(node.args[0]), edges, t.name(argument(node, 2, "value", 0), dtype_of(node)), t.constant(axes)
    )


# -- choosing ----------------------------------------------------------------------------------------------------


@lowers("aten.index_select.default")
def _index_select(t: Translation, node: Node) -> Any:
    return t.emit("Gather", t.name(node.args[0]), t.name(node.args[2]), axis=int(node.args[1]))


@lowers("aten.embedding.default")
def _embedding(t: Translation, node: Node) -> Any:
    return t.emit("Gather", t.name(node.args[0]), t.name(node.args[1]), axis=0)


@lowers("aten.index.Tensor")
def _index(t: Translation, node: Node) -> Any:
    chosen: Any = node.args[1]
    used = [(axis, index) for axis, index in enumerate(chosen) if index is not None]
    if any(i.meta["val"].dtype is torch.bool if isinstance(i, fx.Node) else False for _, i in used):
        raise t.refusal("takes values by a mask, whose number is not known before; use torch.where")
    if len(used) == 1:
        return t.emit("Gather", t.name(node.args[0]), t.name(used[0][1]), axis=used[0][0])
    if [axis for axis, _ in used] != list(range(len(used))):
        raise t.refusal("indexes several axes that are not the first ones")
    rank = max(rank_of(i) for _, i in used)
    shape: Any = torch.broadcast_shapes(*(tuple(shape_of(i)) for _, i in used))  # type: ignore[no-untyped-call]
    if any(isinstance(s, torch.SymInt) for s in shape):
        raise t.refusal("indexes several axes by a number of samples")
    wide = [t.emit("Expand", t.name(i), t.constant([int(s) for s in shape])) for _, i in used]
    columns = [t.emit("Unsqueeze", w, t.constant([rank])) for w in wide]
    return t.emit("GatherND", t.name(node.args[0]), t.emit("Concat", *columns, axis=rank))


@lowers("aten.gather.default")
def _gather(t: Translation, node: Node) -> Any:
    return t.emit("GatherElements", t.name(node.args[0]), t.name(node.args[2]), axis=int(node.args[1]))


@lowers("aten.scatter.src", "aten.scatter.value", "aten.scatter_add.default")
def _scatter(t: Translation, node: Node) -> Any:
    new = t.name(node.args[3], dtype_of(node))
    index = t.name(node.args[2])
    if not isinstance(node.args[3], fx.Node):
        new = t.emit("Expand", new, t.emit("Shape", index))
    more: dict[str, Any] = {"reduction": "add"} if "scatter_add" in str(node.target) else {}
    return t.emit("ScatterElements", t.name(node.args[0]), index, new, axis=int(node.args[1]), **more)


@lowers("aten.index_put.default")
def _index_put(t: Translation, node: Node) -> Any:
    """Values added to rows of the first axis, as the gradient of an embedding is."""
    indices: Any = node.args[1]
    if len(indices) != 1 or not argument(node, 3, "accumulate", False):
        raise t.refusal("puts values at places of several axes, or in place of those there")
    rows = t.emit("Unsqueeze", t.name(indices[0]), t.constant([rank_of(indices[0])]))
    return t.emit("ScatterND", t.name(node.args[0]), rows, t.name(node.args[2], dtype_of(node)), reduction="add")


@lowers("aten.select_scatter.default")
def _select_scatter(t: Translation, node: Node) -> Any:
    axis, at = int(argument(node, 2, "dim", 0)), int(argument(node, 3, "index"))
    return _put(t, node, axis, at, at + 1, t.emit("Unsqueeze", t.name(node.args[1]), t.constant([axis])))


@lowers("aten.slice_scatter.default")
def _slice_scatter(t: Translation, node: Node) -> Any:
    axis, start, end = (
        int(argument(node, 2, "dim", 0)),
        argument(node, 3, "start") or 0,
        argument(node, 4, "end"),
    )
    if argument(node, 5, "step", 1) != 1:
        raise t.refusal("writes into every n-th value of an axis")
    size = shape_of(node)[axis]
    end = size if end is None or (isinstance(end, int) and isinstance(size, int) and end > size) else end
    if not isinstance(start, int) or not (isinstance(end, (int, torch.SymInt))):
        raise t.refusal("writes into a part of an axis whose place depends on the number of samples")
    return _put(t, node, axis, start, end, t.name(node.args[1]))


def _put(t: Translation, node: Node, axis: int, start: int, end: Any, new: str) -> Any:
    """`node.args[0]` with what lies from start to end on the axis replaced."""
    x, size = t.name(node.args[0]), shape_of(node)[axis]
    at = t.constant([axis])
    pieces = []
    if start % size if isinstance(size, int) else start:
        pieces.append(t.emit("Slice", x, t.constant([0]), t.constant([start]), at))
    pieces.append(new)
    if isinstance(end, int) and not (isinstance(size, int) and end >= size) and end != sys.maxsize and end != 0:
        pieces.append(t.emit("Slice", x, t.constant([end]), t.constant([sys.maxsize]), at))
    return t.emit("Concat", *pieces, axis=axis) if len(pieces) > 1 else pieces[0]


# -- new values --------------------------------------------------------------------------------------------------


@lowers("aten.full.default", "aten.zeros.default", "aten.ones.default", "aten.empty.memory_format")
def _full(t: Translation, node: Node) -> Any:
    value = argument(node, 1, "fill_value", 0) if ".full." in str(node.target) else int(".ones." in str(node.target))
    return t.emit("Expand", t.name(value, dtype_of(node)), t.shape(node.args[0]))


@lowers("aten.new_empty_strided.default", "aten.new_empty.default")
def _new(t: Translation, node: Node) -> Any:
    return t.emit("Expand", t.name(0, dtype_of(node)), t.shape(node.args[1]))


@lowers("aten.full_like.default", "aten.zeros_like.default", "aten.ones_like.default", "aten.new_zeros.default")
def _full_like(t: Translation, node: Node) -> Any:
    target = str(node.target)
    value = argument(node, 1, "fill_value") if "full_like" in target else int("ones" in target)
    sizes = shape_of(node)
    if all(isinstance(s, int) for s in sizes):
        return torch.full(sizes, value, dtype=dtype_of(node))
    if "new_zeros" in target:
        return t.emit("Expand", t.name(value, dtype_of(node)), t.shape(node.args[1]))
    return _expanded(t, t.name(value, dtype_of(node)), node.args[0])


@lowers("aten.scalar_tensor.default")
def _scalar(t: Translation, node: Node) -> Any:
    return t.name(node.args[0], dtype_of(node))


@lowers("aten.arange.start_step", "aten.arange.default", "aten.arange.start")
def _arange(t: Translation, node: Node) -> Any:
    bounds = list(node.args)
    start, end = (0, bounds[0]) if len(bounds) == 1 else bounds[:2]
    step = bounds[2] if len(bounds) > 2 else 1
    return t.emit("Range", *(t.name(v, dtype_of(node)) for v in (start, end, step)))


# -- products ----------------------------------------------------------------------------------------------------


@lowers("aten.mm.default", "aten.bmm.default", "aten.matmul.default", "aten.mv.default", "aten.dot.default")
def _matmul(t: Translation, node: Node) -> Any:
    return t.emit("MatMul", t.name(node.args[0]), t.name(node.args[1]))


@lowers("aten.addmm.default")
def _addmm(t: Translation, node: Node) -> Any:
    bias, a, b = (t.name(x) for x in node.args[:3])
    return t.emit("Gemm", a, b, bias)


@lowers("aten.convolution.default")
def _convolution(t: Translation, node: Node) -> Any:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args[:9]
    rank = rank_of(node) - 2
    kernel = shape_of(weight)[2:]
    strides, edges, dilations, more = (_spread(v, rank) for v in (stride, padding, dilation, output_padding))
    inputs = [t.name(x), t.name(weight), *([t.name(bias)] if bias is not None else [])]
    attributes: dict[str, Any] = {"strides": strides, "pads": edges * 2, "dilations": dilations, "group": groups}
    if all(isinstance(k, int) for k in kernel):
        attributes["kernel_shape"] = kernel
    if transposed:
        return t.emit("ConvTranspose", *inputs, output_padding=more, **attributes)
    if rank == 1 and t.fixed(weight):
        return _row_convolution(t, inputs, attributes)
    return t.emit("Conv", *inputs, **attributes)


def _row_convolution(t: Translation, inputs: list[str], attributes: dict[str, Any]) -> Any:
    """Over one axis, written as one over two of which the first has size 1: only those over two have ONNX Runtime's
    direct kernels (a whole Tent step of a small 1-D CNN takes 12 % less; the convolution alone, strided 1.5 times and
    depthwise 4 times less). Only with fixed weights, as these kernels need them."""
    height = t.constant([2])
    x, weight = (t.emit("Unsqueeze", value, height) for value in inputs[:2])
    wide = {
        "strides": [1, *attributes["strides"]],
        "pads": [0, attributes["pads"][0], 0, attributes["pads"][1]],
        "dilations": [1, *attributes["dilations"]],
        "kernel_shape": [1, *attributes["kernel_shape"]],
        "group": attributes["group"],
    }
    return t.emit("Squeeze", t.emit("Conv", x, weight, *inputs[2:], **wide), height)


def _spread(value: Any, rank: int) -> list[int]:
    return list(value) * rank if len(value) == 1 else list(value)


# -- norms and activations over an axis --------------------------------------------------------------------------


@lowers("trimtab.scale_shift.default")
def _scale_shift(t: Translation, node: Node) -> Any:
    x, scale, shift = (t.name(a) for a in node.args)
    [channels] = shape_of(node.args[1])
    if isinstance(channels, int):
        zero, rest = (t.draft.constant(np.full(channels, v, np.float32)) for v in (0.0, 1.0 - EPSILON))
    else:
        zero, rest = (t.emit("Expand", t.name(v), t.emit("Shape", scale)) for v in (0.0, 1.0 - EPSILON))
    return t.emit("BatchNormalization", x, scale, shift, zero, rest, epsilon=EPSILON)


@lowers("trimtab.positive.default")
def _positive(t: Translation, node: Node) -> Any:
    """min(1, max(0, alpha x)), of an alpha so great that all but subnormal x are 0 or 1: one pass, where a comparison
    and a cast are two."""
    return t.emit("HardSigmoid", t.name(node.args[0]), alpha=3e38, beta=0.0)


@lowers("aten.native_batch_norm.default", "aten._native_batch_norm_legit_no_training.default")
def _source_batch_norm(t: Translation, node: Node) -> Any:
    """Of given statistics; those of a batch are taken apart before (see `primitives`)."""
    x, weight, bias, mean, var = node.args[:5]
    if "legit" not in str(node.target) and node.args[5]:
        raise t.refusal("normalises by the batch in a way of its own")
    inputs = [t.name(v) for v in (x, weight, bias, mean, var)]
    return [t.emit("BatchNormalization", *inputs, epsilon=float(node.args[-1]))]


@lowers("aten.native_layer_norm.default")
def _layer_norm(t: Translation, node: Node) -> Any:
    x, shape, weight, bias, eps = node.args
    dims: Any = shape
    weight = torch.ones(dims) if weight is None else weight
    inputs = [t.name(x), t.name(weight), *([t.name(bias)] if bias is not None else [])]
    return t.emit("LayerNormalization", *inputs, outputs=3, axis=-len(dims), epsilon=float(eps))


@lowers("aten._softmax.default")
def _softmax(t: Translation, node: Node) -> Any:
    return t.emit("Softmax", t.name(node.args[0]), axis=int(node.args[1]))


@lowers("aten._log_softmax.default")
def _log_softmax(t: Translation, node: Node) -> Any:
    return t.emit("LogSoftmax", t.name(node.args[0]), axis=int(node.args[1]))


# -- pooling -----------------------------------------------------------------------------------------------------


@lowers("aten.max_pool2d_with_indices.default", "aten.max_pool3d_with_indices.default")
def _max_pool(t: Translation, node: Node) -> Any:
    """ONNX counts the indices through the whole tensor, ATen within each channel."""
    kernel: Any = node.args[1]
    rank = len(kernel)
    stride = _spread(argument(node, 2, "stride") or kernel, rank)
    padding, dilation = (_spread(argument(node, i, "", [d]), rank) for i, d in ((3, 0), (4, 1)))
    y, places = t.emit(
        "MaxPool",
        t.name(node.args[0]),
        outputs=2,
        kernel_shape=list(kernel),
        strides=stride,
        pads=padding * 2,
        dilations=dilation,
        ceil_mode=int(bool(argument(node, 5, "ceil_mode", False))),
    )
    size = prod(shape_of(node.args[0])[-rank:])
    used = any(u.target is operator.getitem and u.args[1] == 1 for u in node.users)
    return [y, t.emit("Mod", places, t.constant(size)) if used else y]


@lowers("aten.avg_pool2d.default", "aten.avg_pool3d.default", "aten.avg_pool1d.default")
def _avg_pool(t: Translation, node: Node) -> Any:
    kernel: Any = node.args[1]
    rank = len(kernel)
    if argument(node, 6, "divisor_override") is not None:
        raise t.refusal("has an average pooling with a divisor of its own")
    return t.emit(
        "AveragePool",
        t.name(node.args[0]),
        kernel_shape=list(kernel),
        strides=_spread(argument(node, 2, "stride") or kernel, rank),
        pads=_spread(argument(node, 3, "padding", [0]), rank) * 2,
        ceil_mode=int(bool(argument(node, 4, "ceil_mode", False))),
        count_include_pad=int(bool(argument(node, 5, "count_include_pad", True))),
    )


# -- loops -------------------------------------------------------------------------------------------------------


@lowers("trimtab.repeat.default")
def _repeat_body(t: Translation, node: Node) -> Any:
    """The body reads what it is given straight from the graph around it."""
    _, times, count, carried, rows, given = node.args
    body = t.recorded.loops[node]
    starts = [t.name(c) for c in carried]
    ends = t.emit("Reshape", t.name(count), t.constant([1])) if rows else ""
    cut = [Value(t.emit("Slice", t.name(r), t.constant([0]), ends, t.constant([0]))) for r in rows]
    inner = [t.draft.fresh("carried") for _ in carried]
    values = [*map(Value, inner), *cut, *(t.values[g] for g in given)]
    around, t.draft.nodes = t.draft.nodes, []
    results = Translation(body, t.draft, dict(zip(body.inputs, values, strict=True)), t.names).run()
    outputs = [t.draft.node("Identity", r) for r in results]
    turn, go, on = (t.draft.fresh(what) for what in ("turn", "go", "on"))
    t.draft.node("Identity", go, out=on)
    nodes, t.draft.nodes = t.draft.nodes, around
    shapes = [[s if isinstance(s, int) else None for s in shape_of(c)] for c in carried]
    types = [TYPES[dtype_of(c)] for c in carried]
    graph = helper.make_graph(
        nodes,
        "body",
        [
            helper.make_tensor_value_info(turn, TYPES[torch.int64], []),
            helper.make_tensor_value_info(go, TYPES[torch.bool], []),
            *map(helper.make_tensor_value_info, inner, types, shapes),
        ],
        [
            helper.make_tensor_value_info(on, TYPES[torch.bool], []),
            *map(helper.make_tensor_value_info, outputs, types, shapes),
        ],
    )
    after = [t.draft.fresh("Loop") for _ in carried]
    t.draft.nodes.append(helper.make_node("Loop", [t.name(times), "", *starts], after, name=after[0], body=graph))
    return after
