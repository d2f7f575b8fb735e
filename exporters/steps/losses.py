"""What methods minimise, per sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def entropy(y: Tensor) -> Tensor:
    """Of the softmax of logits `y [N, K]`, natural: `[N]`."""
    found: Tensor = _Entropy.apply(y)  # type: ignore[no-untyped-call]
    return found


class _Entropy(torch.autograd.Function):
    """d H / d y = -p (log p + H): half as many operators as the derivatives of log_softmax, exp, product and sum."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        logs = torch.log_softmax(y, 1)
        p = logs.exp()
        negative = (p * logs).sum(1)
        ctx.save_for_backward(p, logs, negative)
        return -negative

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        p, logs, negative = ctx.saved_tensors
        dy: Tensor = grad[:, None] * (p * (negative[:, None] - logs))
        return dy


def cross_entropy(y: Tensor, target: Tensor) -> Tensor:
    """Of softmax(`y`) to softmax(`target`), both logits `[N, K]`: `[N]`. Differentiated with respect to `y` alone."""
    found: Tensor = _CrossEntropy.apply(y, torch.softmax(target, 1))  # type: ignore[no-untyped-call]
    return found


class _CrossEntropy(torch.autograd.Function):
    """d / d y = softmax(y) - q: exactly zero where a student gives what its teacher gives, as before the first step.
    Through log_softmax rounding errors are left, of which Adam makes steps."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, q: Tensor) -> Tensor:
        ctx.save_for_backward(torch.softmax(y, 1), q)
        return -(q * torch.log_softmax(y, 1)).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        p, q = ctx.saved_tensors
        return grad[:, None] * (p - q), None


def symmetric(y: Tensor, target: Tensor, share: Tensor | float = 0.5) -> Tensor:
    """The cross-entropy of `y` to `target` and, to that share, of `target` to `y`, both logits `[N, K]`: `[N]`."""
    turned = -(torch.softmax(y, 1) * torch.log_softmax(target, 1)).sum(1)
    return (1.0 - share) * cross_entropy(y, target) + share * turned


def misfit(features: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """How far the mean and deviation of `features [N, F]` are from those given, each `[F]`: the mean over features of
    both differences squared, in units of `deviation`."""
    own = features.mean(0)
    count = torch.ones_like(features[:, 0]).sum()
    apart = features - own
    spread = torch.sqrt((apart * apart).sum(0) / (count - 1.0).clamp(min=1.0) + 1e-12)
    return (((own - mean) / deviation) ** 2 + ((spread - deviation) / deviation) ** 2).mean()


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Sum of weights x values over the number of weights that are not 0 (over 1 where there is none)."""
    return (values * weights).sum() / (weights > 0).to(values.dtype).sum().clamp(min=1.0)
