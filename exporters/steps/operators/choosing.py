"""Values chosen from some places of a tensor, and put at some."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import fx

from trimtab.exporters.steps.translation import Node, Translation, argument, dtype_of, lowers, rank_of, shape_of


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
