"""Operators of two values or three, value by value."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from trimtab.exporters.steps.operators.unary import truncated
from trimtab.exporters.steps.translation import (
    Node,
    Operator,
    Spread,
    Translation,
    dtype_of,
    lowers,
    rank_of,
    shape_of,
)


def _common(node: Node) -> torch.dtype:
    """The type in which two arguments are compared."""
    given = [a.meta["val"] if isinstance(a, fx.Node) else a for a in node.args[:2]]
    if any(isinstance(g, (torch.SymInt, torch.SymFloat)) for g in given):
        tensors = [g.dtype for g in given if isinstance(g, torch.Tensor)]
        return tensors[0] if tensors else torch.int64
    return torch.result_type(*given)


OF_TRUTHS = {"Mul": "And", "Add": "Or", "Max": "Or", "Min": "And"}
"""What ONNX has in place of arithmetic with truth values."""


def _binary(op: str, common: bool = False) -> Operator:
    def write(t: Translation, node: Node) -> Any:
        dtype = _common(node) if common else dtype_of(node)
        one, other = node.args[:2]
        (a, wide), (b, as_wide) = _side(t, node, one, other, dtype), _side(t, node, other, one, dtype)
        alpha = node.kwargs.get("alpha", 1)
        if alpha != 1:
            b = t.emit("Mul", b, t.name(alpha, dtype))
        found = t.emit(OF_TRUTHS.get(op, op) if dtype is torch.bool else op, a, b)
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
    same = _binary("Equal", common=True)(t, node)
    return Spread(t.emit("Not", same.narrow), same.shape) if isinstance(same, Spread) else t.emit("Not", same)


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
        ratio = t.emit("Div", a, b)
        return t.emit("Floor", ratio) if node.kwargs.get("rounding_mode", "floor") == "floor" else truncated(t, ratio)
    if node.kwargs.get("rounding_mode", "floor") == "floor":
        a = t.emit("Sub", a, t.emit("Mod", a, b))
    return t.emit("Div", a, b)


@lowers("aten.remainder.Scalar", "aten.remainder.Tensor", "aten.fmod.Scalar", "aten.fmod.Tensor")
def _rest(t: Translation, node: Node) -> Any:
    """Of a division: of the divisor's sign, or (fmod) of the dividend's."""
    dtype, dividend = dtype_of(node), "fmod" in str(node.target)
    a, b = (t.name(x, dtype) for x in node.args[:2])
    if dividend or not dtype.is_floating_point:
        return t.emit("Mod", a, b, fmod=int(dividend))
    return t.emit("Sub", a, t.emit("Mul", t.emit("Floor", t.emit("Div", a, b)), b))


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
    return chosen(t, t.name(node.args[0]), t.name(node.args[1], dtype), t.name(node.args[2], dtype), dtype)


def chosen(t: Translation, which: str, a: str, b: str, dtype: torch.dtype) -> Any:
    """`a` where `which` holds, else `b`."""
    if dtype is torch.bool:  # ONNX Runtime's Where has none
        return t.emit("Or", t.emit("And", which, a), t.emit("And", t.emit("Not", which), b))
    return t.emit("Where", which, a, b)


@lowers("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _masked_fill(t: Translation, node: Node) -> Any:
    dtype = dtype_of(node)
    return chosen(t, t.name(node.args[1]), t.name(node.args[2], dtype), t.name(node.args[0], dtype), dtype)
