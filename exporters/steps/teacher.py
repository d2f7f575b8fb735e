"""A teacher: a second vector of parameters that follows the student's slowly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.loops import Groups, repeat
from trimtab.exporters.steps.losses import symmetric
from trimtab.exporters.steps.method import Hyper
from trimtab.exporters.steps.model import Inputs, Labelled, Model

SMOOTHING = 0.999
"""How slowly teachers follow, in all papers."""


def followed(teacher: Tensor, student: Tensor, smoothing: Tensor) -> Tensor:
    """The teacher `[Q]` after a step: smoothing x teacher + (1 - smoothing) x student. One that is its student's equal
    stays so to the last bit: of a difference by rounding alone Adam would make whole steps."""
    return teacher + (1.0 - smoothing) * (student - teacher)


def prediction(
    model: Model, source: Tensor, teacher: Tensor, inputs: Inputs, count: Tensor, hyper: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The teacher's logits `[N, K]`, and the source's mean confidence on the batch (Wang et al. 2022, equations 3, 4).

    Where that is below `hyper["confidence"]` they are the mean over `hyper["augmentations"]` augmented views. `count`:
    see `augment.Views`.
    """
    confidence = torch.softmax(model(source, inputs), 1).amax(1).mean()
    plain = model(teacher, inputs)
    views = torch.where(confidence < hyper["confidence"], hyper["augmentations"].to(torch.int64), 0)

    def view(carried: dict[str, Tensor], given: Groups) -> dict[str, Tensor]:
        own, number = model.bound(given["constants"]), carried["number"]
        seen = own.views(given["inputs"], given["known"]["count"], number)
        return {"total": carried["total"] + own(given["known"]["teacher"], seen), "number": number + 1}

    begin = {"total": torch.zeros_like(plain), "number": torch.zeros_like(count)}
    known = {"teacher": teacher, "count": count}
    end = repeat(views, view, begin, {"constants": model.constants, "inputs": inputs, "known": known})
    return torch.where(views > 0, end["total"] / views.clamp(min=1), plain), confidence


AVERAGED = {
    "confidence": Hyper(0.92, 0.0, 1.0, "mean confidence of the source model below which augmentations are averaged"),
    "augmentations": Hyper(32.0, 1.0, 1000.0, "how many are averaged, each a pass through the model"),
}
"""Hyperparameters of `prediction`."""
SYMMETRY = {"symmetry": Hyper(0.0, 0.0, 1.0, "share of the teacher's cross-entropy to the student; 0.5 for ImageNet-C")}


def warmed_up(model: Model, batches: Sequence[Labelled], rate: float) -> dict[str, Tensor]:
    """Student `theta`, `teacher` and the optimiser's memory after one pass over source batches (Döbler et al. 2023).

    The student learns from its teacher by the symmetric cross-entropy, at a rate that rises linearly to `rate`.
    """
    hyper = {name: torch.tensor(default) for name, (default, *_) in model.optimiser.hyper.items()}
    state = {"theta": model.theta, **model.optimiser.start(model.theta)}
    teacher = model.theta
    for number, (inputs, _) in enumerate(batches, 1):
        target = model(teacher, inputs)

        def loss(theta: Tensor, inputs: Inputs = inputs, target: Tensor = target) -> tuple[Tensor, Tensor]:
            y = model(theta, inputs)
            return symmetric(y, target).mean(), y

        g, _ = gradient(loss, state["theta"])
        state = model.optimiser.update(state, g, {**hyper, "lr": torch.tensor(rate * number / len(batches))})
        teacher = followed(teacher, state["theta"], torch.tensor(SMOOTHING))
    return {**state, "teacher": teacher}
