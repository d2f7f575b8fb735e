"""PSMT: parameter-selective mean teacher (Tian and Lyu: "Parameter-Selective Continual Test-Time Adaptation", ACCV
2024).

All weights change, of a student theta and a teacher theta'. Batch norms use the statistics of the batch. theta0 are the
source's weights, F the diagonal of their Fisher information. One step, with y of the student and y' of the teacher:

1. The student moves by the gradient g, at theta, of

       L = mean_n (H(y', y)_n + H(y, y')_n) / 2  +  500 sum_i F_i (theta_i - theta0_i)^2

   with H(a, b)_n = -sum_c softmax(a_n)_c log softmax(b_n)_c.

2. m_i = 1 where g_i^2 is below the quantile 0.03 of all g^2, else 0, and theta <- m theta0 + (1 - m) theta.
3. theta' <- m theta + (1 - m) (0.999 t + 0.001 theta), where t = 0.999 theta' + 0.001 (theta before 2).

`y` is y + y', both from before the update.

Paper and the authors' code differ, and the code was taken:

- The paper holds theta to the previous step's, with the Fisher information of that step. With one gradient a batch that
  term's gradient is 0: theta is there. The code holds it to the source's, with the source's information.
- The paper keeps masked weights of the teacher as they are; in the code they become the student's, which have just
  been restored. The teacher follows all weights first, so that the others follow twice.
- The paper's second half of the consistency is of an augmented batch, and the teacher averages augmentations of batches
  that the source model is unsure of. The code has these lines, but gives them the plain batch, so that they come to
  the one term above.

Defaults, from the authors' code: Adam at 1e-3, weight 500, teacher 0.999, quantile 0.03. Ours: F is made of at most
2,000 source samples in batches of 64, theirs of 10,000 in batches of the test's size; and all weights change, where
their code takes those named weight or bias.
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
from trimtab.exporters.steps.teacher import SMOOTHING, followed


def init_state(model: Model) -> State:
    return {"theta": model.theta, "teacher": model.theta, **model.optimiser.start(model.theta)}


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    theirs = model(state["teacher"], inputs)

    def loss(theta: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = model(theta, inputs)
        consistency = symmetric(y, theirs).mean()
        anchor = (model.source("fisher") * (theta - model.theta) ** 2).sum()
        return consistency + hyper["anchor"] * anchor, (y, consistency)

    g, (y, consistency) = gradient(loss, state["theta"])
    new = model.optimiser.update(state, g, hyper)
    back = unimportant(g, hyper["restore"])
    average = followed(state["teacher"], new["theta"], hyper["smoothing"])
    theta = torch.where(back, model.theta, new["theta"])
    new |= {"theta": theta, "teacher": torch.where(back, theta, followed(average, theta, hyper["smoothing"]))}
    both = y + theirs
    metrics = {"entropy": entropy(both).mean(), "loss": consistency, "restored": back.to(y.dtype).mean()}
    return new, both, metrics


PSMT = Method(
    name="psmt",
    paper="Tian and Lyu 2024, Parameter-Selective Continual Test-Time Adaptation",
    does="learns all weights from a slowly moving teacher, and restores unimportant ones in both",
    init_state=init_state,
    step=step,
    hyper={
        "anchor": Hyper(500.0, 0.0, 1e6, "weight of the anchor to the source"),
        "smoothing": Hyper(SMOOTHING, 0.0, 1.0, "how slowly the teacher follows"),
        "restore": Hyper(0.03, 0.0, 1.0, "share of the weights that go back to the source's in each step"),
    },
    changes="all",
    rates={"adam": 1e-3, "nesterov": 0.01, "sgd": 0.01},
    needs=("fisher",),
    proof={"restore": 0.0},
)
