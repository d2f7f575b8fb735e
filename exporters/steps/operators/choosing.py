"""Values chosen from some places of a tensor, and put at some."""

from __future__ import annotations

import sys
from math import prod
from typing import Any

import torch
from torch import fx

from trimtab.exporters.steps.operators.binary import chosen
from trimtab.exporters.steps.translation import Node, Translation, argument, dtype_of, lowers, rank_of, shape_of


@lowers("aten.index_select.default")
def _index_select(t: Translation, node: Node) -> Any:
    return t.emit("Gather", t.name(node.args[0]), t.name(node.args[2]), axis=int(node.args[1]))


@lowers("aten.embedding.default")
def _embedding(t: Translation, node: Node) -> Any:
    return t.emit("Gather", t.name(node.args[0]), t.name(node.args[1]), axis=0)


@lowers("aten.diagonal.default")
def _diagonal(t: Translation, node: Node) -> Any:
    rank, sizes = rank_of(node.args[0]), shape_of(node.args[0])
    offset, first, second = (int(argument(node, i, "", d)) for i, d in ((1, 0), (2, 0), (3, 1)))
    axes = [first % rank, second % rank]
    if not all(isinstance(sizes[a], int) for a in axes):
        raise t.refusal("takes a diagonal of a matrix whose size depends on the number of samples")
    x = _turned(t, t.name(node.args[0]), [*(a for a in range(rank) if a not in axes), *axes])
    rows = torch.arange(shape_of(node)[-1]) + max(-offset, 0)
    flat = t.emit("Reshape", x, t.constant([*[0] * (rank - 2), sizes[axes[0]] * sizes[axes[1]]]))
    return t.emit("Gather", flat, t.constant((rows * (sizes[axes[1]] + 1) + offset).tolist()), axis=rank - 2)


@lowers("aten.index.Tensor")
def _index(t: Translation, node: Node) -> Any:
    axes, indices = _places(t, node)
    x = t.name(node.args[0])
    if len(axes) == 1:
        return t.emit("Gather", x, t.name(indices[0]), axis=axes[0])
    places = _joined(t, indices)
    order = [*axes, *(a for a in range(rank_of(node.args[0])) if a not in axes)]
    found = t.emit("GatherND", _turned(t, x, order), places)
    return _turned(t, found, _before(node, axes, max(map(rank_of, indices)), rank_of(node)))


def _places(t: Translation, node: Node) -> tuple[list[int], list[Node]]:
    """The axes that are indexed, and what indexes them."""
    used = [(axis, index) for axis, index in enumerate(node.args[1]) if index is not None]
    if any(index.meta["val"].dtype is torch.bool for _, index in used):
        raise t.refusal("takes values by a mask, whose number is not known before; use torch.where")
    return [axis for axis, _ in used], [index for _, index in used]


def _joined(t: Translation, indices: list[Node]) -> str:
    """`[..., A]`: what indexes A axes, broadcast against each other."""
    rank = max(map(rank_of, indices))
    names = [t.name(i) for i in indices]
    if any(shape_of(i) != shape_of(indices[0]) for i in indices):
        zeros = [t.emit("Mul", name, t.constant(0)) for name in names]
        names = [_sum(t, [name, *(z for z in zeros if z != zero)]) for name, zero in zip(names, zeros, strict=True)]
    columns: list[str] = [t.emit("Unsqueeze", name, t.constant([rank])) for name in names]
    if len(columns) > 1:
        columns = [t.emit("Concat", *columns, axis=rank)]
    return columns[0]


def _sum(t: Translation, names: list[str]) -> str:
    total = names[0]
    for name in names[1:]:
        total = t.emit("Add", total, name)
    return total


def _before(node: Node, axes: list[int], many: int, rank: int) -> list[int]:
    """Where the axes lie that an index of `many` axes gives: they come first out of ONNX; out of ATen they stand in
    the place of those indexed, where these are neighbours."""
    first = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    return [*range(many, many + first), *range(many), *range(many + first, rank)]


def _turned(t: Translation, x: str, order: list[int]) -> str:
    found: str = x if order == sorted(order) else t.emit("Transpose", x, perm=order)
    return found


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


@lowers("aten.index_put.default", "aten._unsafe_index_put.default")
def _index_put(t: Translation, node: Node) -> Any:
    """Values put, or added, as the gradient of an index is, at places of some axes."""
    x, values, add = t.name(node.args[0]), node.args[2], bool(argument(node, 3, "accumulate", False))
    masks = [i for i in node.args[1] if i is not None and i.meta["val"].dtype is torch.bool]
    if masks and len(node.args[1]) == 1 and not add and prod(shape_of(values)) == 1:
        rest = rank_of(node.args[0]) - rank_of(masks[0])
        mask = t.name(masks[0])
        if rest:
            mask = t.emit("Unsqueeze", mask, t.constant(list(range(-rest, 0))))
        return chosen(t, mask, t.name(values, dtype_of(node)), x, dtype_of(node))
    axes, indices = _places(t, node)
    many, rank = max(map(rank_of, indices)), rank_of(node.args[0])
    order = [*axes, *(a for a in range(rank) if a not in axes)]
    turned, places = _turned(t, x, order), _joined(t, indices)
    new = t.name(values, dtype_of(node))
    # First as wide as what is indexed, as ATen has it, then with the axes of the index first.
    placed = _before(node, axes, many, many + rank - len(axes))
    back = [placed.index(a) for a in range(len(placed))]
    wide = t.emit("Concat", t.emit("Shape", places, end=-1), t.emit("Shape", turned, start=len(axes)), axis=0)
    if placed != sorted(placed):
        wide = t.emit("Gather", wide, t.constant(placed), axis=0)
    if shape_of(values) != _shape_indexed(node, axes, indices, placed):
        new = t.emit("Expand", new, wide)
    more: dict[str, Any] = {"reduction": "add"} if add else {}
    put = t.emit("ScatterND", turned, places, _turned(t, new, back), **more)
    return _turned(t, put, [order.index(a) for a in range(rank)])


def _shape_indexed(node: Node, axes: list[int], indices: list[Node], placed: list[int]) -> list[Any]:
    shape: Any = torch.broadcast_shapes(*(tuple(shape_of(i)) for i in indices))  # type: ignore[no-untyped-call]
    whole = [*shape, *(size for a, size in enumerate(shape_of(node.args[0])) if a not in axes)]
    return [whole[a] for a in placed]


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
    size, step = shape_of(node)[axis], argument(node, 5, "step", 1)
    if step != 1:
        return _put_apart(t, node, axis, range(size)[slice(start, end, step)] if _whole(size, start, end) else None)
    end = size if end is None or (isinstance(end, int) and isinstance(size, int) and end > size) else end
    if not isinstance(start, int) or not (isinstance(end, (int, torch.SymInt))):
        raise t.refusal("writes into a part of an axis whose place depends on the number of samples")
    return _put(t, node, axis, start, end, t.name(node.args[1]))


def _whole(*sizes: Any) -> bool:
    return all(size is None or isinstance(size, int) for size in sizes)


def _put_apart(t: Translation, node: Node, axis: int, places: range | None) -> Any:
    """`node.args[0]` with values of an axis replaced that do not lie side by side."""
    if places is None:
        raise t.refusal("writes into every n-th value of an axis whose size depends on the number of samples")
    size = shape_of(node)[axis]
    source = [size + places.index(i) if i in places else i for i in range(size)]
    both = t.emit("Concat", t.name(node.args[0]), t.name(node.args[1]), axis=axis)
    return t.emit("Gather", both, t.constant(source), axis=axis)


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
