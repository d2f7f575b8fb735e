"""The same values in another shape, place or number."""

from __future__ import annotations

import sys
from typing import Any

from trimtab.exporters.steps.translation import (
    Node,
    Spread,
    Translation,
    argument,
    axes_of,
    dtype_of,
    lowers,
    rank_of,
    shape_of,
)


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
    axes = [a for a in axes_of(node, argument(node, 1, "dim")) if isinstance(sizes[a], int) and sizes[a] == 1]
    return t.emit("Squeeze", t.name(node.args[0]), t.constant(axes)) if axes else t.values[node.args[0]]


@lowers("aten.expand.default")
def _expand(t: Translation, node: Node) -> Any:
    wanted = [1 if s == -1 else s for s in node.args[1]]
    return Spread(t.name(node.args[0]), t.shape(wanted))


def expanded(t: Translation, name: str, like: Any) -> Any:
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
    pieces = [p for p in node.args[0] if shape_of(p) != [0] or shape_of(node) == [0]]  # ATen takes these for nothing
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
    axes = axes_of(node, node.args[1])
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
