"""Axes: channels lie on axis 1."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor


def along(value: Tensor, rank: int) -> Tensor:
    """`value [C]`, shaped to be broadcast over `[N, C, ...]` of that rank."""
    return value.reshape([1, -1] + [1] * (rank - 2))


def cut(x: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    """An axis as several, of those sizes."""
    axis %= x.dim()
    return x.reshape([*x.shape[:axis], *sizes, *x.shape[axis + 1 :]])


def others(rank: int) -> list[int]:
    """All axes but the channel's."""
    return [0, *range(2, rank)]


def values(x: Tensor) -> int:
    """How many values of `x [N, C, ...]` each channel has."""
    return x.shape[0] * prod(x.shape[2:])
