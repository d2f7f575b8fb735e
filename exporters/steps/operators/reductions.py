"""Operators that go over axes: sums, extremes and orders."""

from __future__ import annotations

from typing import Any

import torch

from trimtab.exporters.steps.translation import (
    TYPES,
    Node,
    Operator,
    Translation,
    argument,
    axes_of,
    dtype_of,
    lowers,
    rank_of,
    shape_of,
)


def _reduction(op: str, place: int = 1) -> Operator:
    """`place`: of the axes among the arguments."""

    def write(t: Translation, node: Node) -> Any:
        keep = bool(argument(node, place + 1, "keepdim", False))
        x = t.name(node.args[0], dtype_of(node))
        axes = axes_of(node, argument(node, place, "dim"))
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
    found = t.emit(op, x, t.constant(axes_of(node, argument(node, 1, "dim"))), keepdims=keep)
    return t.emit("Cast", found, to=TYPES[torch.bool])


@lowers("aten.argmax.default", "aten.argmin.default")
def _argmax(t: Translation, node: Node) -> Any:
    op = "ArgMax" if "argmax" in str(node.target) else "ArgMin"
    axis = argument(node, 1, "dim")
    x = t.name(node.args[0], torch.int32 if dtype_of(node.args[0]) is torch.bool else None)
    if axis is None:
        x, axis = t.emit("Reshape", x, t.constant([-1])), 0
    return t.emit(op, x, axis=int(axis), keepdims=int(bool(argument(node, 2, "keepdim", False))))


@lowers("aten.max.dim", "aten.min.dim")
def _max_dim(t: Translation, node: Node) -> Any:
    largest, truth = ".max." in str(node.target), dtype_of(node.args[0]) is torch.bool
    axis, keep = int(node.args[1]), int(bool(argument(node, 2, "keepdim", False)))
    x = t.name(node.args[0], torch.int32 if truth else None)
    values = t.emit("ReduceMax" if largest else "ReduceMin", x, t.constant([axis]), keepdims=keep)
    places = t.emit("ArgMax" if largest else "ArgMin", x, axis=axis, keepdims=keep)
    return [t.cast(values, torch.int32, torch.bool) if truth else values, places]


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


@lowers("aten.kthvalue.default", "aten.median.dim")
def _kth(t: Translation, node: Node) -> Any:
    """Of the smallest values along an axis the last, and its place; the median is the lower one of two."""
    median = "median" in str(node.target)
    first = 1 if median else 2
    axis, keep = int(argument(node, first, "dim", -1)), bool(argument(node, first + 1, "keepdim", False))
    size = shape_of(node.args[0])[axis]
    if not isinstance(size, int):
        raise t.refusal("looks for a middle value over an axis whose size depends on the number of samples")
    count = (size + 1) // 2 if median else int(node.args[1])
    smallest = t.emit("TopK", t.name(node.args[0]), t.constant([count]), outputs=2, axis=axis, largest=0)
    last = t.constant([count - 1] if keep else count - 1)
    return [t.emit("Gather", part, last, axis=axis) for part in smallest]


@lowers("aten.cumsum.default")
def _cumsum(t: Translation, node: Node) -> Any:
    return t.emit("CumSum", t.name(node.args[0], dtype_of(node)), t.name(node.args[1]))
