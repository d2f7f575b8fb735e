"""Random numbers that a step graph can make: a hash of a counter, the same on every machine and provider.

ONNX's own random operators keep a hidden state, so that no state that was restored would go on as before. Here the
counter is part of the method's state.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
"""32 bits, in int64: products with the factor below stay under 2^63."""
FACTOR = 0x45D9F3B
SPREAD = 2654435761
"""Knuth's multiplier, 2^32 over the golden ratio."""


def uniform(count: int, counter: Tensor, purpose: int | Tensor = 0) -> Tensor:
    """`[count]` numbers from 0 to 1 (exclusive), float32. `counter`: int64 scalar, another one each step; `purpose`
    keeps the draws of one step apart."""
    return _share(_mixed((torch.arange(count) * SPREAD + _start(counter, purpose)) & MASK))


def each(counters: Tensor, purpose: int = 0) -> Tensor:
    """One number from 0 to 1 (exclusive) for each of the counters, the same as `uniform(1, counter, purpose)`."""
    return _share(_mixed(_start(counters, purpose)))


def normal(count: int, counter: Tensor, purpose: int | Tensor = 0) -> Tensor:
    """`[count]` standard normal numbers (Box and Muller 1958)."""
    a, b = uniform(count, counter, 2 * purpose + 1000), uniform(count, counter, 2 * purpose + 1001)
    return torch.sqrt(-2.0 * torch.log(1.0 - a)) * torch.cos(2.0 * torch.pi * b)


def _start(counter: Tensor, purpose: int | Tensor) -> Tensor:
    return _mixed((counter * 65599 + purpose * 7919 + 1) & MASK)


def _share(bits: Tensor) -> Tensor:
    return (bits // 256).to(torch.float32) * (1.0 / 2**24)


def _mixed(x: Tensor) -> Tensor:
    """A hash of 32 bits: three rounds of xor with the upper half and multiplication."""
    for _ in range(3):
        x = ((x ^ (x // 65536)) * FACTOR) & MASK
    return x ^ (x // 65536)
