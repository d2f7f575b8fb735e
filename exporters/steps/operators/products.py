"""Products of matrices and convolutions."""

from __future__ import annotations

from typing import Any

from trimtab.exporters.steps.decompositions import spread
from trimtab.exporters.steps.translation import Node, Translation, lowers, rank_of, shape_of


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
    strides, edges, dilations, more = (spread(v, rank) for v in (stride, padding, dilation, output_padding))
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
