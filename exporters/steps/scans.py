"""Running products and the like along an axis, in as many turns as its size has binary digits: ONNX has none but of
sums."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten


def scan(join: Callable[[Tensor, Tensor], Tensor], x: Tensor, axis: int, dtype: torch.dtype | None = None) -> Tensor:
    """Each value joined with all before it on the axis (Hillis and Steele 1986)."""
    x = x if dtype is None else x.to(dtype)
    if not x.dim():
        return x
    size, reach = x.shape[axis], 1
    while reach < size:
        later = join(x.narrow(axis, reach, size - reach), x.narrow(axis, 0, size - reach))
        x = torch.cat([x.narrow(axis, 0, reach), later], axis)
        reach *= 2
    return x


TABLE: dict[Any, Callable[..., Any]] = {
    aten.cumprod.default: partial(scan, torch.mul),
    aten.logcumsumexp.default: partial(scan, torch.logaddexp),
}
"""Of decompositions, for `make_fx`."""
