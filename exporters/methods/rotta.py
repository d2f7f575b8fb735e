"""RoTTA: robust test-time adaptation (Yuan, Xie, Li: "Robust Test-Time Adaptation in Dynamic Scenarios", CVPR 2023).

For streams whose samples come correlated and whose distribution changes. A student theta learns from a teacher theta',
on a memory of 64 samples that is balanced by class and time. `y` is the teacher's, by its own running statistics.

Each sample, with the teacher's p and u = -sum_c p_c log(p_c + 1e-6) / ln C, is added to the memory (algorithm 1). With
a the number of samples since it came, one in memory has the score

    lambda_t / (1 + exp(-a / 64)) + lambda_u u

- Fewer than 64 / C of its class and a free place: it is added.
- Fewer than 64 / C of its class and no free place: of the classes with most samples that of the highest score is
replaced, if its score is higher than the new sample's (a = 0); else the new one is left out.
- Otherwise: the same, of the samples of its own class.

After every 64 samples of the stream there is a round of learning from the n samples in memory:

1. The teacher's batch norms move: mu' <- (1 - alpha) mu' + alpha mu_batch, likewise the variance, and normalise by what
they moved to; so do the student's, by statistics of their own.
2. theta moves with the gradient of 1/n sum_i E(a_i) CE(teacher(x_i), student(strongly augmented x_i)), with
E(a) = exp(-a / 64) / (1 + exp(-a / 64)). It runs through mu_batch, too.
3. theta' <- (1 - nu) theta' + nu theta.

Defaults, from the authors' code for CIFAR-10-C: Adam at 1e-3, alpha 0.05, nu 0.001, lambda_t = lambda_u = 1. The code
was taken for what the paper leaves open: a batch is predicted before any of its samples is added, and its samples are
added one by one, with rounds of learning between them. Ours: augmentations are for any signal unless the export asks
for the authors', of images (see `steps.augment`); of norms other than batch norms the weights and biases learn, too;
dropout stays off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from trimtab.exporters.steps import memory, running
from trimtab.exporters.steps.gradient import gradient
from trimtab.exporters.steps.losses import cross_entropy, entropy
from trimtab.exporters.steps.memory import CAPACITY, FREE
from trimtab.exporters.steps.method import Hyper, Method, Metrics, State
from trimtab.exporters.steps.model import Inputs, Model, Statistics
from trimtab.exporters.steps.primitives import moments
from trimtab.exporters.steps.teacher import followed


def init_state(model: Model) -> State:
    statistics = running.start(model)
    return {
        **memory.start(model),
        "kept.age": torch.zeros(CAPACITY),
        "kept.doubt": torch.zeros(CAPACITY),
        "theta": model.theta,
        "statistics": statistics,
        "teacher": model.theta,
        "teacher_statistics": statistics,
        **model.optimiser.start(model.theta),
    }


def step(model: Model, state: State, inputs: Inputs, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor, Metrics]:
    y = model(state["teacher"], inputs, running.held(model, state["teacher_statistics"]))
    p = torch.softmax(y, 1)
    doubt = -(p * torch.log(p + 1e-6)).sum(1) / math.log(model.classes)
    facts, add = {"kind": p.argmax(1), "doubt": doubt}, partial(_add, CAPACITY / model.classes)
    new = memory.follow(model, state, inputs, facts, hyper, add, _learn, weighed=("age",))
    held = (new["kept.kind"] != FREE).to(y.dtype).sum()
    return new, y, {"entropy": entropy(y).mean(), "memory": held, "rounds": new["seen"] // CAPACITY}


def _add(share: float, kept: State, new: State, hyper: Mapping[str, Tensor]) -> tuple[State, Tensor]:
    kind, age, doubt = kept["kind"], kept["age"], kept["doubt"]
    own, free, crowd = kind == new["kind"], kind == FREE, memory.crowds(kind)
    # 1 / (1 + exp(-a)) = 1 - 1 / (1 + exp(a)): without the 1, float32 tells old samples apart.
    score = hyper["uncertainty"] * doubt - hyper["timeliness"] / (1.0 + torch.exp(age / CAPACITY))
    limit = hyper["uncertainty"] * new["doubt"] - hyper["timeliness"] / 2.0
    many = own.to(age.dtype).sum() >= share
    replacing = many | ~free.any()
    fitting = torch.where(many, own, crowd == crowd.amax())
    rank = torch.where(replacing, torch.where(fitting, score, -torch.inf), free.to(score.dtype))
    worst = rank.argmax()
    taken = (torch.arange(CAPACITY) == worst) & (~replacing | (rank.amax() > limit))
    return {
        "kind": torch.where(taken, new["kind"], kind),
        "age": torch.where(taken, 0.0, age) + 1.0,
        "doubt": torch.where(taken, new["doubt"], doubt),
    }, taken


def _learn(
    model: Model, state: State, inputs: Inputs, kept: State, number: Tensor, hyper: Mapping[str, Tensor]
) -> State:
    by_teacher, teacher_statistics = _robust(model, state["teacher_statistics"], hyper["alpha"])
    target = model(state["teacher"], inputs, by_teacher)
    weight = torch.sigmoid(-kept["age"] / CAPACITY)

    def loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        by_student, statistics = _robust(model, state["statistics"], hyper["alpha"])
        y = model(theta, model.views(inputs, number, 0), by_student)
        return (weight * cross_entropy(y, target)).mean(), running.joined(statistics)

    g, statistics = gradient(loss, state["theta"])
    new = model.optimiser.update(state, g, hyper)
    return {
        **new,
        "statistics": statistics,
        "teacher": followed(state["teacher"], new["theta"], 1.0 - hyper["nu"]),
        "teacher_statistics": running.joined(teacher_statistics),
    }


def _robust(model: Model, statistics: Tensor, alpha: Tensor) -> tuple[Statistics, running.ByLayer]:
    """For batch norms that move their statistics and normalise by them; and where these are found after a pass."""
    found = running.by_layer(model, statistics)

    def by(layer: str, x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        batch_mean, batch_var, _ = moments(x)
        before_mean, before_var = found[layer]
        found[layer] = (
            (1.0 - alpha) * before_mean + alpha * batch_mean,
            (1.0 - alpha) * before_var + alpha * batch_var,
        )
        return found[layer]

    return by, found


ROTTA = Method(
    name="rotta",
    paper="Yuan, Xie and Li 2023, Robust Test-Time Adaptation in Dynamic Scenarios",
    does="learns from a slowly moving teacher on a memory balanced by class and time; for correlated streams",
    init_state=init_state,
    step=step,
    hyper={
        "alpha": Hyper(0.05, 0.0, 1.0, "share of the memory's statistics in those of the norms"),
        "nu": Hyper(0.001, 0.0, 1.0, "share of the student in the teacher"),
        "timeliness": Hyper(1.0, 0.0, 100.0, "weight of a sample's age where one must leave the memory"),
        "uncertainty": Hyper(1.0, 0.0, 100.0, "weight of a sample's entropy where one must leave the memory"),
    },
    augments=True,
    rates={"adam": 1e-3, "sgd": 1e-3},
    alone="how often it learns depends on the stream",
)
