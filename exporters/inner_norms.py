"""Norms with a forward of their own: a norm and an activation in one module, a layer norm between two permutations.

Their classes derive from PyTorch's norms, and their forwards call `torch.nn.functional.batch_norm` and its like with
the module's own values. That call is led to a plain norm module inside, which then is like any other norm.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
PLAIN_FORWARDS = (
    _BatchNorm.forward,
    nn.SyncBatchNorm.forward,
    _InstanceNorm.forward,
    nn.GroupNorm.forward,
    nn.LayerNorm.forward,
)
FUNCTIONS: tuple[Callable[..., Tensor], ...] = (F.batch_norm, F.instance_norm, F.group_norm, F.layer_norm)

INNER = "norm"
"""What the plain norm is called inside of the module."""


def loose(module: nn.Module) -> bool:
    """Whether a module is a norm by its class's name and by what it holds (a weight for each channel, perhaps a bias,
    nothing else), but of no kind that a bundle knows: an RMS norm."""
    held = dict(module.named_parameters())
    return (
        "norm" in type(module).__name__.lower()
        and not isinstance(module, NORMS)
        and "weight" in held
        and set(held) <= {"weight", "bias"}
        and all(value.dim() == 1 for value in held.values())
    )


def reroute(module: nn.Module) -> bool:
    """Give `module`, a norm with a forward of its own, a plain norm inside that the forward then uses.

    Both hold the same values. False, and nothing is done, where the module has something of that name.
    """
    if hasattr(module, INNER):
        return False
    plain: Any = next(c for c in type(module).__mro__ if getattr(c, "forward", None) in PLAIN_FORWARDS)
    inner: nn.Module = plain.__new__(plain)
    for key, value in module.__dict__.items():
        inner.__dict__[key] = value.copy() if isinstance(value, dict) else value
    inner._modules = {}
    module.forward = Rerouted(module)
    module.add_module(INNER, inner)
    return True


@dataclass
class Rerouted:
    """A forward of its own, run so that its call of a norm function becomes one of the plain norm."""

    module: nn.Module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Calls(self.module):
            return type(self.module).forward(self.module, *args, **kwargs)


class _Calls(TorchFunctionMode):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FUNCTIONS:
            bound = inspect.signature(func).bind(*args, **kwargs)
            bound.apply_defaults()
            if _is_of(self.module, bound.arguments):
                return getattr(self.module, INNER)(bound.arguments["input"])
        return func(*args, **kwargs)


def _is_of(module: nn.Module, given: dict[str, Any]) -> bool:
    """Whether a norm function was called with the values of `module` and does what the plain norm does."""
    of_batch = given.get("training", False) or given.get("use_input_stats", False)
    return (
        all(given[p] is getattr(module, p) for p in ("weight", "bias", "running_mean", "running_var") if p in given)
        and given["eps"] == module.eps
        and of_batch == ("use_input_stats" in given and module.running_mean is None)
        and given.get("num_groups") == getattr(module, "num_groups", None)
        and tuple(given.get("normalized_shape", ())) == tuple(getattr(module, "normalized_shape", ()))
    )
