"""Channels lie on axis 1."""

from __future__ import annotations

from math import prod

from torch import Tensor


def along(value: Tensor, rank: int) -> Tensor:
    """`value [C]`, shaped to be broadcast over `[N, C, ...]` of that rank."""
    return value.reshape([1, -1] + [1] * (rank - 2))


def others(rank: int) -> list[int]:
    """All axes but the channel's."""
    return [0, *range(2, rank)]


def values(x: Tensor) -> int:
    """How many values of `x [N, C, ...]` each channel has."""
    return x.shape[0] * prod(x.shape[2:])
