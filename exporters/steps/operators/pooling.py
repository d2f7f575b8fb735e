"""Poolings."""

from __future__ import annotations

import operator
from math import prod
from typing import Any

from trimtab.exporters.steps.decompositions import spread
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
    divisor = argument(node, 6, "divisor_override")
    y = t.emit(
        "AveragePool",
        t.name(node.args[0]),
        kernel_shape=list(kernel),
        strides=spread(argument(node, 2, "stride") or kernel, rank),
        pads=spread(argument(node, 3, "padding", [0]), rank) * 2,
        ceil_mode=int(bool(argument(node, 4, "ceil_mode", False))),
        count_include_pad=int(divisor is not None or bool(argument(node, 5, "count_include_pad", True))),
    )
    return y if divisor is None else t.emit("Mul", y, t.name(prod(kernel) / divisor))
