"""NOTE: non-i.i.d. test-time adaptation (Gong, Jeong, Kim, Kim, Shin, Lee: "NOTE: Robust Continual Test-time Adaptation
Against Temporal Correlation", NeurIPS 2022).

For streams whose samples come correlated. Batch norms are instance-aware (section 3.1): with the mean mu and variance v
of a channel's running statistics, and mu_i and v_i of one sample's L values of it, the sample is normalised by

    mu + shrink(mu_i - mu, k sqrt((v + eps) / L))
    max(0, v + shrink(v_i - v, k (v + eps) sqrt(2 / (L - 1))))

where shrink(x, t) = sign(x) max(0, |x| - t); where L = 1 (a norm without a time or space axis) by mu and v. `y` is so
predicted, whatever else is in the batch.

Each sample is added to a memory of 64 samples that is balanced by predicted class (section 3.2, algorithm 1), with n_c
the number of samples of class c that have come, m_c of those in memory: while a place is free it is added; where its
class is among those with most samples in memory, it takes the place of a random one of them with probability m_c / n_c,
and is else left out; where it is not, it takes the place of a random one of a random class with most.

After every 64 samples of the stream there is a round of learning from the memory: one step on the mean entropy over the
norms' weights and biases. In it mu and v are the memory's own, and the running statistics move by them:
mu <- (1 - m) mu + m mu_batch, likewise the variance.

Defaults, from the authors' code: Adam at 1e-4, k 4, momentum m 0.01. Where the paper is silent the code was taken:
variances are unbiased (n - 1); the loss is the entropy -p log(p + 1e-6), averaged over classes as well as samples. The
authors train the source model with instance-aware norms: give one that was (see `trimtab.exporters.instance_aware`). In
a model that was trained with plain batch norms they take the place of those. Ours: a batch is predicted before any of
its samples is added, with rounds of learning between them (theirs has one sample at a time: the same where no round
ends within a batch).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.exporters.aware_norm import shrunk
from trimtab.exporters.steps import memory, running
from trimtab.exporters.steps.chance import each
from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.losses import entropy
from trimtab.exporters.steps.memory import CAPACITY, FREE
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model, Statistics
from trimtab.exporters.steps.primitives import moments


def init_state(model: Model) -> State:
    return {
        **memory.start(model),
        "kept.seen": torch.zeros(model.classes),
        "theta": model.theta,
        "statistics": running.start(model),
        **model.optimiser.start(model.theta),
    }


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    found = running.by_layer(model, state["statistics"])
    y = model(state["theta"], inputs, _aware(model, found, hyper["k"], learning=False))
    kind = y.argmax(1)
    number = state["seen"] + torch.cumsum(torch.ones_like(kind), 0)
    facts = {"kind": kind, "chance": each(number, 0).to(y.dtype), "choice": each(number, 1).to(y.dtype)}
    new = memory.follow(model, state, inputs, facts, hyper, _add, _learn)
    held = (new["kept.kind"] != FREE).to(y.dtype).sum()
    return new, y, {"entropy": entropy(y).mean(), "memory": held, "rounds": new["seen"] // CAPACITY}


def _add(kept: State, new: State, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor]:
    kind, seen = kept["kind"], kept["seen"]
    seen = seen + (torch.arange(len(seen)) == new["kind"]).to(seen.dtype)
    own, free, crowd = kind == new["kind"], kind == FREE, memory.crowds(kind)
    most = crowd == crowd.amax()
    full, among = ~free.any(), (own & most).any()
    fitting = torch.where(full, torch.where(among, own, most), free)
    which = torch.floor(new["choice"] * fitting.to(seen.dtype).sum()) * full.to(seen.dtype) + 1.0
    share = own.to(seen.dtype).sum() / seen.index_select(0, new["kind"])
    enters = ~(full & among) | (new["chance"] <= share)
    taken = fitting & (torch.cumsum(fitting.to(seen.dtype), 0) == which) & enters
    return {"kind": torch.where(taken, new["kind"], kind), "seen": seen}, taken


def _learn(
    model: Model, state: State, inputs: Inputs, kept: State, number: Tensor, hyper: Mapping[str, Tensor]
) -> State:
    def loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        batch = running.by_layer(model, state["statistics"])
        p = torch.softmax(model(theta, inputs, _aware(model, batch, hyper["k"], learning=True)), 1)
        return -(p * torch.log(p + 1e-6)).mean(), running.joined(batch)

    g, batch = gradient(loss, state["theta"])
    moved = (1.0 - hyper["momentum"]) * state["statistics"] + hyper["momentum"] * batch
    return {**model.optimiser.update(state, g, hyper), "statistics": moved}


def _aware(model: Model, found: running.ByLayer, k: Tensor, learning: bool) -> Statistics:
    """For instance-aware norms around the statistics found there; when `learning`, around the batch's, which are then
    found there."""
    eps = {layer.name: layer.eps for layer in model.layers}

    def by(layer: str, x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        if learning:
            batch_mean, batch_var, _ = moments(x)
            count = x.numel() // x.shape[1]
            found[layer] = batch_mean, batch_var * count / (count - 1)
        return shrunk(x, *found[layer], eps[layer], k)

    return by


NOTE = Method(
    name="note",
    paper="Gong et al. 2022, NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation",
    does="normalises each sample by itself where it differs much, and minimises entropy on a balanced memory",
    init_state=init_state,
    step=step,
    hyper={
        "k": Hyper(4.0, 0.0, 1000.0, "standard errors by which a sample's own statistics may differ without effect"),
        "momentum": Hyper(0.01, 0.0, 1.0, "share of the memory's statistics in those of the norms"),
    },
    rates={"adam": 1e-4, "sgd": 1e-4},
    alone="how often it learns depends on the stream",
)
