"""Operators that cut overlapping windows out of a tensor, and their gradients, as convolutions and poolings, or as
reshapes where nothing overlaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.exporters.steps.channels import cut

aten: Any = torch.ops.aten


def unfold(x: Tensor, axis: int, size: int, step: int) -> Tensor:
    """`x.unfold`: windows of an axis, their values on a new last axis."""
    axis, count = axis % x.dim(), (x.shape[axis] - size) // step + 1
    windows = _windows(x, axis, count, size, step)
    return windows.movedim(axis + 1, -1)


def _windows(x: Tensor, axis: int, count: int, size: int, step: int) -> Tensor:
    if step == size:
        return cut(x.narrow(axis, 0, count * size), axis, [count, size])
    return cut(x.index_select(axis, _places(count, size, step)), axis, [count, size])


def _places(count: int, size: int, step: int) -> Tensor:
    return (torch.arange(count)[:, None] * step + torch.arange(size)).reshape(-1)


def unfold_backward(grad: Tensor, sizes: Sequence[int], axis: int, size: int, step: int) -> Tensor:
    axis, whole = axis % len(sizes), sizes[axis]
    count = grad.shape[axis]
    flat = grad.movedim(-1, axis + 1).flatten(axis, axis + 1)
    if step == size:
        return F.pad(flat, [*[0, 0] * (len(sizes) - 1 - axis), 0, whole - count * size])
    shares = torch.zeros(whole, count * size).index_put(
        (_places(count, size, step), torch.arange(count * size)), _one()
    )
    return (flat.movedim(axis, -1) @ shares.T.to(grad.dtype)).movedim(-1, axis)


def _one() -> Tensor:
    return torch.ones(())


def im2col(
    x: Tensor, kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """`F.unfold`: a convolution whose kernels have a single one each."""
    channels = x.shape[1]
    weight = _picks(channels, kernel, x)
    columns: Tensor = aten.convolution(x, weight, None, stride, padding, dilation, False, [0, 0], channels)
    return columns.flatten(2)


def col2im(
    columns: Tensor,
    size: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """`F.fold`, and the gradient of `F.unfold`: the transposed convolution."""
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    room = [n + 2 * p - r for n, p, r in zip(size, padding, reach, strict=True)]
    out = [r // s + 1 for r, s in zip(room, stride, strict=True)]
    rest = [r % s for r, s in zip(room, stride, strict=True)]
    channels = columns.shape[1] // prod(kernel)
    weight = _picks(channels, kernel, columns)
    x: Tensor = aten.convolution(cut(columns, 2, out), weight, None, stride, padding, dilation, True, rest, channels)
    return x


def _picks(channels: int, kernel: Sequence[int], like: Tensor) -> Tensor:
    """`[channels * kernel values, 1, *kernel]`."""
    values = prod(kernel)
    return torch.eye(values, dtype=like.dtype).reshape(values, 1, *kernel).repeat(channels, 1, 1, 1)


def adaptive_max_pool2d(x: Tensor, size: Sequence[int]) -> Any:
    """A plain pooling where all windows are of one size and lie side by side."""
    before = x.shape[-2:]
    if not any(b % a for b, a in zip(before, size, strict=True)):
        kernel = [b // a for b, a in zip(before, size, strict=True)]
        return aten.max_pool2d_with_indices(x, kernel, kernel)
    rows, columns = (_adaptive_places(b, a) for b, a in zip(before, size, strict=True))
    places = (rows[:, None, :, None] * before[1] + columns[:, None, :]).reshape(size[0] * size[1], -1)
    windows = cut(x.flatten(-2).index_select(-1, places.reshape(-1)), -1, places.shape)
    values, best = windows.max(-1)
    found = places.expand(*best.shape, -1).gather(-1, best[..., None])
    return cut(values, -1, size), cut(found[..., 0], -1, size)


def _adaptive_places(before: int, after: int) -> Tensor:
    """`[after, n]`: where each window's values lie on an axis; those of the shorter ones are there twice."""
    starts = torch.arange(after) * before // after
    ends = -(-(torch.arange(after) + 1) * before // after)
    return torch.minimum(starts[:, None] + torch.arange(-(-before // after) + 1), ends[:, None] - 1)


TABLE: dict[Any, Callable[..., Any]] = {
    aten.unfold.default: unfold,
    aten.unfold_backward.default: unfold_backward,
    aten.im2col.default: im2col,
    aten.col2im.default: col2im,
    aten.adaptive_max_pool2d.default: adaptive_max_pool2d,
}
"""Of decompositions, for `make_fx`."""
