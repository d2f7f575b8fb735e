"""Operators of one value, value by value."""

from __future__ import annotations

from math import log
from typing import Any

import torch

from trimtab.exporters.steps.operators.shapes import expanded
from trimtab.exporters.steps.translation import Node, Operator, Spread, Translation, argument, dtype_of, lowers


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
    "acosh": "Acosh",
    "asin": "Asin",
    "asinh": "Asinh",
    "atan": "Atan",
    "atanh": "Atanh",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "logical_not": "Not",
    "neg": "Neg",
    "_neg_view": "Neg",
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


@lowers("aten.bitwise_not.default")
def _bitwise_not(t: Translation, node: Node) -> Any:
    return t.emit("Not" if dtype_of(node) is torch.bool else "BitwiseNot", t.name(node.args[0]))


@lowers("aten.rsqrt.default")
def _rsqrt(t: Translation, node: Node) -> Any:
    return t.emit("Reciprocal", t.emit("Sqrt", t.name(node.args[0])))


@lowers("aten.log2.default", "aten.log10.default")
def _log_of_base(t: Translation, node: Node) -> Any:
    base = 2.0 if "log2" in str(node.target) else 10.0
    return t.emit("Mul", t.emit("Log", t.name(node.args[0])), t.name(1.0 / log(base), dtype_of(node)))


@lowers("aten.exp2.default")
def _exp2(t: Translation, node: Node) -> Any:
    return t.emit("Pow", t.name(2.0, dtype_of(node)), t.name(node.args[0]))


@lowers("aten.trunc.default")
def _trunc(t: Translation, node: Node) -> Any:
    return truncated(t, t.name(node.args[0]))


def truncated(t: Translation, x: str) -> Any:
    """Towards zero."""
    return t.emit("Mul", t.emit("Sign", x), t.emit("Floor", t.emit("Abs", x)))


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
    return expanded(t, t.name(node.args[1], dtype_of(node)), node.args[0])


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
