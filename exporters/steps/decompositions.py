"""What ATen's operators are made of, where ONNX has none of that kind: above all the backward passes.

- The gradient of a convolution with respect to its input is a transposed convolution; with stride 1 it is written as a
  convolution with flipped weights, which ONNX Runtime runs faster. With respect to its weights it is a convolution,
  too, in which samples and channels change places.
- The gradient of an average pooling is a transposed convolution with ones; that of an adaptive one, two products with
  the matrices that it consists of.
- The gradient of ReLU and its like is a product with a mask, which `positive` makes in one pass: `Where` is several
  times slower in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions

from trimtab.exporters.steps import padding, scans, windows
from trimtab.exporters.steps.channels import along, cut
from trimtab.exporters.steps.primitives import PLAIN, positive

aten: Any = torch.ops.aten


def convolve(*args: Any) -> Tensor:
    found: Tensor = aten.convolution(*args)
    return found


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients with respect to `x [N, C, ...]`, `weight` and bias."""
    rank = x.dim() - 2
    stride, padding, dilation = (spread(v, rank) for v in (stride, padding, dilation))
    dx = dw = db = None
    if wanted[0]:
        if transposed:
            dx = convolve(grad, weight, None, stride, padding, dilation, False, [0] * rank, groups)
        else:
            dx = _input_gradient(grad, x, weight, stride, padding, dilation, groups)
    if wanted[1]:
        if transposed:  # the roles of input and output gradient are exchanged
            dw = _weight_gradient(x, grad, weight, stride, padding, dilation, groups)
        else:
            dw = _weight_gradient(grad, x, weight, stride, padding, dilation, groups)
    if wanted[2]:
        db = grad.sum([0, *range(2, grad.dim())])
    return dx, dw, db


