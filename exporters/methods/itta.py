"""ITTA: improved test-time adaptation (Chen, Zhang, Song, Shan, Liu: "Improved Test-Time Adaptation for Domain
Generalization", CVPR 2023).

Nothing of the model itself changes. Blocks a x + b, with parameters of each value, stand after four of its layers. With
the features f(x) before the last layer, x' another view of x, and a learnt weighing w, a step moves the blocks by the
gradient of

    s mean |w(f(x') - f(x))|^2

and `y` is predicted with the blocks after that. Norms keep the source's statistics.

Source training, by the exporter from labelled source batches (with the model's own predictions where there are no
labels): in turns (a) the blocks learn CE(f(x)) + CE(f(x')) + mean |w(f(x') - f(x))|^2; (b) w learns to make the blocks'
gradient of the last of these point where that of the first two points: 0.1 times the mean square between both, each
brought to mean 0 and deviation 1. See `exporters.steps.consistency`.

Defaults, from the authors' code: w of ten maps with ReLUs between, Adam at 0.1 times the source's rate of 1e-3 (that
for small images), s 1e-6 (0.1 for DomainNet). With Adam s matters only against its 1e-8: small gradients hardly move
anything. Where paper and code differ, the code was taken: x' enters the loss by f(x') - f(x), and a batch is predicted
after it has been learnt from.

Ours: the model is given, so that in source training the blocks stand for the network whose weights learn in (a) there,
and w aligns the gradients of what will move. After each of a ResNet's four stages the authors put five maps with ReLUs
between, which leave only activations that are not negative as they are; here a block is one map, after each of up to
four norms that are spread evenly. x' is an augmented x (see `steps.augment`), where they mix statistics of feature maps
between samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.exporters.steps.blocks import BLOCKS, through_blocks
from trimtab.exporters.steps.consistency import inconsistency
from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.losses import entropy
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model


def init_state(model: Model) -> State:
    blocks = model.source("consistency.blocks")
    return {"theta": blocks, "count": torch.zeros((), dtype=torch.int64), **model.optimiser.start(blocks)}


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    view = model.views(inputs, state["count"], 0)

    def loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        (_, features), (_, others) = (through_blocks(model, theta, x) for x in (inputs, view))
        value = inconsistency(model.source("consistency.weighing"), features, others)
        return hyper["scale"] * value, value

    g, value = gradient(loss, state["theta"])
    new = {**model.optimiser.update(state, g, hyper), "count": state["count"] + 1}
    y, _ = through_blocks(model, new["theta"], inputs)
    return new, y, {"entropy": entropy(y).mean(), "loss": value}


ITTA = Method(
    name="itta",
    paper="Chen et al. 2023, Improved Test-Time Adaptation for Domain Generalization",
    does="moves added blocks so that features stay the same under augmentation, by a distance learnt from the source",
    init_state=init_state,
    step=step,
    hyper={"scale": Hyper(1e-6, 0.0, 1e3, "factor of the loss")},
    changes=BLOCKS,
    augments=True,
    rates={"adam": 1e-4, "sgd": 1e-4},
    needs=("consistency",),
)
