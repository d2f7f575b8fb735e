"""Poolings."""

from __future__ import annotations

import operator
from math import prod
from typing import Any

import torch

from trimtab.exporters.steps.decompositions import counted, spread
from trimtab.exporters.steps.translation import Node, Translation, argument, lowers, shape_of


@lowers("aten.max_pool2d_with_indices.default", "aten.max_pool3d_with_indices.default")
def _max_pool(t: Translation, node: Node) -> Any:
    """ONNX counts the indices through the whole tensor, ATen within each channel."""
    kernel: Any = node.args[1]
    rank = len(kernel)
    stride = spread(argument(node, 2, "stride") or kernel, rank)
    padding, dilation = (spread(argument(node, i, "", [d]), rank) for i, d in ((3, 0), (4, 1)))
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
    stride = spread(argument(node, 2, "stride") or kernel, rank)
    padding = spread(argument(node, 3, "padding", [0]), rank)
    divisor = argument(node, 6, "divisor_override")
    y = t.emit(
        "AveragePool",
        t.name(node.args[0]),
        kernel_shape=list(kernel),
        strides=stride,
        pads=padding * 2,
        ceil_mode=int(bool(argument(node, 4, "ceil_mode", False))),
        count_include_pad=int(divisor is not None or bool(argument(node, 5, "count_include_pad", True))),
    )
    if divisor is None:
        return y
    shares = torch.full([1] * rank, 1.0 / divisor)
    before, after = shape_of(node.args[0])[-rank:], shape_of(node)[-rank:]
    for axis in range(rank):  # windows that the end clips are averaged over fewer values
        counts = counted(before[axis], after[axis], kernel[axis], stride[axis], padding[axis], True)
        shares = shares * torch.tensor(counts, dtype=torch.float32).reshape(
            [-1 if a == axis else 1 for a in range(rank)]
        )
    return t.emit("Mul", y, t.name(shares))