def _input_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    rank = x.dim() - 2
    kernel = list(weight.shape[2:])
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(s == 1 for s in stride) and all(r >= p for r, p in zip(reach, padding, strict=True)):
        outputs, inputs = weight.shape[0] // groups, weight.shape[1]
        turned = weight.flip(list(range(2, 2 + rank))).reshape(groups, outputs, inputs, *kernel)
        turned = turned.transpose(1, 2).reshape(groups * inputs, outputs, *kernel)
        edges = [r - p for r, p in zip(reach, padding, strict=True)]
        return convolve(grad, turned, None, [1] * rank, edges, dilation, False, [0] * rank, groups)
    left = [x.shape[2 + i] - ((grad.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach[i] + 1) for i in range(rank)]
    if all(0 <= n < max(s, d) for n, s, d in zip(left, stride, dilation, strict=True)):
        return convolve(grad, weight, None, stride, padding, dilation, True, left, groups)
    # Rows at the end that no window reached: their gradient is zero.
    fitting = [min(n, max(s, d) - 1) for n, s, d in zip(left, stride, dilation, strict=True)]
    dx = convolve(grad, weight, None, stride, padding, dilation, True, fitting, groups)
    ends = [edge for n, f in zip(reversed(left), reversed(fitting), strict=True) for edge in (0, n - f)]
    return F.pad(dx, ends)


def _weight_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """dw[o, c, k] = sum over n, t of x[n, c, stride t + dilation k - padding] grad[n, o, t]: a convolution over the
    samples, with stride and dilation exchanged."""
    rank = x.dim() - 2
    size = list(x.shape[2:])
    inputs, outputs = x.shape[1] // groups, grad.shape[1] // groups
    batch = x.shape[0]
    signal = x.reshape(batch, groups, inputs, *size).permute(2, 1, 0, *range(3, 3 + rank))
    signal = signal.reshape(inputs, groups * batch, *size)
    kernel = grad.transpose(0, 1)  # [groups * outputs, N, ...]
    dw = convolve(signal, kernel, None, dilation, padding, stride, False, [0] * rank, groups)
    for axis in range(2, 2 + rank):
        dw = dw.narrow(axis, 0, weight.shape[axis])
    return dw.reshape(inputs, groups * outputs, *weight.shape[2:]).transpose(0, 1).contiguous()


def _avg_pool_backward(
    rank: int,
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Each window gives every value in it the same share."""
    kernel = spread(kernel, rank)
    stride, padding = spread(stride or kernel, rank), spread(padding, rank)
    size, out = list(x.shape[-rank:]), list(grad.shape[-rank:])
    shares = torch.ones([1] * rank, dtype=grad.dtype)
    for axis in range(rank):
        counts = counted(size[axis], out[axis], kernel[axis], stride[axis], padding[axis], count_include_pad)
        shares = shares / torch.tensor(counts, dtype=grad.dtype).reshape([-1 if a == axis else 1 for a in range(rank)])
    share = grad / divisor_override if divisor_override else grad * shares
    ones = torch.ones(1, 1, *kernel, dtype=grad.dtype)
    dx = convolve(share.reshape(-1, 1, *out), ones, None, stride, [0] * rank, [1] * rank, True, [0] * rank, 1)
    # The padding is cut, and what a last window reaches beyond the end (ceil_mode); what none reaches gets nothing.
    after = [size[i] + padding[i] - (out[i] - 1) * stride[i] - kernel[i] for i in range(rank)]
    ends = [edge for p, a in zip(reversed(padding), reversed(after), strict=True) for edge in (-p, a)]
    return F.pad(dx, ends).reshape(x.shape) if any(ends) else dx.reshape(x.shape)


def counted(size: int, out: int, kernel: int, stride: int, padding: int, padded: bool) -> list[int]:
    """By what each window's sum along one axis is divided."""
    found = []
    for i in range(out):
        start = i * stride - padding
        end = min(start + kernel, size + padding)
        found.append(end - start if padded else min(end, size) - max(start, 0))
    return found


def adaptive_matrix(before: int, after: int, like: Tensor) -> Tensor:
    """`[after, before]`: row i averages the values from floor(i b/a) to ceil((i+1) b/a)."""
    rows = []
    for i in range(after):
        start, end = i * before // after, -(-(i + 1) * before // after)
        rows.append([1.0 / (end - start) if start <= j < end else 0.0 for j in range(before)])
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def adaptive_avg_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    for axis, after in zip(range(-len(size), 0), size, strict=True):
        x = _times(x, axis, adaptive_matrix(x.shape[axis], after, x))
    return x


def adaptive_avg_pool_backward(rank: int, grad: Tensor, x: Tensor) -> Tensor:
    for axis in range(-rank, 0):
        grad = _times(grad, axis, adaptive_matrix(x.shape[axis], grad.shape[axis], x).T)
    return grad


def _times(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """The product along an axis from the end: `[..., before, ...]` -> `[..., after, ...]`."""
    if axis == -1:
        return x @ matrix.T
    behind = x.shape[axis + 1 :]
    return cut(matrix @ x.flatten(axis + 1), -1, behind)


def max_pool_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """`indices` say for each output which value of its channel it came from."""
    rank = len(kernel)
    size = prod(x.shape[-rank:])
    flat = torch.zeros_like(x).reshape(-1, size)
    rows = prod(grad.shape[-rank:])
    return flat.scatter_add(1, indices.reshape(-1, rows), grad.reshape(-1, rows)).reshape(x.shape)


def adaptive_max_pool_backward(grad: Tensor, x: Tensor, indices: Tensor) -> Tensor:
    return max_pool_backward(grad, x, grad.shape[-2:], [], [], [], False, indices)


def native_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    if not training and not any(v is None for v in (weight, bias, mean, var)):
        return NotImplemented  # as it is: ONNX has it
    return torch._decomp.decompositions.native_batch_norm_decomposition(
        x, weight, bias, mean, var, training, momentum, eps
    )


def var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    axes = list(dim) if dim else list(range(x.dim()))
    mean = x.mean(axes, keepdim=True)
    count = prod(x.shape[a] for a in axes)
    var = ((x - mean) * (x - mean)).sum(axes, keepdim=keepdim) / (count - (1 if correction is None else correction))
    return var, mean if keepdim else x.mean(axes)


def var(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return var_mean(x, dim, correction=correction, keepdim=keepdim)[0]


def native_group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, size: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.reshape(n, groups, -1)
    var, mean = var_mean(rows, [2], correction=0, keepdim=True)
    inverse = torch.rsqrt(var + eps)
    y = ((rows - mean) * inverse).reshape(n, c, *x.shape[2:])
    y = y if weight is None else y * along(weight, x.dim())
    y = y if bias is None else y + along(bias, x.dim())
    return y, mean.squeeze(2), inverse.squeeze(2)


def weight_norm_backward(grad: Tensor, v: Tensor, g: Tensor, norms: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Of w = g v / |v| (Salimans and Kingma 2016, equation 3), with respect to v and g; |v| over all axes but `dim`."""
    axes = [a for a in range(v.dim()) if a != dim % v.dim()]
    norms = norms.reshape(g.shape).to(v.dtype)
    along_v = (grad * v).sum(axes, keepdim=True) / norms
    return g / norms * (grad - v * along_v / norms), along_v


def vector_norm(x: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if ord == 2 and x.dim():
        return NotImplemented  # as it is: ONNX has it
    return torch._refs.linalg.vector_norm(x, ord, dim, keepdim, dtype=dtype)


def threshold_backward(grad: Tensor, result: Tensor, threshold: float) -> Tensor:
    mask: Tensor = positive(result - threshold if threshold else result)
    return grad * mask


def hardtanh_backward(grad: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    return grad * ((x > low) & (x < high)).to(grad.dtype)


def rrelu(
    x: Tensor, noise: Tensor, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> tuple[Tensor, Tensor]:
    """A leaky ReLU: models run in evaluation mode."""
    return F.leaky_relu(x, (lower + upper) / 2.0), noise


def rrelu_backward(
    grad: Tensor, x: Tensor, noise: Tensor, lower: float, upper: float, training: bool, self_is_result: bool
) -> Tensor:
    return torch.where(x > 0, grad, grad * ((lower + upper) / 2.0))


def atan2(y: Tensor, x: Tensor) -> Tensor:
    """By half the angle: 2 atan(y / (|(x, y)| + x)), or beside the negative axis 2 atan((|(x, y)| - x) / y)."""
    length = torch.hypot(x, y)
    ahead = x >= 0
    upper = torch.where(ahead, y, length - x)
    lower = torch.where(ahead, length + x, y)
    angle = 2.0 * torch.atan(upper / torch.where(lower == 0, 1.0, lower))
    behind = (y == 0) & (x < 0)
    return torch.where(behind, torch.pi, angle)


def hypot(x: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(x * x + y * y)


def bucketize(x: Tensor, bounds: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """How many bounds lie below each value."""
    below = x[..., None] >= bounds if right else x[..., None] > bounds
    return below.sum(-1).to(torch.int32 if out_int32 else torch.int64)


def diag_embed(x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    if (offset, dim1 % (x.dim() + 1), dim2 % (x.dim() + 1)) != (0, x.dim() - 1, x.dim()):
        return NotImplemented
    return x[..., None] * torch.eye(x.shape[-1], dtype=x.dtype)


def diagonal_backward(grad: Tensor, sizes: Sequence[int], offset: int, dim1: int, dim2: int) -> Tensor:
    dim1, dim2 = dim1 % len(sizes), dim2 % len(sizes)
    rows = torch.arange(sizes[dim1])[:, None] + min(offset, 0)
    columns = torch.arange(sizes[dim2])[None] - max(offset, 0)
    places = torch.arange(grad.shape[-1])[:, None, None]
    mask = ((rows == columns) & (rows == places)).to(grad.dtype)  # [length, rows, columns]
    dx = cut(grad @ mask.flatten(1), -1, mask.shape[1:])
    return dx.movedim((-2, -1), (dim1, dim2))


def spread(value: Sequence[int], rank: int) -> list[int]:
    """One value for all axes, or one for each, as one for each."""
    return list(value) * rank if len(value) == 1 else list(value)


def table() -> dict[Any, Callable[..., Any]]:
    """For `make_fx`: ATen's own decompositions into its core operators, and those above."""
    found: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    more: dict[Any, Callable[..., Any]] = get_decompositions(
        [
            aten._native_batch_norm_legit,
            aten.std.correction,
            aten.addmm,
            aten.scatter_add,
            aten.gelu,
            aten.silu,
            aten.logsumexp,
        ]
    )
    found |= more
    for kept in (aten.scatter_add.default, aten.addmm.default, aten.gelu.default):
        found.pop(kept, None)
    found |= {
        aten.convolution_backward.default: convolution_backward,
        aten.avg_pool2d_backward.default: partial(_avg_pool_backward, 2),
        aten.avg_pool3d_backward.default: partial(_avg_pool_backward, 3),
        aten._adaptive_avg_pool2d.default: adaptive_avg_pool,
        aten._adaptive_avg_pool3d.default: adaptive_avg_pool,
        aten._adaptive_avg_pool2d_backward.default: partial(adaptive_avg_pool_backward, 2),
        aten._adaptive_avg_pool3d_backward.default: partial(adaptive_avg_pool_backward, 3),
        aten.adaptive_max_pool2d_backward.default: adaptive_max_pool_backward,
        aten.max_pool2d_with_indices_backward.default: max_pool_backward,
        aten.max_pool3d_with_indices_backward.default: max_pool_backward,
        aten._weight_norm_interface_backward.default: weight_norm_backward,
        aten.native_batch_norm.default: native_batch_norm,
        aten.native_group_norm.default: native_group_norm,
        aten.var_mean.correction: var_mean,
        aten.var.correction: var,
        aten.linalg_vector_norm.default: vector_norm,
        aten.threshold_backward.default: threshold_backward,
        aten.hardtanh_backward.default: hardtanh_backward,
        aten.rrelu_with_noise_functional.default: rrelu,
        aten.rrelu_with_noise_backward.default: rrelu_backward,
        aten.atan2.default: atan2,
        aten.hypot.default: hypot,
        aten.bucketize.Tensor: bucketize,
        aten.diag_embed.default: diag_embed,
        aten.diagonal_backward.default: diagonal_backward,
    }
    return found | PLAIN | padding.TABLE | scans.TABLE | windows.TABLE
