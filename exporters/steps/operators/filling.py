"""New values."""

from __future__ import annotations

from typing import Any

import torch

from trimtab.exporters.steps.operators.shapes import expanded
from trimtab.exporters.steps.translation import Node, Translation, argument, dtype_of, lowers, shape_of


@lowers(
    "aten.full.default",
    "aten.zeros.default",
    "aten.ones.default",
    "aten.empty.memory_format",
    "aten.empty_permuted.default",
)
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
    return expanded(t, t.name(value, dtype_of(node)), node.args[0])


@lowers("aten.scalar_tensor.default")
def _scalar(t: Translation, node: Node) -> Any:
    return t.name(node.args[0], dtype_of(node))


@lowers("aten.arange.start_step", "aten.arange.default", "aten.arange.start")
def _arange(t: Translation, node: Node) -> Any:
    bounds = list(node.args)
    start, end = (0, bounds[0]) if len(bounds) == 1 else bounds[:2]
    step = bounds[2] if len(bounds) > 2 else 1
    return t.emit("Range", *(t.name(v, dtype_of(node)) for v in (start, end, step)))
