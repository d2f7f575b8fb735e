"""Operators that norms and activations are made of, each one node in a step graph, with a backward pass of few passes
over the data.

Written in plain tensor arithmetic a batch norm with its gradient takes some twenty passes over each activation. As
`scale_shift` (`x * scale + shift` per channel: ONNX's BatchNormalization with given statistics) it is one pass forward,
and the gradient with respect to its input is `a * (grad - p * (x - mean)) + q`: two more such passes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.exporters.steps.channels import along, others, values


@torch.library.custom_op("trimtab::scale_shift", mutates_args=())
def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`x [N, C, ...] * scale [C] + shift [C]`."""
    return x * along(scale, x.dim()) + along(shift, x.dim())


@scale_shift.register_fake
def _(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _scale_shift_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, scale = ctx.saved_tensors
    wanted, axes = ctx.needs_input_grad, others(grad.dim())
    zero = torch.zeros_like(scale)
    return (
        scale_shift(grad, scale, zero) if wanted[0] else None,
        (grad * x).sum(axes) if wanted[1] else None,
        grad.sum(axes) if wanted[2] else None,
    )


scale_shift.register_autograd(
    _scale_shift_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0], inputs[1])
)


LONG = 256
"""Values of a channel of one sample. From here on arithmetic with one number a channel takes ONNX Runtime no longer
than BatchNormalization, and runs on all threads, as that does not; below, its toll for each row of values is more."""


def _long(x: Tensor) -> bool:
    return prod(x.shape[2:]) >= LONG


def moments_plain(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean `[C]` and population variance `[C]` of `x [N, C, ...]` over all axes but the channel's; and `x - mean`.

    In two passes: a mean of squares less the square of the mean loses float32's digits where the mean is large.
    """
    axes = others(x.dim())
    mean = x.mean(axes)
    centred = x - along(mean, x.dim()) if _long(x) else scale_shift(x, torch.ones_like(mean), -mean)
    return mean, (centred * centred).mean(axes), centred


moments = torch.library.custom_op("trimtab::moments", moments_plain, mutates_args=())


@moments.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty(x.shape[1])
    return mean, torch.empty_like(mean), torch.empty_like(x, memory_format=torch.contiguous_format)


def _moments_backward(ctx: Any, mean: Tensor, var: Tensor, centred: Tensor) -> Tensor:
    """d mean / dx = 1/n; d var / dx = 2 (x - mean)/n. What is `centred` is not to be differentiated."""
    [saved] = ctx.saved_tensors
    count = values(saved)
    dx: Tensor = scale_shift(saved, 2.0 * var / count, mean / count)
    return dx


def _keep_centred(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[2])
    ctx.mark_non_differentiable(output[2])


moments.register_autograd(_moments_backward, setup_context=_keep_centred)


def batch_norm_plain(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`x [N, C, ...]` by its own mean and variance, times `weight [C]`, plus `bias [C]`.

    Returns also what the backward pass needs: `x - mean`, and the variance `[C]`.
    """
    _, var, centred = moments_plain(x)
    return _normalised(centred, torch.zeros_like(var), var, weight, bias, eps), centred, var


batch_norm = torch.library.custom_op("trimtab::batch_norm", batch_norm_plain, mutates_args=())


@batch_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    empty = torch.empty_like(x, memory_format=torch.contiguous_format)
    return empty, torch.empty_like(empty), torch.empty_like(weight)


def _normalised(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`(x - mean) / sqrt(var + eps) * weight + bias` per channel, of given statistics: one node, which makes
    its factors of the statistics itself, or two passes on all threads where rows are long."""
    if _long(x):
        factor = weight / torch.sqrt(var + eps)
        return x * along(factor, x.dim()) + along(bias - mean * factor, x.dim())
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


def _batch_norm_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    """With c = x - mean, r = 1/sqrt(var + eps), n values a channel and sums over them (Ioffe and Szegedy 2015,
    section 3): d weight = r sum(g c); d bias = sum(g); dx = w r (g - c r^2 sum(g c)/n - sum(g)/n)."""
    centred, var, weight = ctx.saved_tensors
    axes = others(grad.dim())
    count = values(centred)
    total, product = grad.sum(axes), (grad * centred).sum(axes)
    steady = var + ctx.eps
    dx = None
    if ctx.needs_input_grad[0]:
        zero = torch.zeros_like(var)
        slope = product / (steady * count)
        left = grad - (centred * along(slope, grad.dim()) if _long(centred) else scale_shift(centred, slope, zero))
        dx = _normalised(left, total / count, var, weight, zero, ctx.eps)
    return dx, product / torch.sqrt(steady), total, None


def _keep_batch_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, centred, var = output
    ctx.eps = inputs[3]
    ctx.save_for_backward(centred, var, inputs[1])
    ctx.mark_non_differentiable(centred, var)


batch_norm.register_autograd(_batch_norm_backward, setup_context=_keep_batch_norm)


@torch.library.custom_op("trimtab::positive", mutates_args=())
def positive(x: Tensor) -> Tensor:
    """1 where x is greater than 0, else 0, of x's type."""
    return (x > 0).to(x.dtype)


@positive.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


PLAIN: dict[Any, Callable[..., Any]] = {
    torch.ops.trimtab.moments.default: moments_plain,
    torch.ops.trimtab.batch_norm.default: batch_norm_plain,
}
"""What the operators that are no nodes themselves are made of, once their gradients have been taken."""
