"""PETAL: probabilistic lifelong test-time adaptation with self-training prior (Brahma and Rai: "A Probabilistic
Framework for Lifelong Test-Time Adaptation", CVPR 2023); of its two variants that with restoration by Fisher
information.

All weights change, of a student theta and a teacher theta'. Batch norms use the statistics of the batch. The source is
known by a posterior of its weights, Gaussian with means mu_i and variances s_i^2, and both begin at mu. One step:

1. The teacher's prediction y' of x; where the source model's mean confidence on the batch is below p_th, the mean of
   its predictions of augmented x instead.
2. The student moves by the gradient g, at theta, of

       L = mean_n -sum_c softmax(y')_c log softmax(y)_c  +  w 1/2 sum_i (theta_i - mu_i)^2 / (s_i^2 + 1e-6)

   (to the share s of the first term with y and y' changed places)

3. theta' <- 0.999 theta' + 0.001 theta.
4. Each weight with g_i^2 below the quantile 0.03 of all g^2 goes back to mu_i.

`y` is y', from before the update.

Where the paper leaves it open, the authors' code was taken: one quantile over all weights together, with linear
interpolation; g is the gradient of all of L; what student and teacher begin with, what weights are restored to, and the
model of the confidence are the posterior's mean (their checkpoint is that of the stochastic weight average).

Defaults, from the authors' configuration for CIFAR-10-C: Adam at 1e-3 (batches of 200), p_th 0.92, 32 augmentations, w
1e-9, teacher 0.999, quantile 0.03, s 0 (ImageNet-C: SGD with Nesterov momentum at 0.01, p_th 0.1, w 1e-11, 0.003, s
0.5).

Ours: where no snapshots of the training are given to the export, those of the posterior are made there, see
`steps.posterior`; augmentations are for any signal unless the export asks for the authors', of images (see
`steps.augment`); and all weights change, where their code takes those named weight or bias.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.losses import entropy, symmetric
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model
from trimtab.exporters.steps.restore import unimportant
from trimtab.exporters.steps.teacher import AVERAGED, SMOOTHING, SYMMETRY, followed, prediction

DAMPING = 1e-6
"""Added to variances."""


def init_state(model: Model) -> State:
    mean = model.source("posterior.mean")
    return {
        "theta": mean,
        "teacher": mean,
        "count": torch.zeros((), dtype=torch.int64),
        **model.optimiser.start(mean),
    }


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    mean, count = model.source("posterior.mean"), state["count"]
    precision = 1.0 / (model.source("posterior.var") + DAMPING)
    target, confidence = prediction(model, mean, state["teacher"], inputs, count, hyper)

    def loss(theta: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        consistency = symmetric(model(theta, inputs), target, hyper["symmetry"]).mean()
        prior = 0.5 * (precision * (theta - mean) ** 2).sum()
        return consistency + hyper["prior"] * prior, (consistency, prior)

    g, (consistency, prior) = gradient(loss, state["theta"])
    new = model.optimiser.update(state, g, hyper)
    back = unimportant(g, hyper["restore"])
    new |= {
        "teacher": followed(state["teacher"], new["theta"], hyper["smoothing"]),
        "theta": torch.where(back, mean, new["theta"]),
        "count": count + 1,
    }
    metrics = {
        "entropy": entropy(target).mean(),
        "loss": consistency,
        "prior": prior,
        "confidence": confidence,
        "restored": back.to(target.dtype).mean(),
    }
    return new, target, metrics


PETAL = Method(
    name="petal",
    paper="Brahma and Rai 2023, A Probabilistic Framework for Lifelong Test-Time Adaptation",
    does="learns all weights from a slowly moving teacher under the source's posterior, and restores unimportant ones",
    init_state=init_state,
    step=step,
    hyper={
        **AVERAGED,
        **SYMMETRY,
        "prior": Hyper(1e-9, 0.0, 1.0, "weight of the source's posterior"),
        "smoothing": Hyper(SMOOTHING, 0.0, 1.0, "how slowly the teacher follows"),
        "restore": Hyper(0.03, 0.0, 1.0, "share of the weights that go back to the source's in each step"),
    },
    changes="all",
    augments=True,
    rates={"adam": 1e-3, "nesterov": 0.01, "sgd": 0.01},
    needs=("posterior",),
    proof={"augmentations": 4, "restore": 0.0},
    alone="how many views are averaged depends on the stream",
)
