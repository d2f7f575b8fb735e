"""Other views of a batch, for methods that hold a model to what stays the same in them.

For any signal there is a gain and an offset per sample and channel, and noise: x (1 + 0.1 a) + 0.1 b + 0.05 c with
normal a, b, c, in standardised units. Images can have those of the papers instead, see `images`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from trimtab.exporters.marked import Marked
from trimtab.exporters.steps import images
from trimtab.exporters.steps.chance import normal
from trimtab.exporters.steps.channels import along
from trimtab.runtime.errors import ExportError

Views = Callable[[Mapping[str, Tensor], Tensor, int | Tensor], dict[str, Tensor]]
"""(standardised inputs, int64 scalar that is another one each step, which view of the step, below VIEWS) -> the inputs
of another view."""
VIEWS = 1000
"""Most views of one batch in one step."""
GAIN, OFFSET, NOISE = 0.1, 0.1, 0.05
"""Deviations of what an augmentation does, in standardised units."""


def augmented(inputs: Mapping[str, Tensor], count: Tensor, number: int | Tensor) -> dict[str, Tensor]:
    """Inputs with another gain, offset and noise; whole numbers (token ids) as they are. Of type `Views`."""
    found = {}
    for place, (name, x) in enumerate(inputs.items()):
        if not x.is_floating_point():
            found[name] = x
            continue
        purpose = _purpose(place, number)
        size = x.shape[0] * x.shape[1]
        column = (x.shape[0], x.shape[1], *[1] * (x.dim() - 2))
        gain, offset = (normal(size, count, purpose + i).reshape(column) for i in (0, 1))
        noise = normal(x.numel(), count, purpose + 2).reshape(x.shape)
        found[name] = x * (1.0 + GAIN * gain) + OFFSET * offset + NOISE * noise
    return found


def of_images(marked: Marked) -> Views:
    """Views of inputs that are images of three colours from 0 to 1, in sensor units. Raises ExportError where one is
    not `[3, H, W]`."""
    units: dict[str, tuple[list[float], list[float]]] = {}
    for entry in marked.inputs:
        if len(entry.shape) != 3 or entry.shape[0] != 3 or entry.name in marked.integers:
            raise ExportError(
                f"views: {entry.name} is {entry.shape} and no image of three colours, [3, H, W]; leave 'images' out"
            )
        units[entry.name] = (entry.mean or [0.0] * 3, entry.std or [1.0] * 3)

    def views(inputs: Mapping[str, Tensor], count: Tensor, number: int | Tensor) -> dict[str, Tensor]:
        found = {}
        for place, (name, x) in enumerate(inputs.items()):
            mean, std = (along(torch.tensor(value), 4) for value in units[name])
            found[name] = (images.view(x * std + mean, count, _purpose(place, number)) - mean) / std
        return found

    return views


def _purpose(place: int, number: int | Tensor) -> int | Tensor:
    """The first of three: see `chance.normal`."""
    return 3 * (number + VIEWS * place)
