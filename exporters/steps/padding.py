"""Paddings that repeat what lies at the edge, forward and backward, of slices that are joined or added: ATen takes them
apart into indexing, which ONNX Runtime is slow in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

aten: Any = torch.ops.aten

Edges = tuple[Tensor, Tensor]
"""What stands before and after the values of an axis."""


def reflected(x: Tensor, axis: int, before: int, after: int) -> Edges:
    size = x.shape[axis]
    return x.narrow(axis, 1, before).flip(axis), x.narrow(axis, size - 1 - after, after).flip(axis)


def replicated(x: Tensor, axis: int, before: int, after: int) -> Edges:
    shape = list(x.shape)
    sides = []
    for at, count in ((0, before), (x.shape[axis] - 1, after)):
        sides.append(x.narrow(axis, at, 1).expand(*shape[:axis], count, *shape[axis + 1 :]))
    return sides[0], sides[1]


def padded(edges: Callable[..., Edges], x: Tensor, padding: Sequence[int]) -> Any:
    """`padding`: before and after, of the last axis first, as for `F.pad`."""
    if min(padding) < 0:
        return NotImplemented
    for axis, before, after in _by_axis(x, padding):
        first, last = edges(x, axis, before, after)
        x = torch.cat([first, x, last], axis)
    return x


def _reflected_gradient(first: Tensor, last: Tensor, axis: int, size: int) -> Edges:
    return (
        _placed(first.flip(axis), axis, 1, size),
        _placed(last.flip(axis), axis, size - 1 - last.shape[axis], size),
    )


def _replicated_gradient(first: Tensor, last: Tensor, axis: int, size: int) -> Edges:
    return (
        _placed(first.sum(axis, keepdim=True), axis, 0, size),
        _placed(last.sum(axis, keepdim=True), axis, size - 1, size),
    )


def _placed(value: Tensor, axis: int, at: int, size: int) -> Tensor:
    """Zeros of that size along the axis, but for `value`, which begins at `at`."""
    behind = value.dim() - 1 - axis
    return F.pad(value, [*[0, 0] * behind, at, size - at - value.shape[axis]])


def gradient(edges: Callable[..., Edges], grad: Tensor, x: Tensor, padding: Sequence[int]) -> Any:
    """With respect to what was padded: each value's own, and those of its copies at the edges."""
    if min(padding) < 0:
        return NotImplemented
    for axis, before, after in _by_axis(x, padding):
        size = x.shape[axis]
        first, last = edges(grad.narrow(axis, 0, before), grad.narrow(axis, before + size, after), axis, size)
        grad = grad.narrow(axis, before, size) + first + last
    return grad


def _by_axis(x: Tensor, padding: Sequence[int]) -> list[tuple[int, int, int]]:
    return [(x.dim() - 1 - i, padding[2 * i], padding[2 * i + 1]) for i in range(len(padding) // 2)]


TABLE: dict[Any, Callable[..., Any]] = {
    getattr(aten, f"{name}_pad{rank}d{'_backward' if what is gradient else ''}").default: partial(what, edges)
    for rank in (1, 2, 3)
    for name, what, edges in (
        ("reflection", padded, reflected),
        ("reflection", gradient, _reflected_gradient),
        ("replication", padded, replicated),
        ("replication", gradient, _replicated_gradient),
    )
}
"""Of decompositions, for `make_fx`."""
