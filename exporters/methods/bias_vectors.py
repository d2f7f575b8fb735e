"""Bias vectors: a vector added to the output of each of some named modules, all of them together of low rank.

`changes` names the modules: blocks, layers, or the router of a mixture of experts, whose logits a vector shifts (Su,
Yang, Shen, Yin, Liu, Geiping: "Rewiring Experts on the Fly: Continuous Rerouting for Better Online Adaptation in
Mixture-of-Expert models", 2025). By default they are the norms. Norms keep the source's statistics. The vectors b,
one after another, and what is learnt, z of at most 16 numbers:

    b = U z;    z <- z - lr grad L,    L = w_H mean_n H(p_n) + w_A D                   (FOA's fitness: equation 5 of
    D = mean_f ((m_f - m_S,f) / s_S,f)^2 + ((s_f - s_S,f) / s_S,f)^2                   Niu et al., ICML 2024)

with the mean m and deviation s of the batch's features before the last layer, and m_S, s_S those of the source. `y` is
what the model gave before the update. With w_H = 0 it learns by alignment alone, with w_A = 0 by entropy alone. A
regression has no entropy: there L = w_A D.

U holds the directions in which the modules' outputs vary most over source samples, computed by the exporter: the
principal components of their means per channel, in units of each channel's deviation; z_j = 1 is one deviation along
the j-th. The outputs' channels are on axis 1, or on the last one for tokens (`steps.additive`).

Ours: the papers have no basis (their vectors are free), and FOA searches by CMA-ES what is learnt by gradients here;
the principal components make few numbers enough. D is in units of the source's deviations and a mean over features,
where FOA has a norm (in its code, a sum of squares, over all layers), so that its weight fits any model. The rates are
ours, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.exporters.steps.additive import RANK
from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.losses import entropy, misfit
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model, source_statistics


def init_state(model: Model) -> State:
    z = torch.zeros(model.source("basis").shape[1])
    return {**model.optimiser.start(z), "theta": model.theta, "coordinates": z}


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    whole = model.source("basis")
    basis = whole * (torch.arange(whole.shape[1]) < hyper["rank"]).to(whole.dtype)

    def loss(z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, features = model.with_features(basis @ z, inputs, source_statistics)
        apart = misfit(features, model.source("feature_mean"), model.source("feature_deviation"))
        value = hyper["alignment"] * apart
        if model.classes:
            value = value + hyper["entropy"] * entropy(y).mean()
        return value, (y, apart)

    g, (y, apart) = gradient(loss, state["coordinates"])
    new = model.optimiser.update({**state, "theta": state["coordinates"]}, g, hyper)
    z = new["theta"]
    metrics = {"misfit": apart} | ({"entropy": entropy(y).mean()} if model.classes else {})
    return {**new, "theta": basis @ z, "coordinates": z}, y, metrics


BIAS_VECTORS = Method(
    name="bias_vectors",
    paper="Su et al. 2025, Rewiring Experts on the Fly; Niu et al. 2024, Test-Time Model Adaptation with Only Forward "
    "Passes",
    does="adds low-rank vectors to the outputs of modules, learnt by entropy and the alignment of features",
    init_state=init_state,
    step=step,
    hyper={
        "entropy": Hyper(1.0, 0.0, 100.0, "weight of the entropy; nothing in a regression"),
        "alignment": Hyper(1.0, 0.0, 100.0, "weight of the features' misfit to the source's mean and deviation"),
        "rank": Hyper(float(RANK), 1.0, float(RANK), "how many directions are used"),
    },
    changes="norms",
    rates={"adam": 0.01, "sgd": 0.01},
    needs=("feature_moments",),
    adds=True,
    regression=True,
)
