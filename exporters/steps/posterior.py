"""A diagonal Gaussian posterior of the weights, from the trajectory of SGD: SWAG-Diagonal (Maddox, Garipov, Izmailov,
Vetrov, Wilson: "A Simple Baseline for Bayesian Uncertainty in Deep Learning", NeurIPS 2019, section 3.2).

It is made of snapshots of the training's tail. Who trained the model can give them to the export; the paper takes one
an epoch, at a constant and rather high learning rate. Else the export trains on for two passes over the source samples,
as Brahma and Rai do with their ImageNet model (SGD at 1e-4 with momentum 0.9 and weight decay 5e-4, four snapshots a
pass). Samples without labels have the model's own predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.model import Inputs, Labelled, Model
from trimtab.exporters.steps.optimisers import sgd, start_sgd

RATE, MOMENTUM, DECAY = 1e-4, 0.9, 5e-4
PASSES, SNAPSHOTS = 2, 4
"""Over the source samples, and in each pass."""

Weights = Mapping[str, Tensor]
"""A model's parameters by dotted name."""


def posterior(model: Model, batches: Sequence[Labelled], given: Sequence[Weights]) -> dict[str, Tensor]:
    """`mean` and `var` `[Q]` of all that may change (population variance): over the snapshots that are given, or where
    there is none, over those of further training."""
    taken = (_flat(model, weights) for weights in given) if given else _trained(model, batches)
    return _spread(taken)


def _flat(model: Model, weights: Weights) -> Tensor:
    dotted = {name: key.removeprefix("model.") for key, name in model.keys.items()}
    return torch.cat([weights[dotted[part.name]].detach().reshape(-1) for part in model.parts])


def _trained(model: Model, batches: Sequence[Labelled]) -> Iterator[Tensor]:
    hyper = {"lr": torch.tensor(RATE), "momentum": torch.tensor(MOMENTUM)}
    state = {"theta": model.theta, **start_sgd(model.theta)}
    every = max(len(batches) // SNAPSHOTS, 1)
    for number in range(PASSES * len(batches)):
        inputs, labels = batches[number % len(batches)]

        def loss(theta: Tensor, inputs: Inputs = inputs, labels: Tensor = labels) -> tuple[Tensor, Tensor]:
            y = model(theta, inputs)
            return F.cross_entropy(y, labels), y

        g, _ = gradient(loss, state["theta"])
        state = sgd(state, g + DECAY * state["theta"], hyper)
        if (number + 1) % every == 0:
            yield state["theta"]


def _spread(vectors: Iterable[Tensor]) -> dict[str, Tensor]:
    """By Welford: a mean of squares less a square has no digits left for the variance."""
    mean, total = torch.zeros(()), torch.zeros(())
    for count, vector in enumerate(vectors, 1):
        apart = vector - mean
        mean = mean + apart / count
        total = total + apart * (vector - mean)
    return {"mean": mean, "var": total / count}
