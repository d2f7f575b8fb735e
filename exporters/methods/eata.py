"""EATA: efficient test-time adaptation without forgetting (Niu, Wu, Zhang, Chen, Zheng, Zhao, Tan: "Efficient Test-Time
Model Adaptation without Forgetting", ICML 2022).

Batch norms use the statistics of the batch. Of each batch those samples are kept that are

- reliable: H(p_n) < E0, with E0 = 0.4 ln C (equation 3), and
- not redundant: |cos(p_n, m)| < d, with m the moving mean of the kept samples' p (equation 5; all are kept while there
  is no m yet).

With weights w_n = exp(E0 - H(p_n)), not differentiated, one step minimises over the norms' weights and biases

    L = 1/K sum_kept w_n H(p_n) + alpha sum_i F_i (theta_i - theta0_i)^2         (equations 2 and 8)

where F is the Fisher diagonal (equation 9) that the exporter computes from source samples with the model's own labels.
Then m <- 0.9 m + 0.1 mean_kept(p); the first kept batch sets it. Where no sample is kept nothing changes: neither
theta nor the optimiser's memory.

Where paper and authors' code differ, the code was taken: K is the number of kept samples (the paper averages over
all), and the cosine counts by its absolute value.

Defaults: those published for CIFAR-10, SGD with momentum 0.9 at 0.005, alpha 1, d 0.4 (the paper's implementation
details; the authors have released nothing for CIFAR-10). Those for ImageNet, which are the authors' released code, are
SGD with momentum 0.9 at 2.5e-4 (batches of 64), alpha 2000, d 0.05: with few classes such a d keeps next to nothing,
since probabilities of ten classes are seldom so far apart. Adam at 1e-3, where it is chosen, is that of Döbler's
collection of methods for CIFAR-10-C (batches of 200, alpha 1, d 0.4).

The authors' `reset()` keeps m; here a reset begins anew with all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.losses import entropy, weighted_mean
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model

SLOWNESS = 0.9
"""Of the moving mean of p."""


def init_state(model: Model) -> State:
    mean = torch.zeros(model.classes)
    return {"theta": model.theta, "prediction": mean, "begun": torch.zeros(()), **model.optimiser.start(model.theta)}


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    limit = hyper["margin"] * torch.log(torch.tensor(float(model.classes)))

    def loss(theta: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = model(theta, inputs)
        h = entropy(y)
        kept = _kept(y.detach(), state, limit, hyper["redundancy"])
        weight = kept * torch.exp(limit - h.detach())
        anchor = (model.source("fisher") * (theta - model.theta) ** 2).sum()
        return weighted_mean(h, weight) + hyper["alpha"] * anchor, (y, kept)

    g, (y, kept) = gradient(loss, state["theta"])
    count = kept.sum()
    some = count > 0
    mean = (torch.softmax(y, 1) * kept[:, None]).sum(0) / count.clamp(min=1.0)
    moved = torch.where(state["begun"] > 0, SLOWNESS * state["prediction"] + (1.0 - SLOWNESS) * mean, mean)
    new = {
        **model.optimiser.update(state, g, hyper, some),
        "prediction": torch.where(some, moved, state["prediction"]),
        "begun": torch.where(some, torch.ones(()), state["begun"]),
    }
    return new, y, {"entropy": entropy(y).mean(), "kept": kept.mean()}


def _kept(y: Tensor, state: State, limit: Tensor, redundancy: Tensor) -> Tensor:
    """1 for each sample that is reliable and not redundant, else 0: `[N]`."""
    reliable = entropy(y) < limit
    p, mean = torch.softmax(y, 1), state["prediction"]
    lengths: Tensor = torch.linalg.vector_norm(p, dim=1) * torch.linalg.vector_norm(mean)
    novel = ((p @ mean).abs() < redundancy * lengths) | (state["begun"] == 0)
    return (reliable & novel).to(y.dtype)


EATA = Method(
    name="eata",
    paper="Niu et al. 2022, Efficient Test-Time Model Adaptation without Forgetting",
    does="minimises the entropy of reliable, new samples, held near the source by Fisher information",
    init_state=init_state,
    step=step,
    hyper={
        "margin": Hyper(0.4, 0.0, 1.0, "greatest entropy of a reliable sample, in units of ln C"),
        "redundancy": Hyper(0.4, 0.0, 1.0, "greatest cosine of a new sample's p with the moving mean of p"),
        "alpha": Hyper(1.0, 0.0, 1e6, "weight of the anchor to the source"),
    },
    rates={"sgd": 5e-3, "adam": 1e-3, "nesterov": 5e-3},
    needs=("fisher",),
)
