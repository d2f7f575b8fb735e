"""What single modules of a model give, seen or changed in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from trimtab.exporters.steps.model import Model


@contextmanager
def at_outputs(model: Model, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Meanwhile the outputs of those modules, by dotted name, pass through these functions."""
    hooks = [
        model.whole.get_submodule(f"model.{name}").register_forward_hook(partial(_passed, change))
        for name, change in changes.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _passed(change: Callable[[Tensor], Tensor], module: nn.Module, given: Any, output: Tensor) -> Tensor:
    return change(output)
