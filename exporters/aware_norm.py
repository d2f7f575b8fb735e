"""Instance-aware batch norms (Gong, Jeong, Kim, Kim, Shin, Lee: "NOTE: Robust Continual Test-time Adaptation Against
Temporal Correlation", NeurIPS 2022, section 3.1), for the training of a model that is to have NOTE on the box.

    model = trimtab.exporters.instance_aware(model)  # before it is trained

NOTE's authors train the source model with them. With the mean mu and variance v of a channel (the batch's in training,
the running ones after it), and mu_i and v_i of one sample's L values of it, the sample is normalised by

    mu + shrink(mu_i - mu, k sqrt((v + eps) / L))
    max(0, v + shrink(v_i - v, k (v + eps) sqrt(2 / (L - 1))))

where shrink(x, t) = sign(x) max(0, |x| - t); where L = 1 (no time or space axis) by mu and v. As in the authors' code
variances are unbiased (n - 1), and k is 4.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trimtab.exporters.steps.channels import others

K = 4.0


class InstanceAwareNorm(nn.Module):
    """In place of the batch norm that it holds as `norm`, whose running statistics, weight and bias are its own."""

    def __init__(self, norm: _BatchNorm, k: float = K) -> None:
        super().__init__()
        self.norm = norm
        self.k = k
        self.around: tuple[Tensor, Tensor] | None = None
        """The running statistics as trained, in an export: there the norm's may be set anew."""

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self.norm
        if norm.training:
            norm(x)  # moves its running statistics
            mean, var = x.mean(others(x.dim())), x.var(others(x.dim()))
        else:
            mean, var = self.around or (norm.running_mean, norm.running_var)
        own_mean, own_var = (wide(v, x) for v in shrunk(x, mean, var, norm.eps, self.k))
        y = (x - own_mean) * torch.rsqrt(own_var + norm.eps)
        if norm.training:
            return y if norm.weight is None else y * wide(norm.weight, x) + wide(norm.bias, x)
        # Such that the norm, by its statistics, gives what is wanted: an export finds a batch norm like any other.
        found: Tensor = norm(y * wide(torch.sqrt(var + norm.eps), x) + wide(mean, x))
        return found

    def fix(self) -> None:
        self.around = (self.norm.running_mean.clone(), self.norm.running_var.clone())  # type: ignore[union-attr]


def shrunk(x: Tensor, mean: Tensor, var: Tensor, eps: float, k: Any) -> tuple[Tensor, Tensor]:
    """By what each sample of `x [N, C, ...]` is normalised, `[N, C]`, around `mean` and `var [C]`; these where a sample
    has one value of each channel."""
    size = math.prod(x.shape[2:])
    if size == 1:
        return mean, var
    values = x.flatten(2)
    own_mean = values.mean(2)
    own_var = ((values - own_mean[:, :, None]) ** 2).sum(2) / (size - 1)
    spread = var + eps
    own_var = var + _shrink(own_var - var, k * spread * math.sqrt(2.0 / (size - 1)))
    return mean + _shrink(own_mean - mean, k * torch.sqrt(spread / size)), torch.relu(own_var)


def _shrink(x: Tensor, by: Tensor) -> Tensor:
    return torch.relu(x - by) - torch.relu(-x - by)


def wide(value: Tensor, x: Tensor) -> Tensor:
    """`[C]` or `[N, C]`, to be broadcast over `x [N, C, ...]`."""
    return value.reshape([*([1] if value.dim() == 1 else []), *value.shape, *[1] * (x.dim() - 2)])


def instance_aware(model: nn.Module, k: float = K) -> nn.Module:
    """`model` with an `InstanceAwareNorm` in place of each of its batch norms; of a batch norm itself, one.

    Like `torch.nn.SyncBatchNorm.convert_sync_batchnorm` it changes the model in place. `k`: see above.
    """
    if isinstance(model, _BatchNorm):
        return InstanceAwareNorm(model, k)
    for name, child in model.named_children():
        if not isinstance(child, InstanceAwareNorm):
            setattr(model, name, instance_aware(child, k))
    return model
