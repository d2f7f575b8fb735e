"""CAFA: class-aware feature alignment (Jung, Lee, Kim, Shaban, Boots, Choo: "CAFA: Class-Aware Feature Alignment for
Test-Time Adaptation", ICCV 2023).

Batch norms use the statistics of the batch. Source features of class c have the mean m_c; S is their covariance within
classes. With the predicted class k_n of sample n and its features f_n, one step minimises over the norms' weights and
biases

    L = log( mean_n D(f_n, m_{k_n})  /  mean_n 1/(C - 1) sum_{c != k_n} D(f_n, m_c) ),    D(f, m) = (f - m)' S^-1 (f -
    m).

`y` is what the model gave before the update.

Our reading, from the paper's abstract and figures: the ratio under the logarithm, the mean over the other classes
(for their sum, L differs by a constant), and one covariance for all classes, shrunk by a tenth, since few source
samples give no invertible one for each. There is no hyperparameter but the optimiser's; the learning rate is Tent's.
A class without any source sample has no mean and is left out of the other classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.losses import entropy
from trimtab.exporters.steps.method import Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model


def init_state(model: Model) -> State:
    return {"theta": model.theta, **model.optimiser.start(model.theta)}


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    known = (model.source("prior") > 0).to(torch.float32)

    def loss(theta: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, features = model.with_features(theta, inputs)
        apart = features[:, None, :] - model.source("class_mean")[None]
        distance = ((apart @ model.source("precision")) * apart).sum(2)
        guess = torch.where(known > 0, y.detach(), torch.full_like(y, -torch.inf)).argmax(1)
        own = (guess[:, None] == torch.arange(model.classes)[None, :]).to(y.dtype)
        other = (1.0 - own) * known
        intra = (own * distance).sum(1).mean()
        inter = ((other * distance).sum(1) / other.sum(1).clamp(min=1.0)).mean()
        value = torch.log(intra / inter)
        return value, (y, value)

    g, (y, value) = gradient(loss, state["theta"])
    return model.optimiser.update(state, g, hyper), y, {"entropy": entropy(y).mean(), "loss": value}


CAFA = Method(
    name="cafa",
    paper="Jung et al. 2023, CAFA: Class-Aware Feature Alignment for Test-Time Adaptation",
    does="moves features towards the source's of the predicted class, and away from those of the others",
    init_state=init_state,
    step=step,
    hyper={},
    rates={"adam": 1e-3, "sgd": 2.5e-4},
    needs=("class_gaussians", "prior"),
)
