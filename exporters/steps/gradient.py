"""The gradient of a loss with respect to the vector of what may change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trimtab.runtime.errors import ExportError


def gradient(loss: Callable[[Tensor], tuple[Tensor, Any]], theta: Tensor) -> tuple[Tensor, Any]:
    """d loss / d theta `[Q]` at `theta [Q]`, and what else `loss` gives: a tensor, or a tuple of tensors.

    Plain reverse-mode differentiation: under a tracer its operators are recorded like any others. Raises ExportError
    where the loss does not hang on theta.
    """
    with torch.enable_grad():
        point = theta.detach().requires_grad_(True)
        value, more = loss(point)
        if not value.requires_grad:
            raise ExportError(
                "what may change has no influence on the loss that a gradient could follow: the model cuts it off "
                "after it, by detach(), torch.no_grad() or rounding; say what else may change with changes=[...]"
            )
        [found] = torch.autograd.grad(value, point)
    return found.detach(), _detached(more)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else tuple(v.detach() for v in value)
