"""Other views of a batch, for methods that hold a model to what stays the same in them.

The papers' are of images (jitter of colours, affine maps, blur, noise, flips); for any signal there is a gain and an
offset per sample and channel, and noise: x (1 + 0.1 a) + 0.1 b + 0.05 c with normal a, b, c, in standardised units.
"""

from __future__ import annotations

from torch import Tensor

from trimtab.exporters.steps.chance import normal
from trimtab.exporters.steps.model import Inputs

VIEWS = 1000
"""Most views of one batch in one step."""
GAIN, OFFSET, NOISE = 0.1, 0.1, 0.05
"""Deviations of what an augmentation does, in standardised units."""


def augmented(inputs: Inputs, count: Tensor, number: int | Tensor) -> dict[str, Tensor]:
    """Inputs with another gain, offset and noise; whole numbers (token ids) as they are.

    `count`: int64 scalar, another one each step; `number`: which view of the step, below VIEWS.
    """
    found = {}
    for place, (name, x) in enumerate(inputs.items()):
        if not x.is_floating_point():
            found[name] = x
            continue
        purpose = 3 * (number + VIEWS * place)
        size = x.shape[0] * x.shape[1]
        column = (x.shape[0], x.shape[1], *[1] * (x.dim() - 2))
        gain, offset = (normal(size, count, purpose + i).reshape(column) for i in (0, 1))
        noise = normal(x.numel(), count, purpose + 2).reshape(x.shape)
        found[name] = x * (1.0 + GAIN * gain) + OFFSET * offset + NOISE * noise
    return found
