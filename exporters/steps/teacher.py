"""A teacher: a second vector of parameters that follows the student's slowly."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.exporters.steps.augment import AUGMENTATIONS, augmented
from trimtab.exporters.steps.model import Inputs, Model


def followed(teacher: Tensor, student: Tensor, smoothing: Tensor) -> Tensor:
    """The teacher `[Q]` after a step: smoothing x teacher + (1 - smoothing) x student."""
    return smoothing * teacher + (1.0 - smoothing) * student


def prediction(
    model: Model, source: Tensor, teacher: Tensor, inputs: Inputs, count: Tensor, limit: Tensor
) -> tuple[Tensor, Tensor]:
    """The teacher's logits `[N, K]`, and the source's mean confidence on the batch (Wang et al. 2022, equations 3, 4).

    Where that confidence is below `limit` they are the mean over augmented views. `count`: see `augmented`.
    """
    confidence = torch.softmax(model(source, inputs), 1).amax(1).mean()
    plain = model(teacher, inputs)
    passes = [model(teacher, augmented(inputs, count, number)) for number in range(AUGMENTATIONS)]
    return torch.where(confidence < limit, torch.stack(passes).mean(0), plain), confidence
