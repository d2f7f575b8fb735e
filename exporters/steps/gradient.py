"""The gradient of a loss with respect to the vector of what may change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def gradient(loss: Callable[[Tensor], tuple[Tensor, Any]], theta: Tensor) -> tuple[Tensor, Any]:
    """d loss / d theta `[Q]` at `theta [Q]`, and what else `loss` gives: a tensor, or a tuple of tensors.

    Plain reverse-mode differentiation: under a tracer its operators are recorded like any others.
    """
    with torch.enable_grad():
        point = theta.detach().requires_grad_(True)
        value, more = loss(point)
        [found] = torch.autograd.grad(value, point)
    return found.detach(), _detached(more)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else tuple(v.detach() for v in value)
