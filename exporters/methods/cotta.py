"""CoTTA: continual test-time adaptation (Wang, Fink, Van Gool, Dai: "Continual Test-Time Domain Adaptation", CVPR
2022).

All weights change, of a student theta and a teacher theta'. Batch norms use the statistics of the batch. One step:

1. The teacher's prediction y' of x; where the source model's mean confidence on the batch is below p_th, the mean of
   its predictions of augmented x instead (equations 3 and 4).
2. The student moves by the gradient of mean_n -sum_c softmax(y')_c log softmax(y)_c (equation 1); to the share s of
   that with y and y' changed places.
3. theta' <- 0.999 theta' + 0.001 theta (equation 2).
4. Each weight of the student goes back to the source's with probability 0.01 (equations 5 and 6).

`y` is y'.

Defaults, from the authors' code for CIFAR-10-C: Adam at 1e-3 (batches of 200), p_th 0.92, 32 augmentations, restoration
0.01, s 0. For CIFAR-100-C p_th is 0.72; for ImageNet-C it is SGD with Nesterov momentum at 0.01 (batches of 64), p_th
0.1, 0.001, s 0.5. The code was taken for what the paper leaves open: the teacher follows before weights go back, and
the optimiser remembers those that did. Ours: augmentations are for any signal unless the export asks for the authors',
of images (see `steps.augment`); and all weights change, where their code takes those named weight or bias.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.exporters.steps.chance import uniform
from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.losses import entropy, symmetric
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model
from trimtab.exporters.steps.teacher import AVERAGED, SYMMETRY, followed, prediction

RESTORED = 99
"""The purpose of the draws that say which weights are restored."""


def init_state(model: Model) -> State:
    return {
        "theta": model.theta,
        "teacher": model.theta,
        "count": torch.zeros((), dtype=torch.int64),
        **model.optimiser.start(model.theta),
    }


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    teacher, count = state["teacher"], state["count"]
    target, confidence = prediction(model, model.theta, teacher, inputs, count, hyper)

    def loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        y = model(theta, inputs)
        value = symmetric(y, target, hyper["symmetry"]).mean()
        return value, value

    g, value = gradient(loss, state["theta"])
    new = model.optimiser.update(state, g, hyper)
    average = followed(teacher, new["theta"], hyper["smoothing"])
    back = uniform(len(teacher), count, RESTORED) < hyper["restore"]
    new |= {"teacher": average, "count": count + 1, "theta": torch.where(back, model.theta, new["theta"])}
    metrics = {"entropy": entropy(target).mean(), "loss": value, "confidence": confidence}
    return new, target, metrics


COTTA = Method(
    name="cotta",
    paper="Wang et al. 2022, Continual Test-Time Domain Adaptation",
    does="learns all weights from a slowly moving teacher, and restores some at random",
    init_state=init_state,
    step=step,
    hyper={
        **AVERAGED,
        **SYMMETRY,
        "smoothing": Hyper(0.999, 0.0, 1.0, "how slowly the teacher follows"),
        "restore": Hyper(0.01, 0.0, 1.0, "share of the weights that go back to the source's in each step"),
    },
    changes="all",
    augments=True,
    rates={"adam": 1e-3, "nesterov": 0.01, "sgd": 0.01},
    proof={"augmentations": 4},
    alone="how many views are averaged depends on the stream",
)
