"""Functions of PyTorch that a model is given another writing of while it is traced, before gradients are taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from trimtab.exporters.steps.resizing import interpolate


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Of channels that lie last in memory it gives a result of strides of its own, which no graph can say."""
    return F.adaptive_avg_pool2d(input.contiguous(), output_size)


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """Made of indexing, as ATen's own decomposition is: its gradient has none."""
    modes = {name: number for number, name in enumerate(("bilinear", "nearest", "bicubic"))}
    paddings = {name: number for number, name in enumerate(("zeros", "border", "reflection"))}
    if input.dim() != 4:
        return F.grid_sample(input, grid, mode, padding_mode, align_corners)
    sampled: Tensor = torch._decomp.decompositions.grid_sampler_2d(
        input, grid, modes[mode], paddings[padding_mode], bool(align_corners)
    )
    return sampled


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    F.interpolate: interpolate,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
    F.grid_sample: grid_sample,
}


class Rewriting(TorchFunctionMode):
    """While it is on, FUNCTIONS are what they say."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return FUNCTIONS.get(func, func)(*args, **(kwargs or {}))
