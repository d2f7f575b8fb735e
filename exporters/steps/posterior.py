"""A diagonal Gaussian posterior of the weights, from the trajectory of SGD: SWAG-Diagonal (Maddox, Garipov, Izmailov,
Vetrov, Wilson: "A Simple Baseline for Bayesian Uncertainty in Deep Learning", NeurIPS 2019, section 3.2).

It is made of snapshots of the training's tail. An exporter has a trained module and no tail, so it trains on for two
passes over the source samples, as Brahma and Rai do with their ImageNet model (SGD at 1e-4 with momentum 0.9 and
weight decay 5e-4, four snapshots a pass). Samples without labels have the model's own predictions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.model import Inputs, Labelled, Model
from trimtab.exporters.steps.optimisers import sgd, start_sgd

RATE, MOMENTUM, DECAY = 1e-4, 0.9, 5e-4
PASSES, SNAPSHOTS = 2, 4
"""Over the source samples, and in each pass."""


def posterior(model: Model, batches: Sequence[Labelled]) -> dict[str, Tensor]:
    """`mean` and `var` `[Q]` of the snapshots of all that may change (population variance)."""
    hyper = {"lr": torch.tensor(RATE), "momentum": torch.tensor(MOMENTUM)}
    state = {"theta": model.theta, **start_sgd(model.theta)}
    every = max(len(batches) // SNAPSHOTS, 1)
    mean, spread, count = torch.zeros_like(model.theta), torch.zeros_like(model.theta), 0
    for number in range(PASSES * len(batches)):
        inputs, labels = batches[number % len(batches)]

        def loss(theta: Tensor, inputs: Inputs = inputs, labels: Tensor = labels) -> tuple[Tensor, Tensor]:
            y = model(theta, inputs)
            return F.cross_entropy(y, labels), y

        g, _ = gradient(loss, state["theta"])
        state = sgd(state, g + DECAY * state["theta"], hyper)
        if (number + 1) % every == 0:  # by Welford: a mean of squares less a square has no digits left for the variance
            count += 1
            apart = state["theta"] - mean
            mean = mean + apart / count
            spread = spread + apart * (state["theta"] - mean)
    return {"mean": mean, "var": spread / count}
