"""`F.interpolate` as products with matrices, forward and backward: ATen takes it apart into indexing, whose gradient
ONNX can hardly say."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

NEAREST = ("nearest", "nearest-exact")
LINEAR = ("linear", "bilinear", "trilinear")
CUBIC = "bicubic"
SHARPNESS = -0.75
"""Of PyTorch's bicubic kernel (Keys 1981, equation 15: a)."""


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """`F.interpolate`, made of products where it takes the nearest value or is linear or cubic in each axis."""
    if mode not in (*NEAREST, *LINEAR, CUBIC) or antialias:
        return F.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    before = list(input.shape[2:])
    factors = _each(scale_factor, len(before)) if scale_factor is not None else None
    if factors is not None:
        after = [floor(b * f) for b, f in zip(before, factors, strict=True)]
    else:
        after = [int(s) for s in _each(size, len(before))]
    steps = [1.0 / f for f in factors] if factors is not None and not recompute_scale_factor else [None] * len(before)
    rows = [
        torch.tensor(matrix(b, a, step, mode, bool(align_corners)), dtype=input.dtype)
        for b, a, step in zip(before, after, steps, strict=True)
    ]
    y = input @ rows[-1].T
    if len(rows) > 1:
        y = rows[-2] @ y
    if len(rows) > 2:
        flat = y.reshape(*y.shape[:2], before[0], after[1] * after[2])
        y = (rows[0] @ flat).reshape(*y.shape[:2], *after)
    return y


def _each(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


def matrix(before: int, after: int, step: float | None, mode: str, align_corners: bool) -> NDArray[np.float32]:
    """`[after, before]`: what each value along one axis is made of. `step`: from one to the next, where it is not
    before / after. In float32, as in PyTorch: which value is the nearest may hang on its rounding."""
    places = np.arange(after, dtype=np.float32)
    ratio = np.float32(step if step is not None else np.float32(before) / np.float32(after))
    found = np.zeros((after, before), np.float32)
    if mode in NEAREST:
        at = np.floor(places * ratio if mode == "nearest" else (places + np.float32(0.5)) * ratio)
        found[np.arange(after), np.minimum(at.astype(int), before - 1)] = 1.0
        return found
    if before == after:
        return np.eye(after, dtype=np.float32)
    if align_corners:
        source = places * (np.float32(before - 1) / np.float32(after - 1) if after > 1 else np.float32(0))
    else:
        source = ratio * (places + np.float32(0.5)) - np.float32(0.5)
        source = source if mode == CUBIC else np.maximum(source, np.float32(0))
    low = np.floor(source).astype(int)
    share = source - low
    for away, part in _cubic(share) if mode == CUBIC else ((0, 1.0 - share), (1, share)):
        np.add.at(found, (np.arange(after), np.clip(low + away, 0, before - 1)), part)
    return found


def _cubic(share: NDArray[np.float32]) -> list[tuple[int, NDArray[np.float32]]]:
    """What the four values around a place weigh, from the one before the last that is not beyond it."""
    a = SHARPNESS

    def near(d: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [(-1, far(share + 1)), (0, near(share)), (1, near(1 - share)), (2, far(2 - share))]
